"""What a simulated farm is given: jobs, types of nodes, queues and shares. Values only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from kiosk.batch.api import Job, Queue, Requirements, Share
from kiosk.scheduler.model import Capacity, NodeType
from kiosk.scheduler.settings import Rule

NO_LIMITS = Capacity()
NO_LIMIT = 7 * 86400.0
"""What the batch system assumes of a job without a run limit."""


@dataclass(frozen=True, slots=True)
class Task:
    """One job: when it is submitted (seconds after the workload's start), how long it will run, and how long the
    batch system has to think that it runs."""

    submitted: float
    seconds: float
    limit: float
    queue: str
    user: str
    group: str | None
    requirements: Requirements


@dataclass(frozen=True)
class Workload:
    """A whole one. `tasks` are in the order of submission; `boot` is what a node takes from the wish for it until it
    takes jobs, `look` how often a policy looks, both in seconds."""

    name: str
    begin: datetime
    tasks: Sequence[Task]
    types: Mapping[str, NodeType]
    rules: Sequence[Rule] = ()
    queues: Sequence[Queue] = ()
    shares: Sequence[Share] = ()
    capacity: Capacity = NO_LIMITS
    boot: float = 300.0
    look: float = 300.0


def tasks(jobs: Iterable[Job], begin: datetime | None = None) -> tuple[datetime, list[Task]]:
    """The tasks of accounts: jobs that never ran are left out. They begin with the first submission."""
    ran = sorted((job for job in jobs if job.started is not None), key=lambda job: job.submitted)
    if not ran:
        return begin or datetime.fromtimestamp(0).astimezone(), []
    start = begin or ran[0].submitted
    made = []
    for job in ran:
        assert job.started is not None
        seconds = max(0.0, (job.ended - job.started).total_seconds())
        limit = float(job.requirements.run_limit or NO_LIMIT)
        submitted = (job.submitted - start).total_seconds()
        made.append(Task(submitted, seconds, limit, job.queue, job.user, job.group, job.requirements))
    return start, made
