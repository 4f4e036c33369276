"""Inodes, read when they are asked for, from inode tables of which only pieces are held."""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass

from kiosk.disk.ext4.layout import Layout

ENCRYPTED, EXTENTS, INLINE = 0x800, 0x80000, 0x10000000
_KINDS = {
    stat.S_IFREG,
    stat.S_IFDIR,
    stat.S_IFLNK,
    stat.S_IFCHR,
    stat.S_IFBLK,
    stat.S_IFIFO,
    stat.S_IFSOCK,
}
_BASE = struct.Struct("<HHI8xI4xHH4xI4x60s4xII6xHHH")
_OLD = 128
_CHUNK = 64 << 10
_CHUNKS = 512


@dataclass(frozen=True, slots=True)
class Inode:
    """What an inode says. `node` is its i_block, `acl` the block of its attributes, `extra` what follows the
    fields in a large inode: more attributes."""

    number: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    links: int
    flags: int
    node: bytes
    acl: int
    extra: bytes

    @property
    def device(self) -> tuple[int, int]:
        """The number of a device node, in the old or the new of the two forms."""
        old, new = struct.unpack_from("<II", self.node)
        if old:
            return old >> 8 & 0xFF, old & 0xFF
        return new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00


class Inodes:
    """The inodes of a file system by their numbers; at most 32 MiB of them are held."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._tables = [group.table for group in layout.tables()]
        self._chunks: dict[tuple[int, int], bytes] = {}
        self._per_chunk = _CHUNK // layout.inode_size

    def get(self, number: int) -> Inode:
        """The inode that a name names. CorruptError when it isn't in use or of no kind that there is."""
        group, index = divmod(number - 1, self._layout.inodes_per_group)
        if not 0 < number <= self._layout.inodes or group >= len(self._tables):
            raise self._layout.damage(f"there is no inode {number}")
        data = self._chunk(group, index // self._per_chunk)
        at = index % self._per_chunk * self._layout.inode_size
        mode, uid, low, mtime, gid, links, flags, node, acl, high, acl_high, uid_high, gid_high = (
            _BASE.unpack_from(data, at)
        )
        kind = stat.S_IFMT(mode)
        if kind not in _KINDS or not links:
            raise self._layout.damage(f"a name names inode {number}, which is not in use")
        if kind != stat.S_IFREG and not (kind == stat.S_IFDIR and self._layout.large_directories):
            high = 0
        later, extra = self._extra(data[at + _OLD : at + self._layout.inode_size])
        return Inode(
            number=number,
            mode=mode,
            uid=uid | uid_high << 16,
            gid=gid | gid_high << 16,
            size=low | high << 32,
            mtime=(mtime - (1 << 32) if mtime >> 31 else mtime) + (later << 32),
            links=links,
            flags=flags,
            node=node,
            acl=acl | acl_high << 32,
            extra=extra,
        )

    def _extra(self, data: bytes) -> tuple[int, bytes]:
        """The epoch of the time of change, and what stands behind the fields of a large inode."""
        if not data:
            return 0, b""
        (length,) = struct.unpack_from("<H", data)
        if length % 4 or length > len(data):
            raise self._layout.damage("an inode is damaged")
        later = struct.unpack_from("<I", data, 8)[0] & 3 if length >= 12 else 0
        return later, data[length:]

    def _chunk(self, group: int, number: int) -> bytes:
        found = self._chunks.get((group, number))
        if found is None:
            layout = self._layout
            blocks = _CHUNK // layout.block
            total = -(-layout.inodes_per_group * layout.inode_size // layout.block)
            first = number * blocks
            found = layout.read(self._tables[group] + first, min(blocks, total - first))
            if len(self._chunks) >= _CHUNKS:
                del self._chunks[next(iter(self._chunks))]
            self._chunks[group, number] = found
        return found
