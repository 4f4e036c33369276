"""The entries of a folder's blocks. Blocks of hash trees look like empty ones, so all folders are read alike."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from kiosk.disk.ext4.layout import Layout

_ENTRY = struct.Struct("<IHBB")
_SELF = (b".", b"..")


def entries(layout: Layout, data: bytes) -> Iterator[tuple[bytes, int]]:
    """(name, inode) of all in one block but for . and .. themselves; CorruptError for what no kernel writes."""
    at, end = 0, len(data)
    while at < end:
        if at + _ENTRY.size > end:
            raise layout.damage("a folder is damaged")
        inode, length, name_length, _ = _ENTRY.unpack_from(data, at)
        begin = at + _ENTRY.size
        if length % 4 or length < _ENTRY.size + (name_length if inode else 0) or at + length > end:
            raise layout.damage("a folder is damaged")
        if inode:
            name = data[begin : begin + name_length]
            if not name or b"/" in name or b"\0" in name or inode > layout.inodes:
                raise layout.damage("a folder is damaged: it holds a name that can't be")
            if name not in _SELF:
                yield name, inode
        at += length
