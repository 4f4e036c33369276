"""Lost objects, made again from the files that were published, where those are still there.

The same blocks and the same compressor give the same pack, to the byte; an object is only ever given back if
its digest is right, so nothing here needs to be trusted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from kiosk import files
from kiosk.config import Settings
from kiosk.errors import CorruptError, PolicyError
from kiosk.model.manifest import Manifest, Object
from kiosk.publish.hash_tree import hash_tree
from kiosk.publish.publish import SUMS_FROM
from kiosk.store import cut, packer, wire
from kiosk.store.api import DirectoryStore, MissingObject
from kiosk.store.index import BLOCK, Index, block_digest, load
from kiosk.store.known import KnownBlocks
from kiosk.store.needs import needs
from kiosk.store.objects import named
from kiosk.swarm import make

LEVELS = tuple(dict.fromkeys((packer.LEVEL, 3, *range(1, 13))))
"""zstd levels to try, the usual one first: another kiosk may have stored the pack with another."""


def built_files(settings: Settings, manifests: Sequence[Manifest]) -> Iterator[tuple[Manifest, str, Path]]:
    """The published files, by manifest and name, whose built folder still has them in the size that was published."""
    for manifest in manifests:
        folder = settings.images / manifest.ref.base / manifest.version
        for name, artifact in manifest.artifacts.items():
            path = folder / artifact.file
            if artifact.index is not None and path.is_file() and path.stat().st_size == artifact.size:
                yield manifest, name, path


def pack(wanted: Object, settings: Settings, manifests: Sequence[Manifest]) -> bytes | None:
    """A pack's stored bytes, from built files that have its blocks; None where they don't suffice.

    The indexes of `manifests`, which name the pack, say where most blocks are. Blocks that only older versions
    used are looked for by their known digests in all built files, which takes seconds for each gigabyte.
    """
    store = DirectoryStore(settings.repository)
    blocks: dict[int, bytes] = {}
    count = 0
    for manifest, name, path in built_files(settings, manifests):
        wanted_index = manifest.artifacts[name].index
        assert wanted_index is not None
        try:
            index = load(store, wanted_index)
        except (MissingObject, CorruptError):
            continue
        number = next((n for n, p in enumerate(index.packs) if p.object.digest == wanted.digest), None)
        if number is None:
            continue
        count = index.packs[number].blocks
        blocks.update(_blocks(path, index, number, blocks))
        if len(blocks) == count:
            made = _sealed(blocks, wanted)
            if made is not None:
                return made
            blocks.clear()  # a file is not any more what was published; others may be
    blocks.update(_searched(wanted, settings, blocks))
    return _sealed(blocks, wanted) if count and len(blocks) == count else None


def torrent(wanted: Object, settings: Settings, manifests: Sequence[Manifest]) -> bytes | None:
    """A version's torrent, from its indexes and what is remembered of its objects, else from the objects. None where
    those are not to be had, or where other trackers and web seeds are set than were then."""
    store = DirectoryStore(settings.repository)
    path = settings.repository.with_name("known-blocks.sqlite")
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(KnownBlocks(path)) if path.exists() else make.Nothing()
        for manifest in manifests:
            if manifest.torrent is None or manifest.torrent.file != wanted:
                continue
            objects = needs(store, manifest.model_copy(update={"torrent": None}))
            given = {"trackers": settings.trackers, "web_seeds": settings.web_seeds}
            with contextlib.suppress(MissingObject, CorruptError, PolicyError):
                _, made = make.torrent(store, objects, memory, **given)
                if named(made) == wanted:
                    return made
    return None


def _searched(wanted: Object, settings: Settings, have: dict[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """Blocks of a pack by slot, found in any built file by the digests that are known."""
    memory = settings.repository.with_name("known-blocks.sqlite")
    if not memory.exists():
        return
    with KnownBlocks(memory) as known:
        missing = {d: slot for d, slot in known.blocks_of(wanted.digest).items() if slot not in have}
    for manifest in sorted(settings.images.rglob("manifest.json")):
        for path in sorted(p for p in manifest.parent.iterdir() if p.is_file()):
            with path.open("rb") as f:
                while missing and (data := f.read(BLOCK)):
                    block = data.ljust(BLOCK, b"\0")
                    slot = missing.pop(block_digest(block), None)
                    if slot is not None:
                        yield slot, block


def _blocks(path: Path, index: Index, number: int, have: dict[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """The blocks of one pack that a file has, by slot."""
    with path.open("rb") as f:
        for to, of, slot, count in index.runs:
            if of != number or all(slot + i in have for i in range(count)):
                continue
            data = os.pread(f.fileno(), count * BLOCK, to * BLOCK).ljust(count * BLOCK, b"\0")
            yield from ((slot + i, data[i * BLOCK : (i + 1) * BLOCK]) for i in range(count))


def _sealed(blocks: dict[int, bytes], wanted: Object) -> bytes | None:
    content = b"".join(blocks[slot] for slot in sorted(blocks))
    for level in LEVELS:
        stored = wire.seal(wire.PACK, content, level=level)
        if named(stored) == wanted:
            return stored
    return None


def index(wanted: Object, settings: Settings, manifests: Sequence[Manifest]) -> bytes | None:
    """An index's stored bytes, by cutting the file again with what is known; None where that gives another.

    It gives the same where no block was stored again in this file, and none of its blocks since. Nothing is stored
    and nothing remembered: the objects that come of it are dropped, and so is the copy of the known blocks.
    """
    memory = settings.repository.with_name("known-blocks.sqlite")
    for manifest, name, path in built_files(settings, manifests):
        artifact = manifest.artifacts[name]
        if artifact.index != wanted or not memory.exists():
            continue
        with files.scratch(settings.home / "repair") as folder:
            shutil.copy(memory, folder / "known.sqlite")
            trial = _Trial(settings.repository, wanted)
            with KnownBlocks(folder / "known.sqlite") as known:
                try:
                    tree = hash_tree(manifest, name, path)
                    with_sums = artifact.size >= SUMS_FROM
                    cut.publish_file(
                        path, trial, known, digest=artifact.digest, tree=tree, with_sums=with_sums
                    )
                except CorruptError:
                    continue  # the built file is not any more what was published
        if trial.found is not None:
            return trial.found
    return None


class _Trial(DirectoryStore):
    """Has what the repository has; what is written is dropped, but for one object."""

    def __init__(self, repository: Path, wanted: Object) -> None:
        super().__init__(repository)
        self._wanted = wanted
        self.found: bytes | None = None

    def write(self, data: bytes) -> Object:
        """Looks at the bytes, and forgets them."""
        made = named(data)
        if made == self._wanted:
            self.found = data
        return made
