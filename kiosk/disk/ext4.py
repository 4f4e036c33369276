"""ext4 read as data: which blocks hold which file. Nothing is mounted, nothing is written.

Made for one question, asked of tens of thousands of files at a time, so inode tables are read whole and no file
object is made for each. Layout after the kernel's Documentation/filesystems/ext4. What it does not know (block
maps of ext2, inline data, encrypted names) it leaves out; whatever the bytes say, it reads only inside the file
system, in bounded memory, and raises CorruptError or gives fewer files, never anything else.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from kiosk.errors import CorruptError

BLOCK = 4096
MAX_INODES = 8_000_000
MAX_EXTENTS = 4_000_000
MAX_DIRECTORIES = 1 << 18
"""Blocks of all directories together: a gigabyte."""
ROOT = 2

_MAGIC = 0xEF53
_EXTENT_MAGIC = 0xF30A
_INCOMPAT_64BIT = 0x80
_INCOMPAT_META_BG = 0x10
_EXTENTS_FLAG = 0x80000
_UNUSED_INODES = 1  # EXT4_BG_INODE_UNINIT
_EXTENT_HEAD = struct.Struct("<HHHHI")
_EXTENT = struct.Struct("<IHHI")
_INDEX = struct.Struct("<IIHH")
_INODE = struct.Struct("<H2xI24xI4x60s")  # mode, size, flags, i_block: bytes 0 to 100
_ENTRY = struct.Struct("<IHBB")
_REGULAR, _DIRECTORY = 0o100000, 0o040000

Extents = list[tuple[int, int, int]]
"""(first block in the file, first block on the disk, how many), ascending; disk blocks of 4096 bytes."""


@dataclass(frozen=True)
class File:
    """A regular file: its path, its size in bytes, and where its content lies."""

    path: bytes
    size: int
    extents: Extents


@dataclass(frozen=True)
class _Inode:
    mode: int
    size: int
    extents: Extents


class FileSystem:
    """The file system that begins at byte `offset` (a multiple of 4096) of the open file `fd`."""

    def __init__(self, fd: int, offset: int = 0) -> None:
        self._fd = fd
        self._offset = offset
        raw = os.pread(fd, 1024, offset + 1024)
        if len(raw) < 1024 or int.from_bytes(raw[56:58], "little") != _MAGIC:
            raise CorruptError("there is no ext4 file system here")
        inodes, blocks, _, _, _, _, log_block, _, per_group = struct.unpack_from("<9I", raw)
        (self._inodes_per_group,) = struct.unpack_from("<I", raw, 40)
        self._inode_size, (incompat,) = (
            struct.unpack_from("<H", raw, 88)[0],
            struct.unpack_from("<I", raw, 96),
        )
        self._desc_size = struct.unpack_from("<H", raw, 254)[0] if incompat & _INCOMPAT_64BIT else 32
        if log_block != 2 or incompat & _INCOMPAT_META_BG or offset % BLOCK:
            raise CorruptError("the file system has another layout than blocks of 4096 bytes")
        self.blocks = blocks
        if not (
            0 < inodes <= MAX_INODES
            and 0 < per_group <= 8 * BLOCK
            and 0 < self._inodes_per_group <= 8 * BLOCK
            and 128 <= self._inode_size <= BLOCK
            and 32 <= self._desc_size <= 1024
        ):
            raise CorruptError("the file system's superblock is damaged")
        self._groups = -(-blocks // per_group)
        self._left = MAX_EXTENTS
        self._directories = MAX_DIRECTORIES
        if self._groups * self._inodes_per_group > MAX_INODES + 8 * BLOCK:
            raise CorruptError("the file system's superblock is damaged")

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
                if inode.mode & 0o170000 == _DIRECTORY:
                    below.append((path, child))
                elif inode.extents:
                    yield File(path, inode.size, inode.extents)
            waiting.extend(reversed(below))

    def _read(self, block: int, count: int = 1) -> bytes:
        if not 0 <= block <= block + count <= self.blocks:
            raise CorruptError("the file system points outside itself")
        data = os.pread(self._fd, count * BLOCK, self._offset + block * BLOCK)
        if len(data) != count * BLOCK:
            raise CorruptError("the file system goes on behind the end of its disk")
        return data

    def _inodes(self) -> dict[int, _Inode]:
        """All regular files and directories that are in use."""
        found: dict[int, _Inode] = {}
        table_blocks = -(-self._groups * self._desc_size // BLOCK)
        descriptors = self._read(1, min(table_blocks, self.blocks - 1))
        for group in range(min(self._groups, len(descriptors) // self._desc_size)):
            at = group * self._desc_size
            flags, unused = struct.unpack_from("<H", descriptors, at + 18)[0], 0
            (unused,) = struct.unpack_from("<H", descriptors, at + 28)
            (table,) = struct.unpack_from("<I", descriptors, at + 8)
            used = self._inodes_per_group - min(unused, self._inodes_per_group)
            if flags & _UNUSED_INODES or not used:
                continue
            data = self._read(table, -(-used * self._inode_size // BLOCK))
            for i in range(min(used, len(data) // self._inode_size)):
                mode, size, inode_flags, blocks = _INODE.unpack_from(data, i * self._inode_size)
                if mode & 0o170000 not in (_REGULAR, _DIRECTORY) or not inode_flags & _EXTENTS_FLAG:
                    continue
                (high,) = struct.unpack_from("<I", data, i * self._inode_size + 108)
                extents: Extents = []
                self._extents(blocks, 5, extents)
                found[group * self._inodes_per_group + i + 1] = _Inode(mode, size | high << 32, extents)
        return found

    def _extents(self, node: bytes, deepest: int, into: Extents) -> None:
        """Adds the extents below a node of an extent tree, deeper by at least one level each time."""
        magic, entries, _, depth, _ = _EXTENT_HEAD.unpack_from(node)
        if magic != _EXTENT_MAGIC or depth > deepest or 12 + 12 * entries > len(node):
            return
        for i in range(entries):
            if self._left <= 0:
                raise CorruptError("the file system has more extents than can be")
            self._left -= 1
            if depth == 0:
                first, count, high, low = _EXTENT.unpack_from(node, 12 + 12 * i)
                start = low | high << 32
                if 0 < count <= 32768 and start + count <= self.blocks:  # more: preallocated, not written
                    into.append((first, start, count))
            else:
                _, low, high, _ = _INDEX.unpack_from(node, 12 + 12 * i)
                self._extents(self._read(low | high << 32), depth - 1, into)

    def _entries(self, inode: _Inode | None) -> Iterator[tuple[bytes, int]]:
        """A directory's entries but for . and .., in the order of names."""
        if inode is None:
            return
        found: list[tuple[bytes, int]] = []
        for _, start, count in inode.extents:
            self._directories -= count
            if self._directories < 0:
                raise CorruptError("the directories are larger than can be")
            data = self._read(start, count)
            for at in range(0, len(data), BLOCK):
                found.extend(_block_entries(data[at : at + BLOCK]))
        yield from sorted(found)


def _block_entries(data: bytes) -> Iterator[tuple[bytes, int]]:
    at = 0
    while at + _ENTRY.size <= len(data):
        inode, length, name_length, _ = _ENTRY.unpack_from(data, at)
        if length < _ENTRY.size:
            return
        name = data[at + _ENTRY.size : at + _ENTRY.size + name_length]
        if inode and name not in (b".", b"..", b""):
            yield name, inode
        at += length
