"""A day's plan: how many nodes of each type there are to be from when on, made of the logs of a day before, so that a
whole day needs no question to the batch system.

What it guarantees: the plan names the configuration that it was made for and when it ends, and is no plan for another
one or a later time; within its day it has a number for each type at each moment, never outside minimum and maximum;
each number has its reasons. The file is replaced whole.

How it is made: the jobs of the day before are run again through the simulated farm, under the scheduler's own core and
this configuration. A stretch of an hour gets the most nodes that were wanted within it or in the `AHEAD` seconds after
it, so that they have joined when the work comes. Where the history knows what is usual at that hour, the number is kept
between what was asked for at least and at most nine times out of ten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from math import ceil, floor
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from kiosk import files
from kiosk.batch.api import Job
from kiosk.errors import ExpiredError, NotFoundError, StorageError, UsageError
from kiosk.model.base import Document
from kiosk.scheduler.forecast import Forecast, HourRow, forecast
from kiosk.scheduler.model import NodeType, Target
from kiosk.scheduler.settings import SchedulerSettings
from kiosk.scheduler.simulate import past
from kiosk.scheduler.simulate.farm import Farm
from kiosk.scheduler.simulate.policies import Kiosk

AHEAD = 600.0
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
LARGEST = 16 << 20
NEW = "kiosk scheduler plan --from lsb.acct --out FILE makes a new one"


class Stretch(Document):
    """How many nodes of a type there are to be from a moment on, and why."""

    begins: AwareDatetime
    nodes: Annotated[int, Field(ge=0, le=100_000)]
    because: tuple[str, ...] = ()


class DayPlan(Document):
    """The file. `configuration` is the digest of what it was made for, `source` the accounts and `like` their day."""

    plan: Literal["kiosk.dayplan/1"] = Field("kiosk.dayplan/1", alias="schema")
    made: AwareDatetime
    begins: AwareDatetime
    ends: AwareDatetime
    source: str
    like: date
    configuration: str
    types: dict[str, Annotated[tuple[Stretch, ...], Field(min_length=1)]]
    unserved: int = 0

    @classmethod
    def read(cls, path: Path) -> DayPlan:
        """Reads it; NotFoundError, StorageError, or VerificationError with the field that does not fit."""
        try:
            if path.stat().st_size > LARGEST:
                raise UsageError("is larger than 16 MiB, and no plan", where=str(path))
            data = path.read_bytes()
        except FileNotFoundError:
            raise NotFoundError("there is no such plan", where=str(path), hint=NEW) from None
        except OSError as e:
            raise StorageError(f"can't be read: {e.strerror}", where=str(path)) from None
        return cls.from_json(data, where=str(path))

    def write(self, path: Path) -> None:
        """Replaces the file."""
        files.write(path, json.dumps(json.loads(self.to_json()), indent=1).encode() + b"\n")

    def targets(self, now: datetime, configuration: str, where: str) -> list[Target]:
        """What there is to be at a moment. ExpiredError where the plan is over or has not begun, UsageError where it
        is of another configuration."""
        if self.configuration != configuration:
            raise UsageError(
                "was made for another configuration: types, rules or capacity have changed since",
                where=where,
                hint=NEW,
            )
        if now >= self.ends:
            raise ExpiredError(f"is over since {shown(self.ends)}", where=where, hint=NEW)
        if now < self.begins:
            raise ExpiredError(f"begins only at {shown(self.begins)}", where=where, hint=NEW)
        found = []
        for name, stretches in sorted(self.types.items()):
            one = [stretches[0], *(s for s in stretches[1:] if s.begins <= now)][-1]
            why = f"the plan of {self.begins:%Y-%m-%d} from {one.begins:%H:%M} UTC on: {one.nodes}"
            found.append(Target(name, one.nodes, (*one.because, why)))
        return found


def configuration(file: SchedulerSettings) -> str:
    """The digest of what a plan depends on: types, rules, and capacity."""
    data = file.model_dump(mode="json", include={"types", "rules", "capacity"})
    for table in data["types"].values():
        table.pop("context", None)
    return "sha256:" + hashlib.sha256(json.dumps(_sorted(data), sort_keys=True).encode()).hexdigest()


def _sorted(value: object) -> object:
    """Sets come as lists in any order; lists whose order means something have tables or types' names."""
    if isinstance(value, dict):
        return {k: sorted(v) if k in ("tags", "answers") else _sorted(v) for k, v in value.items()}
    return [_sorted(v) for v in value] if isinstance(value, list) else value


def shown(at: datetime) -> str:
    """A moment for people."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def beginning(day: date) -> datetime:
    """The first moment of a day, in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def of_day(jobs: Iterable[Job], like: date) -> list[Job]:
    """The jobs that ran, or waited, on a day or the one before it (which is only run to have the farm as it was in the
    morning). What began before is taken to begin then, with what was left of it."""
    first, last = beginning(like) - DAY, beginning(like) + DAY
    found = []
    for job in jobs:
        if job.started is None or job.submitted >= last or job.ended <= first:
            continue
        begun = max(job.started, first)
        found.append(replace(job, submitted=max(job.submitted, first), started=begun))
    return found


def make(
    source: Path,
    file: SchedulerSettings,
    types: Mapping[str, NodeType],
    day: date,
    like: date,
    hours: Sequence[HourRow],
    now: datetime,
    told: Callable[[int], object] | None = None,
) -> DayPlan:
    """The plan of a day from the jobs of another. NotFoundError where the accounts have none of that day."""
    largest = max(t.slots for t in types.values())
    jobs = of_day(past.jobs_of(source, largest, told=told), like)
    begins, of = beginning(day), beginning(like)
    if not any(job.ended > of for job in jobs):
        raise NotFoundError(
            f"has no job of {like}, and a plan for {day} is made of the day before",
            where=str(source),
            hint="--like DATE takes another day's jobs.",
        )
    farm = Farm(past.workload("plan", jobs, file, dict(types)), Kiosk(), told).run()
    plans = {
        name: tuple(_merged(_stretches(name, type, farm, day, like, _usual(hours, begins))))
        for name, type in sorted(types.items())
    }
    return DayPlan(
        made=now, begins=begins, ends=begins + DAY, source=str(source), like=like,
        configuration=configuration(file), types=plans, unserved=farm.lost,
    )  # fmt: skip


def _usual(hours: Sequence[HourRow], begins: datetime) -> list[dict[str, Forecast]]:
    """What the history says of each hour of the day, where it says anything."""
    return [forecast(hours, begins + n * HOUR, 0.0) for n in range(24)] if hours else [{} for _ in range(24)]


def _stretches(
    name: str, type: NodeType, farm: Farm, day: date, like: date, usual: Sequence[Mapping[str, Forecast]]
) -> Iterable[Stretch]:
    zero = (beginning(like) - farm.work.begin).total_seconds()
    peaks = [0] * 24
    for sample in farm.samples:
        had = sample.wanted.get(name, 0)
        for at in (sample.at - zero, sample.at - zero - AHEAD):
            if 0 <= (hour := floor(at / 3600)) < 24:
                peaks[hour] = max(peaks[hour], had)
    for hour, peak in enumerate(peaks):
        because = [f"on {like} up to {peak} nodes would have been wanted at this hour: {peak}"]
        nodes = peak
        known = usual[hour].get(name)
        if known is not None and known.high > 0:
            nodes = min(max(nodes, floor(known.low)), ceil(known.high))
            if nodes != peak:
                low, high = f"{known.low:.1f}", f"{known.high:.1f}"
                because.append(f"the history has {low} to {high} at this hour nine times out of ten: {nodes}")
        within = min(max(nodes, type.minimum), type.maximum)
        if within != nodes:
            because.append(f"the minimum is {type.minimum} and the maximum {type.maximum}: {within}")
        yield Stretch(begins=beginning(day) + hour * HOUR, nodes=within, because=tuple(because))


def _merged(stretches: Iterable[Stretch]) -> Iterable[Stretch]:
    """Those that say the same as the one before are left out."""
    last: int | None = None
    for one in stretches:
        if one.nodes != last:
            yield one
        last = one.nodes
