"""Decides where each block of a file comes from: an older file on this host, a group of a difference, or a pack.

Pure. A block's identity is (pack, slot): a host that holds an older file and its index knows which blocks it
has without hashing any. Whether the older file still has them is found out later, by the regions' digests.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kiosk.store.difference import Difference
from kiosk.store.index import REGION_BLOCKS, Index, Run, Runs

COPY_BLOCKS = 2048


class Piece(NamedTuple):
    """`length` blocks at `slot` of a pack or a group that belong at block `to`."""

    to: int
    slot: int
    length: int


Intervals = tuple["array[int]", "array[int]", "array[int]"]
"""Slots, how many, and the blocks of a file that are the same: ascending and disjoint."""


class Held:
    """The blocks that a file holds (an older one, or what a difference yields), as disjoint ascending intervals
    of slots of each pack. `digests` names the packs that `runs` number."""

    def __init__(self, digests: Sequence[str], held: Runs) -> None:
        self._packs: dict[str, Intervals] = {}
        members = by_source(held, len(digests))
        for number, digest in enumerate(digests):
            self._packs[digest] = _disjoint(
                (held.slot[i], held.count[i], held.to[i]) for i in members[number]
            )

    @staticmethod
    def by(index: Index) -> Held:
        """What a file with this index holds."""
        return Held([p.object.digest for p in index.packs], index.runs)

    def knowing(self, index: Index) -> Held:
        """The same, with the blocks that this index has under new names since they were stored again."""
        under_new: dict[str, list[tuple[int, int, int]]] = {}
        for pack, at, length, old, old_slot in index.moved:
            for slot, count, block in self.split(old, old_slot, length):
                if block is not None:
                    rows = under_new.setdefault(index.packs[pack].object.digest, [])
                    rows.append((at + slot - old_slot, count, block))
        known = Held((), Runs())
        known._packs = {d: _disjoint(rows) for d, rows in under_new.items()} | self._packs
        return known

    def split(self, pack: str, slot: int, count: int) -> Iterator[tuple[int, int, int | None]]:
        """Cuts an interval of slots into (slot, count, block of the older file, or None if it has them not)."""
        slots, counts, blocks = self._packs.get(pack, ((), (), ()))
        end = slot + count
        i = max(0, bisect.bisect_right(slots, slot) - 1)
        while slot < end and i < len(slots):
            if slots[i] + counts[i] <= slot:
                i += 1
                continue
            if slots[i] >= end:
                break
            if slots[i] > slot:
                yield slot, slots[i] - slot, None
                slot = slots[i]
            n = min(end, slots[i] + counts[i]) - slot
            yield slot, n, blocks[i] + slot - slots[i]
            slot += n
        if slot < end:
            yield slot, end - slot, None


def _disjoint(rows: Iterable[tuple[int, int, int]]) -> Intervals:
    """Rows (slot, count, block) in order, without what rows before them have."""
    slots, counts, blocks = array("I"), array("I"), array("I")
    end = 0
    for slot, count, block in sorted(rows):
        skip = max(0, end - slot)
        if skip < count:
            slots.append(slot + skip)
            counts.append(count - skip)
            blocks.append(block + skip)
            end = slot + count
    return slots, counts, blocks


def by_source(runs: Runs, sources: int) -> list[array[int]]:
    """For each pack or group, the numbers of its runs."""
    members = [array("I") for _ in range(sources)]
    for i, source in enumerate(runs.pack):
        members[source].append(i)
    return members


class Download:
    """What must come from objects of one kind: `runs` name a pack (or a group) and a slot in it; `order` those
    that have any, by where they are needed first."""

    def __init__(self, runs: Runs, sources: int) -> None:
        self.runs = runs
        self._members = by_source(runs, sources)
        self.order = sorted(
            (n for n in range(sources) if self._members[n]), key=lambda n: runs.to[self._members[n][0]]
        )

    def pieces(self, number: int) -> Iterator[Piece]:
        """What of a pack or a group goes where."""
        for i in self._members[number]:
            yield Piece(self.runs.to[i], self.runs.slot[i], self.runs.count[i])

    def first(self, number: int) -> int:
        """The first block that a pack or a group is needed for."""
        return self.runs.to[self._members[number][0]]


@dataclass(frozen=True)
class Plan:
    """What to copy, and what to download. A run of `copies` names an older file in place of a pack, and a block
    of it in place of a slot. `moved` is how many bytes the objects have."""

    copies: Runs
    packs: Download
    groups: Download
    moved: int

    def steps(self) -> Iterator[Run]:
        """The copies, none longer than COPY_BLOCKS."""
        for to, seed, start, length in self.copies:
            for at in range(0, length, COPY_BLOCKS):
                yield Run(to + at, seed, start + at, min(COPY_BLOCKS, length - at))

    def writes(self) -> Iterator[tuple[int, int]]:
        """Every write that will be made, as (block, how many)."""
        yield from ((step.to, step.length) for step in self.steps())
        for download in (self.packs, self.groups):
            yield from zip(download.runs.to, download.runs.count, strict=True)

    @property
    def reused(self) -> int:
        """Blocks to be copied."""
        return sum(self.copies.count)

    @property
    def downloaded(self) -> int:
        """Blocks to be filled from objects."""
        return sum(self.packs.runs.count) + sum(self.groups.runs.count)


def make(index: Index, wanted: bytes, seeds: Sequence[Held], difference: Difference | None = None) -> Plan:
    """The plan for the regions whose byte in `wanted` is not 0: what older files have is copied, what a
    difference yields comes from its groups, and the rest from packs."""
    copies = Runs()
    rest = Runs()
    if index.moved:
        seeds = [held.knowing(index) for held in seeds]
    for run in _within(index.runs, wanted):
        _place(run, index.packs[run.pack].object.digest, seeds, 0, copies, rest)
    yielded = Runs()
    groups = difference.groups if difference else ()
    if difference:
        rest = _through(index, difference, rest, yielded)
    from_packs, from_groups = Download(rest, len(index.packs)), Download(yielded, len(groups))
    moved = sum(index.packs[n].object.size for n in from_packs.order)
    moved += sum(groups[n].object.size for n in from_groups.order)
    return Plan(copies, from_packs, from_groups, moved)


def _through(index: Index, difference: Difference, runs: Runs, yielded: Runs) -> Runs:
    """Moves to `yielded`, by group and block in it, what the difference yields; returns the others."""
    starts = difference.starts()
    held = Held([p.object.digest for p in index.packs], difference.runs())
    rest = Runs()
    for to, pack, slot, length in runs:
        for first, count, block in held.split(index.packs[pack].object.digest, slot, length):
            at = to + first - slot
            if block is None:
                rest.append(at, pack, first, count)
                continue
            while count:
                group = bisect.bisect_right(starts, block) - 1
                n = min(count, starts[group + 1] - block)
                yielded.append(at, group, block - starts[group], n)
                at, block, count = at + n, block + n, count - n
    return rest


def _place(run: Run, digest: str, seeds: Sequence[Held], first: int, copies: Runs, rest: Runs) -> None:
    """Divides a run between the older files, asked in turn, and the packs."""
    if first == len(seeds):
        rest.append(*run)
        return
    for slot, count, block in seeds[first].split(digest, run.slot, run.length):
        to = run.to + slot - run.slot
        if block is None:
            _place(Run(to, run.pack, slot, count), digest, seeds, first + 1, copies, rest)
        else:
            copies.append(to, first, block, count)


def _within(runs: Runs, wanted: bytes) -> Iterator[Run]:
    """The parts of the runs that lie in wanted regions."""
    everything = 0 not in wanted
    for run in runs:
        if everything:
            yield run
            continue
        to, end = run.to, run.to + run.length
        while to < end:
            region = to // REGION_BLOCKS
            stop = region
            while stop * REGION_BLOCKS < end and wanted[stop] == wanted[region]:
                stop += 1
            until = min(end, stop * REGION_BLOCKS)
            if wanted[region]:
                yield Run(to, run.pack, run.slot + to - run.to, until - to)
            to = until
