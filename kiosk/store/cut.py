"""Cuts a file into objects: blocks that the repository does not have go into new packs, then an index.

* A pack or an index is in the store, durably, before anything that names it is written or remembered.
* The same file and the same known blocks give the same objects; a publish that was interrupted can be run
  again and finds the objects that it had written.
* Memory stays bounded whatever the file's size; hashing and compressing use all cores.
* A cold reader of the file fetches at most 1.2 times what it would if nothing else had ever been published:
  blocks of old packs that are hardly used are stored once more, in a second pass (see `repack`).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from kiosk.errors import CorruptError
from kiosk.model.manifest import Object
from kiosk.store.index import Index, Tree, encode
from kiosk.store.known import KnownBlocks
from kiosk.store.objects import ObjectStore, Progress, quiet
from kiosk.store.older import Older
from kiosk.store.packer import Packer
from kiosk.store.regions import Regions, digest_of_regions


def publish_file(
    path: Path,
    store: ObjectStore,
    known: KnownBlocks,
    progress: Progress = quiet,
    *,
    digest: str | None = None,
    regions: str | None = None,
    older: Older | None = None,
    tree: Tree | None = None,
    with_sums: bool = False,
) -> Object:
    """Stores a file and returns its index object; `with_sums`, the sums of its new blocks as well.

    With `digest` (`sha256:HEX`), CorruptError unless the file has it; with `regions`, unless its regions' digests
    have that one, which says as much and is quicker. `older` is a file that is mostly the same: where a region is,
    its blocks are not looked at one by one. `tree` is a dm-verity tree in the
    file, which is not stored; the caller has checked that it is the data's. Whatever fails, the repository refers
    to nothing that is not there and the known blocks are as before.
    """
    try:
        with path.open("rb") as f:
            before = os.fstat(f.fileno())
            computed = tree.place if tree else range(0)
            with (
                older or contextlib.nullcontext(),
                Regions(
                    f.fileno(), before.st_size, whole=digest is not None and regions is None, older=older
                ) as read,
                Packer(store, known, older, computed) as packer,
            ):
                for region in read:
                    if region.data is not None and not packer.again(region.number, region.digest):
                        packer.region(region.number, region.data, region.before)
                    progress(region.length)
                packs, sums = packer.finish(f.fileno(), with_sums=with_sums)
                region_digests, found = read.finish()
            _unchanged(f.fileno(), before, path)
            if regions is not None:
                _is(digest_of_regions(region_digests), regions, path)
            elif digest is not None:
                _is(found, digest, path)
        index = Index(before.st_size, packs, region_digests, packer.runs, tree, sums, tuple(packer.moved))
        stored = store.write(encode(index))
        packer.remember()
    except BaseException:
        known.rollback()
        raise
    return stored


def _unchanged(fd: int, before: os.stat_result, path: Path) -> None:
    after = os.fstat(fd)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise CorruptError("was changed while it was being published", where=str(path))


def _is(found: str | None, digest: str, path: Path) -> None:
    if digest != found:
        raise CorruptError(f"has the digest {found} instead of {digest}", where=str(path))
