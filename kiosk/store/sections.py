"""The inner form of lists in the store: a row of sections, each a tag of 4 bytes, a length (u32), and its bytes.

A reader skips an unknown section whose tag begins with a lower-case letter, and refuses any other.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping

from kiosk.errors import CorruptError

_HEAD = struct.Struct("<4sI")


def encode(content: Mapping[bytes, bytes]) -> bytes:
    """The sections one after the other."""
    return b"".join(_HEAD.pack(tag, len(data)) + data for tag, data in content.items())


def decode(
    content: memoryview, needed: Collection[bytes], where: str, *, known: Collection[bytes] = ()
) -> dict[bytes, memoryview]:
    """The sections by tag, each once, all the needed ones among them and perhaps the known ones; CorruptError
    naming `where` otherwise."""
    found: dict[bytes, memoryview] = {}
    at = 0
    while at < len(content):
        if len(content) - at < _HEAD.size:
            raise CorruptError(f"ends in the middle of a section at {at}", where=where)
        tag, length = _HEAD.unpack_from(content, at)
        at += _HEAD.size
        if length > len(content) - at:
            raise CorruptError(f"the section {tag!r} is longer than the index", where=where)
        if tag in found:
            raise CorruptError(f"has two sections {tag!r}", where=where)
        if tag not in needed and tag not in known and not tag[:1].islower():
            raise CorruptError(
                f"has a section {tag!r} that this kiosk does not know", where=where, hint="Update kiosk."
            )
        found[tag] = content[at : at + length]
        at += length
    for tag in needed:
        if tag not in found:
            raise CorruptError(f"has no section {tag.decode()}", where=where)
    return found
