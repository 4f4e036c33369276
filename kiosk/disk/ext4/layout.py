"""Where things lie in a file system of the ext family: its superblock, its groups, its inode tables.

A superblock that contradicts itself, asks for what kiosk does not know, or speaks of blocks behind the end of
its disk is a CorruptError; blocks are read only between 0 and the number that it names.
"""

from __future__ import annotations

import os
import struct
import uuid
from dataclasses import dataclass

from kiosk.errors import CorruptError, StorageError

ROOT = 2
MAX_INODES = 8_000_000
MAX_BLOCKS = 1 << 34
SUPERBLOCK = 1024
"""Bytes from the beginning of the file system to its superblock, and the superblock's length."""

_MAGIC = 0xEF53
_RECOVER = 0x4
_META_BG = 0x10
_64BIT = 0x80
_UNKNOWN = {
    0x1: "compression",
    0x8: "a journal only",
    0x1000: "data in directory entries",
}
_KNOWN = 0x2 | _RECOVER | _META_BG | 0x40 | _64BIT | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000
_KNOWN |= 0x10000 | 0x20000  # encrypted files, names without case
_SPARSE_SUPER, _GROUP_CHECKSUM, _METADATA_CHECKSUM = 0x1, 0x10, 0x400
_SPARSE_SUPER2 = 0x200
_LARGE_DIRECTORIES = 0x4000
_UNUSED_INODES = 1


@dataclass(frozen=True)
class Group:
    """The inode table of a group of blocks: its first block, and how many inodes in it were ever used."""

    table: int
    used: int


class Layout:
    """The file system that begins at byte `offset` of the open file or device `fd`; `where` names it in errors."""

    def __init__(self, fd: int, offset: int = 0, *, where: str | None = None) -> None:
        self._fd = fd
        self._offset = offset
        self._where = where
        raw = self._bytes(SUPERBLOCK, SUPERBLOCK)
        if len(raw) < SUPERBLOCK or raw[56:58] != _MAGIC.to_bytes(2, "little"):
            raise self.damage("there is no ext4 file system here")
        self.inodes: int
        self.first_block: int
        self._per_group: int
        log_block: int
        self.inodes, low, self.first_block, log_block, self._per_group = struct.unpack_from(
            "<II12xII4xI", raw
        )
        self.inodes_per_group: int = struct.unpack_from("<I", raw, 40)[0]
        revision, compat, self._incompat, self._ro_compat = (
            struct.unpack_from("<I", raw, at)[0] for at in (76, 92, 96, 100)
        )
        if revision == 0:
            compat = self._incompat = self._ro_compat = 0
        wide = bool(self._incompat & _64BIT)
        self._sparse2: tuple[int, ...] | None = (
            struct.unpack_from("<2I", raw, 588) if compat & _SPARSE_SUPER2 else None
        )
        self._first_meta: int = struct.unpack_from("<I", raw, 260)[0]
        self.blocks: int = low | (struct.unpack_from("<I", raw, 336)[0] << 32 if wide else 0)
        self.inode_size: int = struct.unpack_from("<H", raw, 88)[0] if revision else 128
        self._descriptor: int = struct.unpack_from("<H", raw, 254)[0] if wide else 32
        self.uuid = str(uuid.UUID(bytes=raw[104:120]))
        self.label = raw[120:136].split(b"\0")[0].decode(errors="backslashreplace")
        if log_block > 2:
            raise self.damage("its blocks are not of 1024, 2048, or 4096 bytes, which kiosk can't read")
        self.block: int = 1024 << log_block
        self._refuse_unknown()
        self._refuse_nonsense()
        self.groups: int = -(-(self.blocks - self.first_block) // self._per_group)
        if self.groups * self.inodes_per_group > MAX_INODES + 8 * self.block:
            raise self.damage("its superblock is damaged")

    @property
    def needs_recovery(self) -> bool:
        """Whether the newest changes stand in the journal only."""
        return bool(self._incompat & _RECOVER)

    @property
    def large_directories(self) -> bool:
        return bool(self._incompat & _LARGE_DIRECTORIES)

    def damage(self, what: str) -> CorruptError:
        """The error to raise: the file system is not what it should be."""
        return CorruptError(f"the file system can't be read: {what}", where=self._where)

    def read(self, block: int, count: int = 1) -> bytes:
        """The bytes of `count` blocks. CorruptError outside the file system, StorageError on a bad disk."""
        if not 0 <= block <= block + count <= self.blocks:
            raise self.damage("it points outside itself")
        data = self._bytes(block * self.block, count * self.block)
        if len(data) != count * self.block:
            raise self.damage("it goes on behind the end of its disk")
        return data

    def tables(self) -> list[Group]:
        """The inode tables of all groups, in order."""
        per_block = self.block // self._descriptor
        found: list[Group] = []
        marked = self._ro_compat & (_GROUP_CHECKSUM | _METADATA_CHECKSUM)
        for first in range(0, self.groups, per_block):
            data = self.read(self._descriptor_block(first // per_block, per_block))
            for i in range(min(per_block, self.groups - first)):
                at = i * self._descriptor
                (table,) = struct.unpack_from("<I", data, at + 8)
                flags, unused = struct.unpack_from("<18xH8xH", data, at)
                if self._descriptor >= 64:
                    table |= struct.unpack_from("<I", data, at + 40)[0] << 32
                    unused |= struct.unpack_from("<H", data, at + 50)[0] << 16
                used = self.inodes_per_group - min(unused if marked else 0, self.inodes_per_group)
                found.append(Group(table, 0 if marked and flags & _UNUSED_INODES else used))
        return found

    def _bytes(self, at: int, count: int) -> bytes:
        try:
            return os.pread(self._fd, count, self._offset + at)
        except OSError as e:
            raise StorageError(f"the disk can't be read: {e.strerror}", where=self._where) from e

    def _refuse_unknown(self) -> None:
        for bit, name in _UNKNOWN.items():
            if self._incompat & bit:
                raise self.damage(f"it uses a feature that kiosk does not know ({name})")
        if self._incompat & ~_KNOWN:
            raise self.damage(f"it uses features that kiosk does not know (0x{self._incompat & ~_KNOWN:x})")

    def _refuse_nonsense(self) -> None:
        if not (
            0 < self.inodes <= MAX_INODES
            and self.first_block <= (1 if self.block == 1024 else 0)
            and self.first_block < self.blocks <= MAX_BLOCKS
            and 0 < self._per_group <= 1 << 28
            and 0 < self.inodes_per_group <= 8 * self.block
            and 128 <= self.inode_size <= self.block
            and self.inode_size & (self.inode_size - 1) == 0
            and 32 <= self._descriptor <= 1024
            and self._descriptor & (self._descriptor - 1) == 0
        ):
            raise self.damage("its superblock is damaged")
        if self._offset + self.blocks * self.block > os.lseek(self._fd, 0, os.SEEK_END):
            raise self.damage("it goes on behind the end of its disk")

    def _descriptor_block(self, number: int, per_block: int) -> int:
        """Where the descriptors of one block's worth of groups stand."""
        if number == 0 or not self._incompat & _META_BG or number < self._first_meta:
            return SUPERBLOCK // self.block + 1 + number
        group: int = number * per_block
        return self.first_block + group * self._per_group + self._has_superblock(group)

    def _has_superblock(self, group: int) -> bool:
        if self._sparse2 is not None:
            return group == 0 or group in self._sparse2
        if group <= 1 or not self._ro_compat & _SPARSE_SUPER:
            return True
        return any(_is_power(group, base) for base in (3, 5, 7))


def _is_power(number: int, base: int) -> bool:
    while number > 1 and number % base == 0:
        number //= base
    return number == 1
