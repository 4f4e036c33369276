"""One fetch at work: copies and downloads run side by side, and every region is checked behind them.

Whatever ends it early, no thread of it writes any more when `fill` has returned.
"""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, BinaryIO, Generic, NamedTuple, TypeVar

from kiosk.errors import CorruptError, StorageError
from kiosk.log import logger
from kiosk.model.manifest import Object
from kiosk.store import difference, plan, verity, wire
from kiosk.store.difference import Group
from kiosk.store.index import BLOCK, REGION, REGION_BLOCKS, Index, Pack, Run, Tree, digest_of
from kiosk.store.objects import MissingObject, ObjectSource, Progress
from kiosk.store.partial import Partial

COPIERS = 1
"""One: two would wait for each other, a file has one writer at a time."""
WRITEBACK = 8
"""Regions that the kernel is told to put on disk at a time."""
UNPACKERS = 4
"""Groups unpacked at a time: each takes up to 32 MiB."""
ZERO_REGION = bytes(REGION)
log = logger(__name__)
Item = TypeVar("Item")


class Metered:
    """A source that counts what is read from it."""

    def __init__(self, source: ObjectSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self.bytes = 0
        self.requests = 0

    def read(self, wanted: Object, stop: threading.Event | None = None) -> bytes:
        """Reads and counts."""
        data = self._source.read(wanted, stop)
        with self._lock:
            self.bytes += len(data)
            self.requests += 1
        return data

    def has(self, wanted: Object) -> bool:
        """Asks the source."""
        return self._source.has(wanted)


class Shared(Generic[Item]):
    """An iterator that several threads take from."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        with self._lock:
            return next(self._items)


@dataclass(frozen=True)
class Base:
    """The older file that a difference refers to, open as `fd`, and the difference's groups."""

    fd: int
    groups: Sequence[Group]

    def reference(self, group: Group) -> bytes:
        """The bytes that a group was compressed against, if the file is what it should be. CorruptError where it
        can't be read."""
        try:
            parts = [
                os.pread(self.fd, count * BLOCK, block * BLOCK).ljust(count * BLOCK, b"\0")
                for block, count in group.reference
            ]
        except OSError as e:
            raise CorruptError(f"the older file can't be read: {e.strerror}") from None
        return b"".join(parts)


class Filled(NamedTuple):
    """For each region whether it is wrong (not 0), and the SHA-256 of the file, if it was wanted."""

    wrong: bytes
    digest: str | None


Get = Callable[[], memoryview | None]
Task = tuple[Get, list[plan.Piece]]


class Work:
    """One fetch: copies and downloads run side by side, and every region is checked behind them; with `whole`, the
    SHA-256 of the file is taken as well."""

    def __init__(
        self,
        index: Index,
        partial: Partial,
        source: ObjectSource,
        workers: int,
        progress: Progress,
        *,
        whole: bool,
    ) -> None:
        self.index = index
        self._whole = whole
        self.partial = partial
        self.reused = 0
        self._source = source
        self._workers = workers
        self._progress = progress
        self._unpacking = threading.BoundedSemaphore(UNPACKERS)
        self._shown = 0
        self._changed = threading.Condition()
        self._stop = threading.Event()

    def fill(
        self, todo: plan.Plan, wanted: bytes, seeds: Sequence[BinaryIO] = (), base: Base | None = None
    ) -> Filled:
        """Does what the plan says and looks at all of the file. `seeds` are the files that the plan copies from.
        A plan that uses groups of a difference needs its `base`; groups that can't be used leave holes, and their
        regions are found wrong."""
        self._seeds = seeds
        self._room(todo)
        self._stop = threading.Event()
        tree = self.index.tree
        computed = [(tree.at, len(tree.place))] if tree else []
        self._left = _writes_per_region([*todo.writes(), *computed], self.index.region_count)
        self._zero = bytes(1 if w and not n else 0 for w, n in zip(wanted, self._left, strict=True))
        with ThreadPoolExecutor(self._workers + COPIERS + 2, thread_name_prefix="kiosk-fetch") as pool:
            filled = pool.submit(self._look)
            steps, tasks = Shared(todo.steps()), Shared(self._tasks(todo, base))
            jobs = [pool.submit(self._copy_all, steps) for _ in range(COPIERS)]
            jobs += [pool.submit(self._download_all, tasks) for _ in range(self._workers)]
            if tree:
                jobs.append(pool.submit(self._compute, tree))
            try:
                everything: list[Future[Any]] = [filled, *jobs]
                wait(everything, return_when=FIRST_EXCEPTION)
                for job in jobs:
                    if job.done():
                        job.result()
            finally:
                with self._changed:
                    self._stop.set()
                    self._changed.notify_all()
        self.reused += todo.reused
        return filled.result()

    def reads(self, todo: plan.Plan, base: Base | None = None) -> list[Object]:
        """The objects that a plan reads, in the order of the file."""
        found = [(todo.packs.first(n), self.index.packs[n].object) for n in todo.packs.order]
        if base is not None:
            found += [(todo.groups.first(n), base.groups[n].object) for n in todo.groups.order]
        return [wanted for _, wanted in sorted(found, key=lambda f: f[0])]

    def needs(self, todo: plan.Plan, seeds: Sequence[BinaryIO] = ()) -> int:
        """How many bytes of disk a plan takes at most, besides what the unfinished file has."""
        blocks = todo.downloaded + (len(self.index.tree.place) if self.index.tree else 0)
        if todo.copies:
            to, seed, start, _ = todo.copies[0]
            if not self.partial.shares(seeds[seed].fileno(), start, to):
                blocks += todo.reused
        return blocks * BLOCK

    def _room(self, todo: plan.Plan) -> None:
        """Refuses at once what can't fit, before it fills the disk that running VMs write to."""
        needs, free = self.needs(todo, self._seeds), self.partial.free()
        if needs > free:
            raise StorageError(
                f"needs {needs >> 20} MiB and there are {free >> 20} MiB free",
                where=str(self.partial.target),
                hint="Free some space and run the command again; nothing was left half-written.",
            )

    def _copy_all(self, steps: Shared[Run]) -> None:
        for to, seed, start, length in steps:
            if self._stop.is_set():
                return
            self.partial.copy(self._seeds[seed].fileno(), start, to, length)
            self._wrote([(to, length)])

    def _tasks(self, todo: plan.Plan, base: Base | None) -> list[Task]:
        """What to download, in the order of the file, so that hashing can follow."""
        tasks: list[tuple[int, Task]] = []
        for n in todo.packs.order:
            get: Get = functools.partial(self._unpacked, self.index.packs[n])
            tasks.append((todo.packs.first(n), (get, list(todo.packs.pieces(n)))))
        if base is not None:
            for n in todo.groups.order:
                get = functools.partial(self._patched, base, base.groups[n])
                tasks.append((todo.groups.first(n), (get, list(todo.groups.pieces(n)))))
        return [task for _, task in sorted(tasks, key=lambda t: t[0])]

    def _download_all(self, tasks: Shared[Task]) -> None:
        for get, pieces in tasks:
            if self._stop.is_set():
                return
            self._place(get(), pieces)

    def _place(self, content: memoryview | None, pieces: list[plan.Piece]) -> None:
        if content is not None:
            for to, slot, length in pieces:
                self.partial.write(content[slot * BLOCK : (slot + length) * BLOCK], to)
        self._wrote((to, length) for to, _, length in pieces)

    def _patched(self, base: Base, group: Group) -> memoryview | None:
        """A group's blocks; None when they are not to be had, and packs must give them."""
        try:
            stored = self._source.read(group.object, self._stop)
            with self._unpacking:
                content = difference.unseal(
                    stored, base.reference(group), group.blocks, where=group.object.digest
                )
        except (MissingObject, CorruptError) as e:
            log.warning("a part of the difference is not used: %s", e)
            return None
        return memoryview(content)

    def _unpacked(self, pack: Pack) -> memoryview:
        stored = self._source.read(pack.object, self._stop)
        content = wire.unseal(wire.PACK, stored, limit=pack.blocks * BLOCK, where=pack.object.digest)
        if len(content) != pack.blocks * BLOCK:
            raise CorruptError(f"has not {pack.blocks} blocks as its index says", where=pack.object.digest)
        return memoryview(content)

    def _wrote(self, writes: Iterable[tuple[int, int]]) -> None:
        with self._changed:
            for to, count in writes:
                for region in _regions(to, count):
                    self._left[region] -= 1
            self._changed.notify_all()

    def _compute(self, tree: Tree) -> None:
        """Writes the hash tree of the data, which is read as soon as it is complete."""
        levels = verity.Levels(tree, lambda at, block: self.partial.write(memoryview(block), at))
        begin, end = tree.data, tree.data + tree.blocks
        for region in _regions(begin, tree.blocks):
            if not self._complete(region):
                return
            first = region * REGION_BLOCKS
            data = ZERO_REGION if self._zero[region] else self.partial.read_region(region)
            levels.add(memoryview(data)[max(0, begin - first) * BLOCK : (end - first) * BLOCK])
        levels.finish()
        self._wrote([(tree.at, len(tree.place))])

    def _complete(self, region: int) -> bool:
        """Waits until nothing more will be written to a region; False when all is to end."""
        with self._changed:
            while self._left[region] and not self._stop.is_set():
                self._changed.wait()
            return not self._stop.is_set()

    def _look(self) -> Filled:
        """Hashes the file in order, each region as soon as nothing more will be written to it."""
        whole = hashlib.sha256()
        wrong = bytearray(self.index.region_count)
        for region in range(self.index.region_count):
            if not self._complete(region):
                break
            length = min(REGION, self.index.size - region * REGION)
            data = (
                memoryview(ZERO_REGION)[:length] if self._zero[region] else self.partial.read_region(region)
            )
            wrong[region] = digest_of(data) != self.index.region_digest(region)
            if self._whole:
                whole.update(data)
            self._show(region * REGION + length)
            if region % WRITEBACK == WRITEBACK - 1:
                self.partial.begin_writeback(region + 1 - WRITEBACK, region + 1)
        return Filled(bytes(wrong), "sha256:" + whole.hexdigest() if self._whole else None)

    def _show(self, done: int) -> None:
        if done > self._shown:
            self._progress(done - self._shown)
            self._shown = done


def _regions(to: int, count: int) -> range:
    return range(to // REGION_BLOCKS, (to + count - 1) // REGION_BLOCKS + 1)


def _writes_per_region(writes: Iterable[tuple[int, int]], regions: int) -> list[int]:
    left = [0] * regions
    for to, count in writes:
        for region in _regions(to, count):
            left[region] += 1
    return left
