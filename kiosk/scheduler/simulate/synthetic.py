"""Made-up days of a batch farm, with bursts: always the same for a seed. What each has in it:

* `day`: users who submit single-core jobs at random moments, three times as many at noon as at midnight; a job runs
  for two hours in the middle (lognormal, sigma 1). Four days.
* `bursts`: a third of that, and eight times a day somebody submits 200 to 3,000 jobs within five minutes, all of one
  kind: of a length between 3 minutes and 4 hours, each within a fifth of it. Four days.
* `mixed`: three types of nodes that share a capacity which does not suffice, two queues (one goes first), four groups
  with shares of 40, 30, 20 and 10, single-core and four-core jobs, one kind with a choice between two types. Four
  days.
* `weeks`: office hours on working days and little at night and at weekends, four weeks, a burst every working day.

Nodes have four slots (`large` eight) and boot in five minutes; users ask for twice the time that their jobs run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from math import log, pi, sin

from kiosk.batch.api import Queue, Requirements, Share
from kiosk.model.flavour import Flavour
from kiosk.scheduler.model import Capacity, NodeType
from kiosk.scheduler.settings import Rule
from kiosk.scheduler.simulate.workload import Task, Workload

DAY = 86400.0
BEGIN = datetime(2026, 3, 2, tzinfo=timezone.utc)
"""A Monday."""
ONE = Requirements(cores=1, memory=1500)
FOUR = Requirements(cores=4, memory=6000)
Rate = Callable[[float], float]
"""Jobs a second at a time."""


def _type(name: str, maximum: int, slots: int = 4, os: str = "debian12") -> NodeType:
    flavour = Flavour(cores=slots, memory=2 * slots, scratch=10 * slots)
    return NodeType(
        name, f"{name}-worker", (), flavour, slots, slots * 1800, 0, maximum, values=frozenset({("os", os)})
    )


def _arrivals(dice: random.Random, rate: Rate, most: float, end: float) -> Iterator[float]:
    """A Poisson process whose rate changes (thinned)."""
    at = dice.expovariate(most)
    while at < end:
        if dice.random() * most < rate(at):
            yield at
        at += dice.expovariate(most)


def _daily(mean: float) -> Rate:
    return lambda at: mean * (1 - 0.5 * sin(2 * pi * (at / DAY + 0.25)))


def _task(
    dice: random.Random, at: float, middle: float, sigma: float, who: tuple[str, str, str], r: Requirements
) -> Task:
    seconds = min(20 * 3600.0, max(20.0, dice.lognormvariate(log(middle), sigma)))
    return Task(at, seconds, 2 * seconds, *who, r)


def _burst(
    dice: random.Random, at: float, jobs: int, who: tuple[str, str, str], r: Requirements = ONE
) -> list[Task]:
    length = dice.choice((180.0, 600.0, 1800.0, 5400.0, 14400.0))
    return [_task(dice, at + dice.uniform(0, 300), length, 0.2, who, r) for _ in range(jobs)]


def _sorted(tasks: list[Task]) -> list[Task]:
    return sorted(tasks, key=lambda task: task.submitted)


def day(seed: int = 1, days: int = 4, mean: float = 0.06) -> Workload:
    """Users at random moments."""
    dice = random.Random(seed)  # noqa: S311 (made-up jobs)
    tasks = [
        _task(dice, at, 7200, 1.0, ("batch", f"user{dice.randrange(20)}", "all"), ONE)
        for at in _arrivals(dice, _daily(mean), 1.5 * mean, days * DAY)
    ]
    return Workload("day", BEGIN, _sorted(tasks), {"worker": _type("worker", 400)})


def bursts(seed: int = 2, days: int = 4) -> Workload:
    """Few users at random moments, and many bursts."""
    dice = random.Random(seed)  # noqa: S311 (made-up jobs)
    tasks = list(day(seed, days, 0.02).tasks)
    for at in _arrivals(dice, lambda _: 8 / DAY, 8 / DAY, days * DAY):
        who = ("batch", f"user{dice.randrange(20)}", "all")
        tasks += _burst(dice, at, int(dice.triangular(200, 3000, 400)), who)
    return Workload("bursts", BEGIN, _sorted(tasks), {"worker": _type("worker", 400)})


def mixed(seed: int = 3, days: int = 4) -> Workload:
    """Types, queues and shares, and too little for all."""
    dice = random.Random(seed)  # noqa: S311 (made-up jobs)
    kinds = [
        Requirements(1, memory=1500, values=frozenset({("os", "debian12")})),
        Requirements(1, memory=1500, values=frozenset({("os", "el9")})),
        Requirements(4, memory=6000, values=frozenset({("os", "el9")})),
        Requirements(1, memory=1500, text="any"),
    ]
    tasks = []
    for at in _arrivals(dice, _daily(0.045), 0.0675, days * DAY):
        group = dice.choices(("atlas", "cms", "lhcb", "local"), (4, 3, 2, 2))[0]
        kind = dice.choices(kinds, (4, 3, 1, 2))[0]
        queue = "short" if dice.random() < 0.15 else "batch"
        who = (queue, f"{group}{dice.randrange(5)}", group)
        tasks.append(_task(dice, at, 900 if queue == "short" else 7200, 0.8, who, kind))
    for at in _arrivals(dice, lambda _: 4 / DAY, 4 / DAY, days * DAY):
        group = dice.choice(("atlas", "cms", "lhcb", "local"))
        who = ("batch", f"{group}{dice.randrange(5)}", group)
        tasks += _burst(dice, at, dice.randrange(300, 1200), who, dice.choice(kinds[:2]))
    types = {
        "debian": _type("debian", 150),
        "el": _type("el", 150, os="el9"),
        "large": _type("large", 40, 8, os="el9"),
    }
    rules = (
        Rule(text="^any$", types=("debian", "el")),
        Rule(values={"os": "el9"}, types=("el", "large")),
    )
    shares = tuple(Share(name, n) for name, n in (("atlas", 40), ("cms", 30), ("lhcb", 20), ("local", 10)))
    queues = (Queue("short", 50, True), Queue("batch", 30, True))
    return Workload("mixed", BEGIN, _sorted(tasks), types, rules, queues, shares, Capacity(cores=800))


def weeks(seed: int = 4, days: int = 28) -> Workload:
    """Working days."""
    dice = random.Random(seed)  # noqa: S311 (made-up jobs)

    def rate(at: float) -> float:
        weekday, hour = int(at // DAY) % 7, at % DAY / 3600
        if weekday >= 5 or not 8 <= hour < 18:
            return 0.004
        return 0.05

    tasks = [
        _task(dice, at, 5400, 0.8, ("batch", f"user{dice.randrange(20)}", "all"), ONE)
        for at in _arrivals(dice, rate, 0.05, days * DAY)
    ]
    for number in range(days):
        if number % 7 < 5:
            at = number * DAY + dice.uniform(8, 18) * 3600
            tasks += _burst(dice, at, dice.randrange(200, 1200), ("batch", "production", "all"))
    return Workload("weeks", BEGIN, _sorted(tasks), {"worker": _type("worker", 250)})


ALL = (day, bursts, mixed, weeks)
