"""Makes the difference of a disk to an older one, file by file, on all cores, in a given time.

* Groups are stored before the list that names them; what a killed run leaves is named by nothing.
* Only regions of the older file that its own index vouches for are referred to: an older file that was changed
  meanwhile makes a longer difference, never a wrong one.
* The compression level is the highest that the time still left allows, decided anew for each group, so that
  the same call may give other bytes. What the groups yield is always the same.
"""

from __future__ import annotations

import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from kiosk.disk import ext4, partitions
from kiosk.errors import CorruptError
from kiosk.log import logger
from kiosk.model.manifest import Difference
from kiosk.publish import pairing
from kiosk.store import difference, plan
from kiosk.store.index import BLOCK, REGION, REGION_BLOCKS, Index, Runs, digest_of
from kiosk.store.objects import ObjectStore, named

log = logger(__name__)

WORTH = 0.9
"""A difference is kept when it has at most this share of the bytes that packs would move."""
PACE = {7: 80e6, 9: 62e6, 10: 50e6, 19: 2.9e6}
"""Bytes a second that a core compresses, by level: where the measuring begins. Other levels are not worth it: a day
of package updates took 47, 41, 37, and 34 MB with these four, 63 MB with 6 in the time of 7, and 37 MB with 15."""


@dataclass(frozen=True)
class Older:
    """An older file: where it is, its digest, and its index."""

    path: Path
    digest: str
    index: Index


def make(path: Path, index: Index, older: Older, store: ObjectStore, *, seconds: float) -> Difference | None:
    """The difference of the file `path`, published with `index`, to an older one; None where it doesn't pay.

    Takes about `seconds`, more only when the lowest level takes longer.
    """
    begin = time.monotonic()
    wanted = bytes(b"\1" * index.region_count)
    todo = plan.make(index, wanted, [plan.Held.by(older.index)])
    if not todo.packs.order:
        return None
    new = _first_places(todo.packs.runs)
    with contextlib.ExitStack() as stack:
        fd = stack.enter_context(path.open("rb")).fileno()
        old = stack.enter_context(older.path.open("rb")).fileno()
        files, before = _files(fd, index.size), _files(old, older.index.size)
        groups = list(pairing.pair(new, files, before, older.index.blocks))
        pace = _Pace(sum(g.blocks for g in groups) * BLOCK, begin + seconds)
        source = _Reference(old, older.index)
        with ThreadPoolExecutor(pace.workers, thread_name_prefix="kiosk-difference") as pool:
            sealed = list(pool.map(lambda g: _seal(fd, source, g, pace, store), groups))
    made = [group for group, _ in sealed]
    found = difference.Difference(older.index.blocks, len(index.packs), tuple(made))
    size = difference.cost(made)
    if size > todo.moved * WORTH:
        for group, is_new in sealed:
            if is_new:
                store.remove(group.object.digest)
        return None
    return Difference(base=older.digest, groups=store.write(difference.encode(found)), size=size)


def _first_places(runs: Runs) -> Runs:
    """The runs without blocks that were there earlier in the file: a group yields each once."""
    seen: set[tuple[int, int]] = set()
    found = Runs()
    for to, pack, slot, length in runs:
        for i in range(length):
            if (pack, slot + i) not in seen:
                seen.add((pack, slot + i))
                found.append(to + i, pack, slot + i, 1)
    return found


def _files(fd: int, size: int) -> list[pairing.Placed]:
    """The files of all ext4 file systems on a disk; none where it has none that can be read."""
    found: list[pairing.Placed] = []
    for area in partitions.areas(fd, size):
        first = area.offset // BLOCK
        with contextlib.suppress(CorruptError):
            for f in ext4.FileSystem(fd, area.offset).files():
                placed = [(at, first + start, count) for at, start, count in f.extents]
                found.append(pairing.Placed(f.path, placed))
    return found


class _Reference:
    """An older file's blocks; those of a region that is not what the index says are left out."""

    def __init__(self, fd: int, index: Index) -> None:
        self._fd = fd
        self._index = index
        self._good: dict[int, bool] = {}

    def intervals(self, wanted: list[pairing.Interval]) -> list[pairing.Interval]:
        """The wanted intervals without what is not right."""
        found: list[pairing.Interval] = []
        for block, count in wanted:
            end = block + count
            while block < end:
                region = block // REGION_BLOCKS
                n = min(end, (region + 1) * REGION_BLOCKS) - block
                if self._is_good(region):
                    if found and sum(found[-1]) == block:
                        found[-1] = (found[-1][0], found[-1][1] + n)
                    else:
                        found.append((block, n))
                block += n
        return found

    def read(self, intervals: list[pairing.Interval]) -> bytes:
        """The bytes of intervals, one after the other."""
        return _blocks(self._fd, intervals)

    def _is_good(self, region: int) -> bool:
        if region >= self._index.region_count:
            return False
        if region not in self._good:
            data = os.pread(self._fd, min(REGION, self._index.size - region * REGION), region * REGION)
            self._good[region] = digest_of(data) == self._index.region_digest(region)
        return self._good[region]


def _blocks(fd: int, intervals: list[pairing.Interval]) -> bytes:
    return b"".join(os.pread(fd, n * BLOCK, at * BLOCK).ljust(n * BLOCK, b"\0") for at, n in intervals)


@dataclass
class _Pace:
    """Chooses levels so that all is done at about `deadline`."""

    left: int
    deadline: float
    workers: int = field(default_factory=lambda: max(2, os.cpu_count() or 2))
    factor: float = 1.0
    _lock: Lock = field(default_factory=Lock)

    def level(self) -> int:
        """The level for the next group."""
        with self._lock:
            seconds = max(0.01, self.deadline - time.monotonic()) * self.workers
            needed = self.left / seconds
            fitting = [level for level, pace in PACE.items() if pace * self.factor >= needed]
        return max(fitting, default=min(PACE))

    def done(self, level: int, size: int, seconds: float) -> None:
        """Learns from a finished group how fast this machine is with this content."""
        with self._lock:
            self.left -= size
            if seconds > 0.001:
                seen = size / seconds / PACE[level]
                self.factor += 0.3 * (seen - self.factor)


def _seal(
    fd: int, source: _Reference, group: pairing.Group, pace: _Pace, store: ObjectStore
) -> tuple[difference.Group, bool]:
    """A stored group, and whether the store did not have it before."""
    begin = time.monotonic()
    level = pace.level()
    intervals = source.intervals(group.reference)
    content = _blocks(fd, group.content)
    stored = difference.seal(content, source.read(intervals), level=level)
    pace.done(level, len(content), time.monotonic() - begin)
    is_new = not store.has(named(stored))
    return difference.Group(store.write(stored), tuple(intervals), tuple(group.yields)), is_new
