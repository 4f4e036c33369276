"""The workload that accounts are: jobs of the past on the nodes of a configuration, or on the machines of a trace.

What accounts do not say is not made up: queues have no priorities and users no shares there, jobs that wait for others
are submitted when they were, and what never ran is left out. Jobs are read one after the other, and those of a month
are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from kiosk.batch.accounts.read import accounts
from kiosk.batch.accounts.swf import Swf
from kiosk.batch.api import Job
from kiosk.errors import NotFoundError, UsageError
from kiosk.model.flavour import Flavour
from kiosk.scheduler.model import NodeType
from kiosk.scheduler.settings import SchedulerSettings
from kiosk.scheduler.simulate.workload import Workload, tasks


@dataclass(frozen=True)
class Waited:
    """What really was: jobs that ran, and how long they waited (seconds: mean, and 95 of 100), the slot-hours that they
    had, and between which moments."""

    jobs: int
    mean: float
    p95: float
    slot_hours: float
    first: datetime
    last: datetime


def jobs_of(
    path: Path,
    slots: int,
    since: datetime | None = None,
    until: datetime | None = None,
    told: Callable[[int], object] | None = None,
) -> list[Job]:
    """The jobs of accounts that were submitted from `since` on and before `until` and that ran; `slots` are those of
    the largest node. BatchError for what can't be read, NotFoundError where there is none."""
    every = _counted(accounts(path, slots).jobs(), told)
    found = [
        job
        for job in every
        if job.started is not None
        and (since is None or job.submitted >= since)
        and (until is None or job.submitted < until)
    ]
    if not found:
        between = f" that was submitted between {since or 'its beginning'} and {until or 'its end'}"
        raise NotFoundError(f"has no job that ran{between if since or until else ''}", where=str(path))
    return found


def _counted(jobs: Iterable[Job], told: Callable[[int], object] | None) -> Iterator[Job]:
    for job in jobs:
        if told is not None:
            told(1)
        yield job


def waited(jobs: Iterable[Job]) -> Waited:
    """What became of jobs that ran."""
    waits, hours, first, last = [], 0.0, [], []
    for job in jobs:
        if job.started is None:
            continue
        waits.append(max(0.0, (job.started - job.submitted).total_seconds()))
        hours += max(0.0, (job.ended - job.started).total_seconds()) * job.requirements.cores / 3600
        first.append(job.submitted)
        last.append(job.ended)
    waits.sort()
    p95 = waits[min(len(waits) - 1, int(0.95 * len(waits)))]
    return Waited(len(waits), sum(waits) / len(waits), p95, hours, min(first), max(last))


def workload(name: str, jobs: Iterable[Job], file: SchedulerSettings, types: dict[str, NodeType]) -> Workload:
    """Jobs of the past for the types, rules, capacity and tick of a configuration."""
    begin, made = tasks(jobs)
    return Workload(name, begin, made, types, file.rules, capacity=file.most(), look=file.tick)


def trace(path: Path, nodes: int | None = None, slots: int | None = None) -> Workload:
    """A trace in the Standard Workload Format on one type of nodes: so many, or as its FILE.machines says. Any job of
    several cores may be on several nodes, and memory is not looked at."""
    there = _machines(path.with_suffix(".machines"))
    if there is None and (nodes is None or slots is None):
        raise UsageError(
            f"says nothing of the nodes that its jobs ran on, and there is no {path.stem}.machines beside it",
            where=str(path),
            hint="Name a configuration with --scheduler-config, or --nodes and --slots.",
        )
    many, each = nodes or (there or (0, 0))[0], slots or (there or (0, 0))[1]
    begin, made = tasks(
        replace(j, requirements=replace(j.requirements, memory=None)) for j in Swf(path).jobs()
    )
    flavour = Flavour(cores=each, memory=each, scratch=10)
    type = NodeType("node", "node-worker", (), flavour, each, each * 1024, 0, many)
    return Workload(path.stem, begin, made, {"node": type})


def _machines(path: Path) -> tuple[int, int] | None:
    """Nodes and slots of each: the third and fourth column of its first line."""
    try:
        words = path.read_text().split()
        return int(words[2]), int(words[3])
    except FileNotFoundError:
        return None
    except (ValueError, IndexError, UnicodeDecodeError):
        hint = "its first line has the number of nodes and the slots of each as third and fourth word"
        raise UsageError("can't be understood", where=str(path), hint=hint) from None
