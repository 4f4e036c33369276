"""Sums: short digests of the blocks of packs, so that a file without an index can be searched for them.

A sums object belongs to the packs that one publish wrote: 8 bytes a block, the first of its BLAKE3 digest. It is an
offer, not a truth: what it points to in a local file is copied, and the regions' digests then tell whether it
was right. Every table that `decode` returns has exactly the packs and blocks that its index says.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence

from kiosk.errors import CorruptError
from kiosk.store import wire
from kiosk.store.index import MAX_SUMS, PACK_BLOCKS, Pack

BYTES = 8
"""Bytes of each block's digest."""
PACKS = 512
"""The most packs in one object: 4 MiB of full ones as kiosk writes them."""
LEVEL = 1
_PACK = struct.Struct("<32sI")


def encode(packs: Sequence[tuple[str, bytes]]) -> bytes:
    """The stored bytes of an object for packs given as (digest, the sums of its blocks)."""
    rows = (_PACK.pack(bytes.fromhex(digest[7:]), len(sums) // BYTES) + sums for digest, sums in packs)
    return wire.seal(wire.SUMS, b"".join(rows), level=LEVEL)


def decode(stored: bytes, packs: Mapping[str, Pack], where: str) -> Iterator[tuple[str, memoryview]]:
    """Reads an object: the sums of each pack that is among `packs`; CorruptError unless all of it is sound."""
    content = memoryview(wire.unseal(wire.SUMS, stored, limit=MAX_SUMS, where=where))
    at = 0
    while at < len(content):
        if len(content) - at < _PACK.size:
            raise CorruptError(f"ends in the middle of a pack at {at}", where=where)
        digest, blocks = _PACK.unpack_from(content, at)
        at += _PACK.size
        length = blocks * BYTES
        if not 1 <= blocks <= PACK_BLOCKS or length > len(content) - at:
            raise CorruptError(f"has {blocks} sums for a pack at {at}", where=where)
        name = "sha256:" + digest.hex()
        if (pack := packs.get(name)) is not None:
            if pack.blocks != blocks:
                raise CorruptError(f"has {blocks} sums for a pack of {pack.blocks} blocks", where=where)
            yield name, content[at : at + length]
        at += length
