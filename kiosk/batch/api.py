"""What kiosk asks of a batch system: one look at what waits and what runs, and to close, open and remove a host.

A look is whole or it is an error: a table that could not be read never reads as an empty one. A host is closed by a
lock of kiosk's own where the batch system has such locks, and by kiosk's mark in its reason elsewhere; kiosk opens
and removes only what it closed itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

HostStatus = Literal["open", "closed", "unavailable"]
"""open: takes jobs (also where all its slots are busy now); closed: takes no new jobs; unavailable: does not answer."""


@dataclass(frozen=True)
class Requirements:
    """What one job needs. `cores` of the whole job, on one host where `one_host`; `memory` in MiB on each host for
    the whole job, or for each core where it may be on several; `run_limit` in seconds; `tags` are names that a host
    must have (features, boolean resources), `values` what must be equal to something (`os == debian12`); `text` is the
    resource string as the batch system has it, for people and for rules."""

    cores: int = 1
    one_host: bool = True
    memory: int | None = None
    run_limit: int | None = None
    tags: frozenset[str] = frozenset()
    values: frozenset[tuple[str, str]] = frozenset()
    text: str = ""


@dataclass(frozen=True)
class Pending:
    """Jobs that wait and are alike; `oldest` is when the first of them was submitted. Jobs that wait for another
    job, a date, or a person (`held`) are no demand for nodes yet, and are told apart."""

    queue: str
    user: str
    group: str | None
    requirements: Requirements
    jobs: int
    oldest: datetime
    held: bool = False


@dataclass(frozen=True)
class Running:
    """Jobs that run and are alike, as `Pending`."""

    queue: str
    user: str
    group: str | None
    requirements: Requirements
    jobs: int


@dataclass(frozen=True)
class Host:
    """A host of the batch system. `locks` are the identifiers of those who closed it, `mine` says that kiosk is among
    them and `others` that somebody else is; `used` of its `slots` are busy with `jobs` jobs."""

    name: str
    status: HostStatus
    slots: int
    used: int
    jobs: int
    memory: int | None = None
    tags: frozenset[str] = frozenset()
    values: frozenset[tuple[str, str]] = frozenset()
    mine: bool = False
    others: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Queue:
    """A queue or partition. Higher `priority` goes first; `limit` is the largest number of slots its jobs may have.
    `is_open` says that its jobs are started; whether it takes new ones is another matter."""

    name: str
    priority: int
    is_open: bool
    limit: int | None = None


@dataclass(frozen=True)
class Share:
    """What a user or group of users was promised and has had: `shares` beside its siblings', `used` slot seconds with
    the batch system's own decay where it says them, `priority` as the batch system computed it. `queue` is None for
    shares of the whole cluster; `parent` names the group that it is part of."""

    name: str
    shares: float
    queue: str | None = None
    parent: str | None = None
    used: float | None = None
    priority: float | None = None


@dataclass(frozen=True)
class Look:
    """A whole look at the batch system at one moment."""

    at: datetime
    pending: Sequence[Pending] = ()
    running: Sequence[Running] = ()
    hosts: Sequence[Host] = ()
    queues: Sequence[Queue] = ()
    shares: Sequence[Share] = ()


@dataclass(frozen=True)
class Job:
    """A job of the past, as accounts have it. `started` is None where it never ran."""

    id: str
    queue: str
    user: str
    group: str | None
    requirements: Requirements
    submitted: datetime
    started: datetime | None
    ended: datetime
    hosts: Sequence[str] = field(default=())


class BatchSystem(Protocol):
    """The interface. Each call is bounded in time and size, and raises BatchError where the batch system can't be
    reached or says what can't be understood; nothing is then known, and nothing may be concluded."""

    @property
    def name(self) -> str:
        """The kind and dialect, as it found them: `slurm 22.05`, `lsf 10.1`, `volclava 2.2`."""

    @property
    def queries(self) -> int:
        """How many commands were run to ask the batch system since this was made."""

    def look(self) -> Look:
        """All that is needed for one tick, by one query of each kind at most."""

    def close(self, host: str, reason: str) -> None:
        """Has a host take no new jobs; what runs there goes on. Nothing changes where kiosk closed it before."""

    def open(self, host: str) -> None:
        """Takes kiosk's own lock away; the host stays closed where somebody else closed it."""

    def remove(self, host: str) -> None:
        """Takes a host that is gone out of the batch system's lists, where it has to be told; nothing else runs there.
        Nothing changes where it does not know the host."""


class Accounts(Protocol):
    """Jobs of the past, from files or a command's output: lsb.acct, sacct, the Standard Workload Format."""

    def jobs(self) -> Iterator[Job]:
        """All jobs, in the order of the file; BatchError names file and line of what can't be read."""
