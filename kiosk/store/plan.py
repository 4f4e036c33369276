"""Decides where each block of a file comes from: an older file on this host, or a pack. Pure.

A block's identity is (pack, slot): a host that holds an older file and its index knows which blocks it has
without hashing any. Whether the older file still has them is found out later, by the regions' digests.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kiosk.store.index import BLOCK, REGION, Index, Run, Runs

REGION_BLOCKS = REGION // BLOCK
COPY_BLOCKS = 2048


class Piece(NamedTuple):
    """`length` blocks at `slot` of a pack that belong at block `to`."""

    to: int
    slot: int
    length: int


class Held:
    """The blocks that an older file holds, as disjoint ascending intervals of slots of each pack."""

    def __init__(self, index: Index) -> None:
        self._packs: dict[str, tuple[array[int], array[int], array[int]]] = {}
        members = by_pack(index.runs, len(index.packs))
        for number, pack in enumerate(index.packs):
            runs = sorted(
                (index.runs.slot[i], index.runs.count[i], index.runs.to[i]) for i in members[number]
            )
            slots, counts, blocks = array("I"), array("I"), array("I")
            end = 0
            for slot, count, block in runs:
                skip = max(0, end - slot)
                if skip < count:
                    slots.append(slot + skip)
                    counts.append(count - skip)
                    blocks.append(block + skip)
                    end = slot + count
            self._packs[pack.object.digest] = (slots, counts, blocks)

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


def by_pack(runs: Runs, packs: int) -> list[array[int]]:
    """For each pack, the numbers of its runs."""
    members = [array("I") for _ in range(packs)]
    for i, pack in enumerate(runs.pack):
        members[pack].append(i)
    return members


@dataclass(frozen=True)
class Plan:
    """What to copy, and what to download.

    A run of `copies` names an older file in place of a pack, and a block of it in place of a slot. `runs` are
    what must come from packs, `order` the packs that have any, by where they are needed first, and `members`
    each pack's runs.
    """

    copies: Runs
    runs: Runs
    order: list[int]
    members: list[array[int]]

    def pieces(self, pack: int) -> Iterator[Piece]:
        """What of a pack goes where."""
        for i in self.members[pack]:
            yield Piece(self.runs.to[i], self.runs.slot[i], self.runs.count[i])

    def steps(self) -> Iterator[Run]:
        """The copies, none longer than COPY_BLOCKS."""
        for to, seed, start, length in self.copies:
            for at in range(0, length, COPY_BLOCKS):
                yield Run(to + at, seed, start + at, min(COPY_BLOCKS, length - at))

    def writes(self) -> Iterator[tuple[int, int]]:
        """Every write that will be made, as (block, how many)."""
        yield from ((step.to, step.length) for step in self.steps())
        yield from zip(self.runs.to, self.runs.count, strict=True)

    @property
    def reused(self) -> int:
        """Blocks to be copied."""
        return sum(self.copies.count)

    @property
    def downloaded(self) -> int:
        """Blocks to be filled from packs."""
        return sum(self.runs.count)


def make(index: Index, wanted: bytes, seeds: Sequence[Held]) -> Plan:
    """The plan for the regions whose byte in `wanted` is not 0."""
    copies = Runs()
    runs = Runs()
    for run in _within(index.runs, wanted):
        _place(run, index.packs[run.pack].object.digest, seeds, 0, copies, runs)
    members = by_pack(runs, len(index.packs))
    order = sorted((p for p in range(len(index.packs)) if members[p]), key=lambda p: runs.to[members[p][0]])
    return Plan(copies, runs, order, members)


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
