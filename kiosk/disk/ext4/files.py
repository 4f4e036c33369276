"""Which blocks hold which file, for tens of thousands of files at a time.

Inode tables are read whole and no file object is made for each inode. What it does not know (block maps of ext2,
inline data, encrypted names) it leaves out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from kiosk.disk.ext4.layout import ROOT, Layout
from kiosk.disk.ext4.maps import Run, extents
from kiosk.disk.ext4.names import entries
from kiosk.errors import CorruptError

BLOCK = 4096
MAX_EXTENTS = 4_000_000
MAX_DIRECTORIES = 1 << 18
"""Blocks of all directories together: a gigabyte."""

_EXTENTS_FLAG = 0x80000
_INODE = struct.Struct("<H2xI24xI4x60s")  # mode, size, flags, i_block: bytes 0 to 100
_REGULAR, _DIRECTORY = 0o100000, 0o040000

Extents = list[Run]
"""(first block in the file, first block on the disk, how many), ascending; disk blocks of 4096 bytes."""


@dataclass(frozen=True)
class File:
    """A regular file: its path, its size in bytes, and where its content lies."""

    path: bytes
    size: int
    extents: Extents


class FileSystem:
    """The file system that begins at byte `offset` (a multiple of 4096) of the open file `fd`."""

    def __init__(self, fd: int, offset: int = 0) -> None:
        self._layout = Layout(fd, offset)
        if self._layout.block != BLOCK or offset % BLOCK:
            raise CorruptError("the file system has another layout than blocks of 4096 bytes")
        self.blocks = self._layout.blocks
        self._left = MAX_EXTENTS
        self._directories = MAX_DIRECTORIES

    def files(self) -> Iterator[File]:
        """Every regular file that has a name, once, under the first of its names; directories in order."""
        inodes = self._inodes()
        seen = {ROOT}
        waiting: list[tuple[bytes, int]] = [(b"", ROOT)]
        while waiting:
            folder, number = waiting.pop()
            below: list[tuple[bytes, int]] = []
            for name, child in self._entries(inodes.get(number)):
                inode = inodes.get(child)
                if inode is None or child in seen:
                    continue
                seen.add(child)
                path = folder + b"/" + name
                mode, size, node = inode
                if mode & 0o170000 == _DIRECTORY:
                    below.append((path, child))
                elif found := self._extents(node):
                    yield File(path, size, found)
            waiting.extend(reversed(below))

    def _inodes(self) -> dict[int, tuple[int, int, bytes]]:
        """(mode, size, root of the extent tree) of all regular files and directories that are in use."""
        found: dict[int, tuple[int, int, bytes]] = {}
        layout = self._layout
        for group, table in enumerate(layout.tables()):
            data = layout.read(table.table, -(-table.used * layout.inode_size // BLOCK))
            first = group * layout.inodes_per_group + 1
            for i in range(table.used):
                at = i * layout.inode_size
                mode, size, flags, node = _INODE.unpack_from(data, at)
                if mode & 0o170000 not in (_REGULAR, _DIRECTORY) or not flags & _EXTENTS_FLAG:
                    continue
                (high,) = struct.unpack_from("<I", data, at + 108)
                found[first + i] = (mode, size | high << 32, node)
        return found

    def _extents(self, node: bytes) -> Extents:
        return list(extents(self._layout, node, self._spend))

    def _spend(self, _blocks: int) -> None:
        """Called once for each extent and each node of an extent tree."""
        self._left -= 1
        if self._left < 0:
            raise CorruptError("the file system has more extents than can be")

    def _entries(self, inode: tuple[int, int, bytes] | None) -> Iterator[tuple[bytes, int]]:
        """A directory's entries but for . and .., in the order of names."""
        if inode is None:
            return
        found: list[tuple[bytes, int]] = []
        for _, start, count in self._extents(inode[2]):
            self._directories -= count
            if self._directories < 0:
                raise CorruptError("the directories are larger than can be")
            data = self._layout.read(start, count)
            for at in range(0, len(data), BLOCK):
                found.extend(entries(self._layout, data[at : at + BLOCK]))
        yield from sorted(found)
