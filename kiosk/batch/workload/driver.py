"""The workload as a batch system: jobs from a file, run inside the machines that are up, one look after the other.

What it guarantees: whatever ends it, and whenever, the next look goes on where it was, and no job runs on two
machines; a machine that does not answer keeps its jobs until it is gone; each machine is asked by one command a look.
With `observes` nothing is written and nothing is run in a machine. Nothing happens between two looks: a job's end is
noticed, and the next one started, by the next look.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from kiosk import clock, files
from kiosk.batch.api import Look
from kiosk.batch.workload import guests as told
from kiosk.batch.workload.book import Book, Start
from kiosk.batch.workload.file import WorkloadFile
from kiosk.batch.workload.guests import Guest, Guests, Ran
from kiosk.errors import BatchError, KioskError
from kiosk.log import logger

log = logger(__name__)
AT_ONCE = 8
"""Machines that are asked at the same time."""
Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass
class Workload:
    """`file` has the jobs, `state` is what is kept of them. A look takes `timeout` seconds at the most, and what was
    not come to then is for the next one."""

    file: Path
    state: Path
    guests: Guests
    timeout: float = 60.0
    observes: bool = False
    now: clock.Clock = clock.now
    queries: int = 0
    name: str = "workload"

    def look(self) -> Look:
        """Asks how jobs are, starts those that there is room for, and says what waits and runs."""
        until = time.monotonic() + self.timeout
        with self._held() as book:
            file = WorkloadFile.read(self.file)
            there, now = self.guests.list(), self.now()
            book.submit(file, now)
            if not self.observes:
                self._ask(book, there, until)
                book.only({guest.name for guest in there}, now)
                self._start(book, book.assign(there, file, now), until)
            return book.look(there, file, now)

    def close(self, host: str, reason: str) -> None:
        """Starts no more jobs on a host."""
        with self._held() as book:
            book.closed.setdefault(host, reason)

    def open(self, host: str) -> None:
        """Starts jobs on it again."""
        with self._held() as book:
            book.closed.pop(host, None)

    def remove(self, host: str) -> None:
        """Forgets a host that is gone; its jobs, if it had any, wait again."""
        with self._held() as book:
            book.only({*book.busy(), *book.closed} - {host}, self.now())

    @contextmanager
    def _held(self) -> Iterator[Book]:
        """The book, under its lock; it is written where the block ends well. Whatever fails is a BatchError."""
        try:
            if self.observes:
                yield Book.read(self.state)
                return
            self.state.parent.mkdir(parents=True, exist_ok=True)
            lock = self.state.with_name(f"{self.state.name}.lock")
            with files.waiting(lock, what="the workload", seconds=self.timeout):
                book = Book.read(self.state)
                before = book.dump()
                yield book
                if book.dump() != before:
                    book.write(self.state)
        except BatchError:
            raise
        except KioskError as e:
            raise BatchError(f"the workload is unknown: {e.what}", where=e.where, hint=e.hint) from e

    def _ask(self, book: Book, there: Sequence[Guest], until: float) -> None:
        """Asks each machine with jobs how they are, and has it forget those that ended once that is written down."""
        units = {g.name: list(book.on(g.name)) for g in there if g.status != "silent"}

        def ask(item: tuple[str, list[str]]) -> dict[str, Ran]:
            status, answer = self.guests.run(item[0], told.ask(item[1]), _left(until))
            return told.understood(answer, item[1]) if status == 0 else {}

        asked = [(host, names) for host, names in units.items() if names]
        self.queries += len(asked)
        ended: dict[str, dict[str, Ran]] = {}
        for (host, _), ran in zip(asked, _each(ask, asked), strict=True):
            ended[host] = book.heard(host, ran or {}, self.now())
        if any(ended.values()):
            book.write(self.state)
            _each(lambda item: self._forget(*item, until), ended.items())

    def _forget(self, host: str, ended: Mapping[str, Ran], until: float) -> None:
        for command in told.forget(dict(ended)):
            self.guests.run(host, command, _left(until))

    def _start(self, book: Book, starts: Sequence[Start], until: float) -> None:
        """Starts jobs that are in the book as starting. What became of one that could not be told is asked for by the
        next look: the machine knows it or does not."""
        if not starts:
            return
        book.write(self.state)
        by_host = [
            list(those) for _, those in groupby(sorted(starts, key=lambda s: s.host), key=lambda s: s.host)
        ]

        def start(those: list[Start]) -> list[Start]:
            return [s for s in those if self._started(s, until)]

        for well in _each(start, by_host):
            for one in well or ():
                book.groups[one.group].begun[one.index].phase = "running"

    def _started(self, one: Start, until: float) -> bool:
        status, said = self.guests.run(one.host, told.start(one.unit, one.jobs), _left(until))
        if status != 0:
            log.warning("%s does not start %s: status %d, %r", one.host, one.unit, status, said[:200])
        return status == 0


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise BatchError("no time left in this look")
    return left


def _each(call: Callable[[Item], Answer], items: Iterable[Item]) -> list[Answer | None]:
    """What a call says of each item, several at a time; None, with a warning, where it fails."""

    def one(item: Item) -> Answer | None:
        try:
            return call(item)
        except KioskError as e:
            log.warning("a machine with jobs does not answer: %s", e)
            return None

    every = list(items)
    if len(every) < 2:
        return [one(item) for item in every]
    with ThreadPoolExecutor(min(AT_ONCE, len(every))) as pool:
        return list(pool.map(one, every))
