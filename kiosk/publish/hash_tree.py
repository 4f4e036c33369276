"""The dm-verity tree of an image's disk: found by the manifest, read from its superblock, and checked.

Checked before anything is stored: readers will compute the tree instead of fetching it, and the guest's kernel
will believe the manifest's root hash.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from kiosk.errors import CorruptError
from kiosk.model.manifest import ImageManifest, Manifest
from kiosk.store import verity
from kiosk.store.index import BLOCK, REGION, Tree

_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s")  # veritysetup(8), hash format 1
_SIGNATURE = b"verity\0\0"
HINT = "The built files were changed, or the build went wrong; build the version again."


def hash_tree(manifest: Manifest, name: str, path: Path) -> Tree | None:
    """The tree that readers can compute; None where the file has none, or one of another kind.

    CorruptError when the tree is not that of the data, or its root hash not the manifest's.
    """
    if not isinstance(manifest, ImageManifest) or name != "disk" or manifest.verity is None:
        return None
    places = {p.label: p.offset for p in manifest.partitions}
    data, hashes = places.get(manifest.verity.data), places.get(manifest.verity.hash)
    if data is None or hashes is None or data % BLOCK or hashes % BLOCK:
        return None
    with path.open("rb") as f:
        fd = f.fileno()
        tree = _read(fd, data // BLOCK, hashes // BLOCK)
        if tree is None or not tree.sound(os.fstat(fd).st_size // BLOCK):
            return None
        found = verity.root_hash(tree, _blocks(fd, tree), lambda at: os.pread(fd, BLOCK, at * BLOCK))
    if found != manifest.verity.root_hash:
        raise CorruptError(
            f"its hash tree has the root hash {found or 'of other data'}, "
            f"the manifest says {manifest.verity.root_hash}",
            where=str(path),
            hint=HINT,
        )
    return tree


def _read(fd: int, data: int, hashes: int) -> Tree | None:
    raw = os.pread(fd, _SUPERBLOCK.size, hashes * BLOCK)
    if len(raw) < _SUPERBLOCK.size:
        return None
    head = _SUPERBLOCK.unpack(raw)
    signature, version, kind, _, algorithm, data_block, hash_block, blocks, salt_size, salt = head
    expected = (_SIGNATURE, 1, 1, b"sha256", BLOCK, BLOCK)
    if (signature, version, kind, algorithm.rstrip(b"\0"), data_block, hash_block) != expected:
        return None
    if not 0 < blocks < 1 << 32 or salt_size > len(salt):
        return None
    return Tree(data, blocks, hashes + 1, salt[:salt_size])


def _blocks(fd: int, tree: Tree) -> Iterator[bytes]:
    end = (tree.data + tree.blocks) * BLOCK
    for at in range(tree.data * BLOCK, end, REGION):
        yield os.pread(fd, min(REGION, end - at), at)
