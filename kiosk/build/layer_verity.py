"""A layer's dm-verity tree: added behind the image, in the same file, and checked before it is published.

The tree follows from the image and the layer's name alone: the same image gives the same bytes in every version.
veritysetup(8) makes it; what checks it is code of its own, so that a fault of one would be seen by the other.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from kiosk.errors import BuildError, CorruptError
from kiosk.model.manifest import LayerVerity
from kiosk.model.names import LayerRef
from kiosk.run import run
from kiosk.store import verity
from kiosk.store.index import BLOCK, REGION, Tree

TIMEOUT = 1800.0


def add(image: Path, ref: LayerRef) -> LayerVerity:
    """Pads an image to whole blocks (two at the least: a single one has no tree) and puts its tree behind it."""
    blocks = max(2, -(-image.stat().st_size // BLOCK))
    os.truncate(image, blocks * BLOCK)
    salt = hashlib.sha256(f"kiosk layer {ref.base}".encode()).hexdigest()
    printed = run(
        [
            "veritysetup", "format", "--no-superblock", "--format=1", "--hash=sha256", f"--salt={salt}",
            f"--data-block-size={BLOCK}", f"--hash-block-size={BLOCK}", f"--data-blocks={blocks}",
            f"--hash-offset={blocks * BLOCK}", image, image,
        ],
        timeout=TIMEOUT,
    )  # fmt: skip
    found = re.search(r"^Root hash:\s*([0-9a-f]{64})$", printed, re.MULTILINE)
    if found is None:
        raise BuildError("veritysetup printed no root hash", where=str(image))
    return LayerVerity(root_hash=found[1], salt=salt, data_blocks=blocks, hash_start=blocks)


def check(image: Path, said: LayerVerity | None) -> None:
    """CorruptError when the tree of an image is not its data's, or not the one that its manifest names."""
    if said is None:
        return
    tree = Tree(0, said.data_blocks, said.hash_start, bytes.fromhex(said.salt))
    with image.open("rb") as f:
        fd = f.fileno()
        size = os.fstat(fd).st_size
        fits = said.data_blocks <= said.hash_start and size == (said.hash_start + sum(tree.levels())) * BLOCK
        found = (
            verity.root_hash(tree, _data(fd, tree), lambda at: os.pread(fd, BLOCK, at * BLOCK))
            if fits
            else None
        )
    if found != said.root_hash:
        raise CorruptError(
            "its hash tree is not the one that the manifest describes",
            where=str(image),
            hint="Build the layer again.",
        )


def _data(fd: int, tree: Tree) -> Iterator[bytes]:
    end = tree.blocks * BLOCK
    for at in range(0, end, REGION):
        yield os.pread(fd, min(REGION, end - at), at)
