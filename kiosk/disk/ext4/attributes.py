"""Extended attributes, as a mount shows them: those in the inode and those in a block of their own.

POSIX ACLs come in the form that the kernel hands out, not in that on the disk. Names that the kernel hides are
left out, but for the data of small files (`INLINE_DATA`), which is for the reader alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from kiosk.disk.ext4.layout import Layout

INLINE_DATA = "system.data"
_MAGIC = 0xEA020000
_ENTRY = struct.Struct("<BBHIII")
_HEAD_OF_BLOCK = 32
_PREFIXES = {1: "user.", 4: "trusted.", 6: "security."}
_ACLS = {2: "system.posix_acl_access", 3: "system.posix_acl_default"}
_SYSTEM = 7
_NAMED_TAGS, _OTHER_TAGS = (0x02, 0x08), (0x01, 0x04, 0x10, 0x20)
_NOBODY = 0xFFFFFFFF


def attributes(layout: Layout, extra: bytes, block: int) -> dict[str, bytes]:
    """The attributes of an inode with `extra` behind its fields and, when `block` isn't 0, a block of them."""
    found: dict[str, bytes] = {}
    if len(extra) >= 4 and int.from_bytes(extra[:4], "little") == _MAGIC:
        found.update(_entries(layout, extra[4:], 0))
    if block:
        data = layout.read(block)
        magic, _, blocks = struct.unpack_from("<III", data)
        if magic != _MAGIC or blocks != 1:
            raise layout.damage("a block of extended attributes is damaged")
        for name, value in _entries(layout, data, _HEAD_OF_BLOCK):
            found.setdefault(name, value)
    return dict(sorted(found.items()))


def _entries(layout: Layout, data: bytes, at: int) -> Iterator[tuple[str, bytes]]:
    """All from `at` on; values lie at their offsets from the beginning of `data`."""
    while data[at : at + 4] not in (b"\0\0\0\0", b""):
        if at + _ENTRY.size > len(data):
            raise layout.damage("extended attributes are damaged")
        length, index, offset, inode, size, _ = _ENTRY.unpack_from(data, at)
        name = data[at + _ENTRY.size : at + _ENTRY.size + length]
        if inode:
            raise layout.damage("an extended attribute has its value in an inode of its own (ea_inode)")
        if len(name) < length or b"\0" in name or (size and offset + size > len(data)):
            raise layout.damage("extended attributes are damaged")
        value = data[offset : offset + size] if size else b""
        if index in _ACLS and not name:
            yield _ACLS[index], _acl(layout, value)
        elif index in _PREFIXES and name:
            yield _PREFIXES[index] + name.decode(errors="surrogateescape"), value
        elif index == _SYSTEM and name == b"data":
            yield INLINE_DATA, value
        at += (_ENTRY.size + length + 3) & ~3


def _acl(layout: Layout, stored: bytes) -> bytes:
    """An access control list, from its form on the disk (version 1, short entries) to the kernel's (version 2)."""
    if stored[:4] != struct.pack("<I", 1):
        raise layout.damage("an access control list is damaged")
    shown, at = [struct.pack("<I", 2)], 4
    while at < len(stored):
        tag = int.from_bytes(stored[at : at + 2], "little")
        length = 8 if tag in _NAMED_TAGS else 4
        if tag not in _NAMED_TAGS + _OTHER_TAGS or at + length > len(stored):
            raise layout.damage("an access control list is damaged")
        permissions = stored[at + 2 : at + 4]
        who = stored[at + 4 : at + 8] if length == 8 else struct.pack("<I", _NOBODY)
        shown.append(struct.pack("<H", tag) + permissions + who)
        at += length
    return b"".join(shown)
