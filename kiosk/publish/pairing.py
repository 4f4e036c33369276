"""Which blocks of the version before are worth referring to, for each block that is new. Pure.

A new block most likely resembles what the file of the same path had there before: packages are updated file by
file. So new blocks are taken file by file, in the order of paths (what changes together stands together, and is
compressed together), each with a window of the old file around the same place as reference. Version numbers in
paths are folded, so that a new kernel's modules meet the old one's. Blocks that belong to no file (inode tables,
directories) meet what stood at their own place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from kiosk.store.index import Run, Runs

CONTENT = 1024
"""Blocks that a group yields at most: 4 MiB."""
REFERENCE = 2048
"""Blocks that a group refers to at most: 8 MiB."""
SLACK = 64
"""Blocks of reference on either side of a window: what an insertion or two moves a file's content by."""
FAR = 256
"""A gap of so many blocks in a file's new blocks begins another window."""
_NUMBER = re.compile(rb"\d+")

Interval = tuple[int, int]


@dataclass(frozen=True)
class Placed:
    """A file and where its blocks lie: (first block in the file, first block on the disk, how many)."""

    path: bytes
    extents: Sequence[tuple[int, int, int]]

    @property
    def blocks(self) -> int:
        """Blocks from its beginning to its last extent's end."""
        return max((first + count for first, _, count in self.extents), default=0)


@dataclass
class Group:
    """Blocks to compress together: where they stand in the new file, who they are, and what to refer to."""

    content: list[Interval] = field(default_factory=list)
    yields: list[tuple[int, int, int]] = field(default_factory=list)
    reference: list[Interval] = field(default_factory=list)
    blocks: int = 0
    reference_blocks: int = 0


def pair(new: Runs, files: Sequence[Placed], old: Sequence[Placed], old_blocks: int) -> Iterator[Group]:
    """Groups for the runs `new` of a disk with these files, against an older disk of `old_blocks` blocks."""
    parts: dict[int, list[_Part]] = {}
    for number, part in _by_file(new, files):
        parts.setdefault(number, []).append(part)
    finder = _Finder(old)
    group = Group()
    for number in sorted(parts):
        base = finder.like(files[number].path) if number >= 0 else None
        size = files[number].blocks if number >= 0 else 0
        for window in _windows(sorted(parts[number], key=lambda p: p.at)):
            wanted = sum(p.run.length for p in window)
            reference = _reference(window, base, size, old_blocks if number < 0 else 0)
            needed = sum(n for _, n in reference)
            if group.blocks and (
                group.blocks + wanted > CONTENT or group.reference_blocks + needed > REFERENCE
            ):
                yield group
                group = Group()
            _add(group, window, reference)
    if group.blocks:
        yield group


@dataclass(frozen=True)
class _Part:
    """New blocks that stand together in a file, from its block `at` on."""

    at: int
    run: Run


def _by_file(new: Runs, files: Sequence[Placed]) -> Iterator[tuple[int, _Part]]:
    """Cuts the runs where files do; -1 for what belongs to none, with its place on the disk as `at`."""
    extents = sorted(
        (start, count, number, first) for number, f in enumerate(files) for first, start, count in f.extents
    )
    i = 0
    for run in new:
        to, end = run.to, run.to + run.length
        while to < end:
            while i < len(extents) and extents[i][0] + extents[i][1] <= to:
                i += 1
            start, count, number, first = extents[i] if i < len(extents) else (end, 0, -1, 0)
            inside = start <= to
            n = (min(end, start + count) if inside else min(end, start)) - to
            part = Run(to, run.pack, run.slot + to - run.to, n)
            yield (number, _Part(first + to - start, part)) if inside else (-1, _Part(to, part))
            to += n


def _windows(parts: Iterable[_Part]) -> Iterator[list[_Part]]:
    """Parts that are near each other, not more than a group holds at a time."""
    window: list[_Part] = []
    held = end = 0
    for part in parts:
        at, run = part.at, part.run
        while run.length:
            if window and (held == CONTENT or at - end > FAR):
                yield window
                window, held = [], 0
            n = min(run.length, CONTENT - held)
            window.append(_Part(at, Run(run.to, run.pack, run.slot, n)))
            held, at, end = held + n, at + n, at + n
            run = Run(run.to + n, run.pack, run.slot + n, run.length - n)
    if window:
        yield window


def _reference(window: Sequence[_Part], base: Placed | None, size: int, disk: int) -> list[Interval]:
    """The blocks of the older disk to refer to."""
    if base is None:  # the same place on the disk, as far as it goes
        same = ((p.run.to, min(p.run.length, disk - p.run.to)) for p in window)
        return [(block, n) for block, n in same if n > 0]
    first, last = window[0].at, window[-1].at + window[-1].run.length
    scale = base.blocks / size if size else 1.0
    begin = max(0, min(first, int(first * scale)) - SLACK)
    end = max(last, int(last * scale) + 1) + SLACK
    found: list[Interval] = []
    left = REFERENCE
    for at, start, count in base.extents:
        a, b = max(at, begin), min(at + count, end)
        if a < b and left > 0:
            n = min(b - a, left)
            found.append((start + a - at, n))
            left -= n
    return found


def _add(group: Group, window: Sequence[_Part], reference: Sequence[Interval]) -> None:
    for part in window:
        run = part.run
        if group.content and sum(group.content[-1]) == run.to:
            group.content[-1] = (group.content[-1][0], group.content[-1][1] + run.length)
        else:
            group.content.append((run.to, run.length))
        last = group.yields[-1] if group.yields else None
        if last and last[0] == run.pack and last[1] + last[2] == run.slot:
            group.yields[-1] = (last[0], last[1], last[2] + run.length)
        else:
            group.yields.append((run.pack, run.slot, run.length))
        group.blocks += run.length
    for block, count in reference:
        last_end = sum(group.reference[-1]) if group.reference else -1
        if group.reference and group.reference[-1][0] <= block < last_end:  # the window before, gone on
            count -= min(count, last_end - block)
            block = last_end
        if count and block == last_end:
            group.reference[-1] = (group.reference[-1][0], group.reference[-1][1] + count)
        elif count:
            group.reference.append((block, count))
        group.reference_blocks += count


class _Finder:
    """Finds the older file that a path most likely goes on from."""

    def __init__(self, old: Iterable[Placed]) -> None:
        self._exact: dict[bytes, Placed] = {}
        self._folded: dict[bytes, Placed] = {}
        self._named: dict[bytes, Placed | None] = {}
        for f in old:
            self._exact[f.path] = f
            self._folded[_NUMBER.sub(b"#", f.path)] = f
            name = _NUMBER.sub(b"#", f.path.rpartition(b"/")[2])
            self._named[name] = None if name in self._named else f

    def like(self, path: bytes) -> Placed | None:
        """The file of this path; of this path but for numbers; the only one of this name but for numbers."""
        folded = _NUMBER.sub(b"#", path)
        found = self._exact.get(path) or self._folded.get(folded)
        return found or self._named.get(folded.rpartition(b"/")[2])
