"""The dm-verity hash tree, computed: its bytes follow from the data that it protects, so they need not move.

Hash format 1, SHA-256, blocks of 4096 bytes, as veritysetup(8) writes it and the kernel's
Documentation/admin-guide/device-mapper/verity.rst describes it: each hash is SHA-256(salt + block), a hash block
holds 128 of them, zero-filled; the levels stand one after the other, the top one first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kiosk.store.index import BLOCK, Tree

PER_BLOCK = BLOCK // 32
ZERO = bytes(BLOCK)

Write = Callable[[int, bytes], object]
"""Told a block of the file, and the bytes of it and those that follow."""


@dataclass
class Levels:
    """Takes the data block by block, in order, and writes the tree as it grows; no more than a hash block of
    each level is held."""

    tree: Tree
    write: Write

    def __post_init__(self) -> None:
        self._salted = hashlib.sha256(self.tree.salt)
        self._zero = self._hash(ZERO)
        counts = self.tree.levels()
        self._at = [self.tree.at + sum(counts[level + 1 :]) for level in range(len(counts))]
        self._open: list[list[bytes]] = [[] for _ in counts]
        self._root = b""

    def add(self, data: memoryview | bytes) -> None:
        """The next blocks of data."""
        for at in range(0, len(data), BLOCK):
            block = data[at : at + BLOCK]
            self._push(0, self._zero if block == ZERO else self._hash(block))

    def finish(self) -> str:
        """Writes what is still open; the root hash, in hexadecimal digits."""
        for level, hashes in enumerate(self._open):
            if hashes:
                self._close(level)
        return self._root.hex()

    def _hash(self, block: memoryview | bytes) -> bytes:
        digest = self._salted.copy()
        digest.update(block)
        return digest.digest()

    def _push(self, level: int, digest: bytes) -> None:
        if level == len(self._open):
            self._root = digest
            return
        hashes = self._open[level]
        hashes.append(digest)
        if len(hashes) == PER_BLOCK:
            self._close(level)

    def _close(self, level: int) -> None:
        block = b"".join(self._open[level]).ljust(BLOCK, b"\0")
        self._open[level].clear()
        self.write(self._at[level], block)
        self._at[level] += 1
        self._push(level + 1, self._hash(block))


def root_hash(tree: Tree, data: Iterable[bytes | memoryview], is_there: Callable[[int], bytes]) -> str | None:
    """The root hash of the data, if the tree that `is_there` reads block by block is the data's; else None."""
    wrong: list[int] = []

    def compare(at: int, block: bytes) -> None:
        if is_there(at) != block:
            wrong.append(at)

    levels = Levels(tree, compare)
    for some in data:
        levels.add(some)
        if wrong:
            return None
    root = levels.finish()
    return None if wrong else root
