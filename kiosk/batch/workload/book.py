"""The book of a workload: which jobs were submitted, where each runs, how it ended. What becomes of it is decided here,
without a clock and without asking anybody; the file is replaced whole.

What it guarantees: a job is on one host at a time; it is in the book as starting before it is started; it is put back
only when its host is gone, or has no such job and will not have it; after `TRIES` it is lost, and not tried for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from kiosk import files
from kiosk.batch.api import Host, Look, Pending, Running
from kiosk.batch.workload.file import Jobs, WorkloadFile
from kiosk.batch.workload.guests import Guest, Ran, unit
from kiosk.errors import CorruptError
from kiosk.model.base import explain

TRIES = 3
SURE = 60.0
"""Seconds after which a machine that was told to start a job, and does not know it, never will."""
LARGEST = 64 << 20
State = Literal["later", "waiting", "starting", "running", "done", "failed", "lost"]


@dataclass
class Job:
    """A job that was on a host at least once. waiting: it was put back; lost: it was put back too often."""

    phase: Literal["waiting", "starting", "running", "ended", "lost"]
    host: str
    since: datetime
    attempt: int = 1
    ended: datetime | None = None
    status: int | None = None

    @property
    def is_there(self) -> bool:
        """Whether it takes room on its host."""
        return self.phase in ("starting", "running")

    @property
    def state(self) -> State:
        """In a word for people."""
        return self.phase if self.phase != "ended" else "done" if self.status == 0 else "failed"


@dataclass
class Group:
    """Jobs that are alike, as they were when they were first read; due at `due`. `begun` has those that were started,
    by their number from 1 on."""

    jobs: Jobs
    due: datetime
    begun: dict[int, Job] = field(default_factory=dict)

    def waiting(self) -> int:
        """How many wait."""
        return self.jobs.count - len(self.begun) + sum(j.phase == "waiting" for j in self.begun.values())

    def next(self) -> Iterator[int]:
        """Those that wait, put-back ones first."""
        yield from [i for i, job in self.begun.items() if job.phase == "waiting"]
        yield from [i for i in range(1, self.jobs.count + 1) if i not in self.begun]


@dataclass(frozen=True)
class Start:
    """A job that is to be started on a host."""

    group: str
    index: int
    host: str
    unit: str
    jobs: Jobs


@dataclass
class Book:
    """All of it. `closed` are hosts that kiosk closed, and why."""

    schema: Literal["kiosk.workload/1"] = "kiosk.workload/1"
    closed: dict[str, str] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)

    # -- on disk ----------------------------------------------------------------------------------------

    @classmethod
    def read(cls, path: Path) -> Book:
        """Reads it; a new one where there is none. CorruptError where the file is something else."""
        try:
            with path.open("rb") as f:
                data = f.read(LARGEST + 1)
        except FileNotFoundError:
            return cls()
        if len(data) > LARGEST:
            raise CorruptError("is larger than any workload's state", where=str(path))
        try:
            return BOOK.validate_json(data)
        except ValidationError as e:
            raise CorruptError(
                f"is no state of a workload: {explain(e)}",
                where=str(path),
                hint="Move it away to begin anew.",
            ) from None

    def dump(self) -> bytes:
        """As the file has it."""
        return BOOK.dump_json(self, indent=1)

    def write(self, path: Path) -> None:
        """Replaces the file, durably."""
        files.write(path, self.dump(), mode=0o600)

    # -- what becomes of it -----------------------------------------------------------------------------

    def submit(self, file: WorkloadFile, now: datetime) -> None:
        """Takes up the groups that are new in the file. What was taken up before stays as it was."""
        for jobs in file.jobs:
            if jobs.name not in self.groups:
                self.groups[jobs.name] = Group(jobs, now + timedelta(seconds=jobs.after))

    def on(self, host: str) -> dict[str, tuple[str, int, Job]]:
        """The jobs on a host, by unit."""
        return {
            unit(name, index, job.attempt): (name, index, job)
            for name, group in self.groups.items()
            for index, job in group.begun.items()
            if job.is_there and job.host == host
        }

    def busy(self) -> set[str]:
        """The hosts that have jobs."""
        return {j.host for g in self.groups.values() for j in g.begun.values() if j.is_there}

    def heard(self, host: str, ran: Mapping[str, Ran], now: datetime) -> dict[str, Ran]:
        """Puts down what a host said; returns what it said of jobs that have ended."""
        ended = {}
        for name, (_, _, job) in self.on(host).items():
            one = ran.get(name)
            if one is None:
                continue
            if one.state == "unknown":
                if job.phase == "running" or now - job.since >= timedelta(seconds=SURE):
                    _back(job, now)
            elif one.state == "running":
                job.phase = "running"
            else:
                job.phase, job.ended, job.status = "ended", now, one.status
                ended[name] = one
        return ended

    def only(self, there: Collection[str], now: datetime) -> None:
        """Puts back the jobs of hosts that are not there any more, and forgets that those were closed."""
        for group in self.groups.values():
            for job in group.begun.values():
                if job.is_there and job.host not in there:
                    _back(job, now)
        self.closed = {host: why for host, why in self.closed.items() if host in there}

    def assign(self, guests: Collection[Guest], file: WorkloadFile, now: datetime) -> list[Start]:
        """Gives jobs that wait to open hosts with room, and puts them down as starting: higher queues first, then
        the longest waiting; fuller hosts first, so that others run empty."""
        cores, memory = self._taken()
        open_ = [g for g in guests if g.status == "open" and g.name not in self.closed]
        starts = []
        due = [(name, g) for name, g in self.groups.items() if g.due <= now]
        for name, group in sorted(
            due, key=lambda item: (-file.queue(item[1].jobs.queue).priority, item[1].due)
        ):
            jobs = group.jobs
            for index in group.next():
                fits = [g for g in open_ if _fits(g, jobs, cores[g.name], memory[g.name])]
                if not fits:
                    break
                host = max(fits, key=lambda g: cores[g.name]).name  # the first listed of those
                cores[host] += jobs.cores
                memory[host] += jobs.memory or 0
                before = group.begun.get(index)
                attempt = before.attempt + 1 if before is not None else 1
                group.begun[index] = Job("starting", host, now, attempt)
                starts.append(Start(name, index, host, unit(name, index, attempt), jobs))
        return starts

    def _taken(self) -> tuple[Counter[str], Counter[str]]:
        cores: Counter[str] = Counter()
        memory: Counter[str] = Counter()
        for group in self.groups.values():
            for job in group.begun.values():
                if job.is_there:
                    cores[job.host] += group.jobs.cores
                    memory[job.host] += group.jobs.memory or 0
        return cores, memory

    # -- what is seen of it -----------------------------------------------------------------------------

    def look(self, guests: Collection[Guest], file: WorkloadFile, now: datetime) -> Look:
        """As the scheduler sees it."""
        cores, _ = self._taken()
        count = Counter(j.host for g in self.groups.values() for j in g.begun.values() if j.is_there)
        due = [g for g in self.groups.values() if g.due <= now]
        return Look(
            at=now,
            pending=[
                Pending(g.jobs.queue, g.jobs.user, g.jobs.group, g.jobs.requirements, n, g.due)
                for g in due
                if (n := g.waiting())
            ],
            running=[
                Running(g.jobs.queue, g.jobs.user, g.jobs.group, g.jobs.requirements, n)
                for g in due
                if (n := sum(j.is_there for j in g.begun.values()))
            ],
            hosts=[self._host(g, cores[g.name], count[g.name]) for g in guests],
            queues=[file.queue(name) for name in sorted({g.jobs.queue for g in self.groups.values()})],
        )

    def _host(self, guest: Guest, used: int, jobs: int) -> Host:
        mine = guest.name in self.closed
        others = guest.status == "closed"
        return Host(
            name=guest.name,
            status="unavailable" if guest.status == "silent" else "closed" if mine or others else "open",
            slots=guest.slots, used=used, jobs=jobs, memory=guest.memory, tags=guest.tags, values=guest.values,
            mine=mine, others=others, reason=self.closed.get(guest.name, guest.reason),
        )  # fmt: skip

    def counts(self, now: datetime) -> dict[str, Counter[State]]:
        """How many jobs of each group are in which state."""
        found: dict[str, Counter[State]] = {}
        for name, group in self.groups.items():
            states: Counter[State] = Counter(j.state for j in group.begun.values())
            if fresh := group.jobs.count - len(group.begun):
                states["waiting" if group.due <= now else "later"] += fresh
            found[name] = states
        return found


def _back(job: Job, now: datetime) -> None:
    job.phase, job.since = ("waiting" if job.attempt < TRIES else "lost"), now


def _fits(guest: Guest, jobs: Jobs, cores: int, memory: int) -> bool:
    return (
        guest.slots - cores >= jobs.cores
        and (jobs.memory is None or guest.memory is None or guest.memory - memory >= jobs.memory)
        and guest.tags >= frozenset(jobs.tags)
        and guest.values >= frozenset(jobs.values.items())
    )


BOOK = TypeAdapter(Book)
