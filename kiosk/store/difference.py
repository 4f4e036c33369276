"""A difference: another way to the blocks of a file's packs, for hosts that hold one exact older file.

It is a list of groups. Each group is one object: blocks compressed with some blocks of the older file (its
*reference*) as zstd prefix. What a group yields are blocks by identity (pack, slot), as the file's own index
names them, so that a reader uses a difference for any part of what it lacks and packs for the rest. Written and
read exactly as docs/format.md says. A reader needs to know nothing of file systems; the writer does the pairing.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from kiosk.errors import CorruptError, UsageError
from kiosk.model.manifest import Object
from kiosk.store import columns, sections, wire
from kiosk.store.index import BLOCK, Index, Runs
from kiosk.store.objects import ObjectSource

GROUP_BLOCKS = 2048
"""The most blocks that a group may yield (8 MiB)."""
REFERENCE_BLOCKS = 4096
"""The most blocks of the older file that a group may refer to (16 MiB)."""
MAX_CONTENT = 8 << 20
MAX_STORED = 8 << 20
LEVEL = 9

_HEAD = struct.Struct("<II")
_GROUP = struct.Struct("<32sIII")


@dataclass(frozen=True)
class Group:
    """An object, the intervals (block, count) of the older file that it refers to, and the intervals
    (pack, slot, count) that it yields, one after the other."""

    object: Object
    reference: tuple[tuple[int, int], ...]
    yields: tuple[tuple[int, int, int], ...]

    @property
    def blocks(self) -> int:
        """Blocks that the group yields."""
        return sum(count for _, _, count in self.yields)


@dataclass(frozen=True)
class Difference:
    """Groups against an older file of `base_blocks` blocks, for a file whose index has `packs` packs."""

    base_blocks: int
    packs: int
    groups: tuple[Group, ...]

    def runs(self) -> Runs:
        """All that the groups yield, as runs of one imagined file: `starts` says where each group begins."""
        found = Runs()
        to = 0
        for group in self.groups:
            for pack, slot, count in group.yields:
                found.append(to, pack, slot, count)
                to += count
        return found

    def starts(self) -> list[int]:
        """The first block of each group in that imagined file, and behind them the end of the last."""
        return list(itertools.accumulate((g.blocks for g in self.groups), initial=0))


def encode(difference: Difference) -> bytes:
    """The stored bytes of a difference's list of groups."""
    groups = difference.groups
    content = {
        b"HEAD": _HEAD.pack(difference.base_blocks, difference.packs),
        b"GRPS": b"".join(
            _GROUP.pack(bytes.fromhex(g.object.digest[7:]), g.object.size, len(g.reference), len(g.yields))
            for g in groups
        ),
        b"REFS": columns.encode(2, [r for g in groups for r in g.reference]),
        b"OUTS": columns.encode(3, [y for g in groups for y in g.yields]),
    }
    data = sections.encode(content)
    if len(data) > MAX_CONTENT:
        raise UsageError(f"the difference is too scattered for one list ({len(groups)} groups)")
    return wire.seal(wire.DIFFERENCE, data, level=LEVEL)


def decode(stored: bytes, index: Index, where: str) -> Difference:
    """Reads the stored bytes of a difference for the file of `index`; CorruptError unless it is sound."""
    content = wire.unseal(wire.DIFFERENCE, stored, limit=MAX_CONTENT, where=where)
    found = sections.decode(memoryview(content), (b"HEAD", b"GRPS", b"REFS", b"OUTS"), where)
    if len(found[b"HEAD"]) != _HEAD.size or len(found[b"GRPS"]) % _GROUP.size:
        raise CorruptError("a section of the difference has a wrong size", where=where)
    base_blocks, packs = _HEAD.unpack(found[b"HEAD"])
    if packs != len(index.packs):
        raise CorruptError(f"is for an index of {packs} packs, not {len(index.packs)}", where=where)
    references = columns.decode(2, found[b"REFS"], where)
    yields = columns.decode(3, found[b"OUTS"], where)
    groups: list[Group] = []
    r = y = 0
    for digest, size, r_count, y_count in _GROUP.iter_unpack(found[b"GRPS"]):
        wanted = Object(digest="sha256:" + digest.hex(), size=size)
        group = Group(
            wanted,
            tuple((block, count) for block, count in references[r : r + r_count]),
            tuple((pack, slot, count) for pack, slot, count in yields[y : y + y_count]),
        )
        r, y = r + r_count, y + y_count
        _sound(group, base_blocks, index, where)
        groups.append(group)
    if (r, y) != (len(references), len(yields)):
        raise CorruptError("has intervals that belong to no group", where=where)
    return Difference(base_blocks, packs, tuple(groups))


def _sound(group: Group, base_blocks: int, index: Index, where: str) -> None:
    for block, count in group.reference:
        if not count or block + count > base_blocks:
            raise CorruptError(f"refers to {count} blocks at {block} of {base_blocks}", where=where)
    for pack, slot, count in group.yields:
        if not count or pack >= len(index.packs) or slot + count > index.packs[pack].blocks:
            raise CorruptError(f"yields {count} blocks at {slot} of pack {pack}", where=where)
    if sum(c for _, c in group.reference) > REFERENCE_BLOCKS or not 0 < group.blocks <= GROUP_BLOCKS:
        raise CorruptError("has a group that is too large", where=where)
    if not wire.HEADER_SIZE < group.object.size <= wire.largest(group.blocks * BLOCK):
        raise CorruptError(f"a group of {group.blocks} blocks has {group.object.size} bytes", where=where)


def load(source: ObjectSource, wanted: Object, index: Index) -> Difference:
    """Reads a difference's list of groups from a source, if it is not larger than a reader should load."""
    if wanted.size > MAX_STORED:
        raise CorruptError(
            f"a list of {wanted.size} bytes is more than any kiosk writes", where=wanted.digest
        )
    return decode(source.read(wanted), index, wanted.digest)


def seal(content: bytes, reference: bytes, *, level: int) -> bytes:
    """The stored bytes of a group."""
    return wire.seal(wire.GROUP, content, level=level, prefix=reference)


def unseal(stored: bytes, reference: bytes, blocks: int, where: str) -> bytes:
    """The blocks of a group; CorruptError when stored bytes and reference don't belong together."""
    content = wire.unseal(wire.GROUP, stored, limit=blocks * BLOCK, where=where, prefix=reference)
    if len(content) != blocks * BLOCK:
        raise CorruptError(f"has not {blocks} blocks as its list says", where=where)
    return content


def cost(groups: Sequence[Group]) -> int:
    """Bytes that these groups' objects have."""
    return sum(g.object.size for g in groups)
