"""What came out of a simulated run, as figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kiosk.scheduler.simulate.farm import Farm
from kiosk.scheduler.simulate.view import Policy
from kiosk.scheduler.simulate.workload import Workload


@dataclass(frozen=True)
class Result:
    """Waits in seconds; `hours` are node-hours from the wish for a node until it is gone, `used` those that jobs
    would have filled if packed without a gap, `idle` those of joined nodes without a job and `boot` those before. What
    is left are nodes that were partly filled. `swing` is the largest change of the number of nodes within an hour,
    `unfair` how far a share was off, while all of them had jobs waiting (1 is all of the farm; None: never so)."""

    workload: str
    policy: str
    jobs: int
    unserved: int
    mean: float
    p95: float
    hours: float
    used: float
    idle: float
    boot: float
    launches: int
    swing: int
    unfair: float | None


def run(work: Workload, policy: Policy, told: Callable[[int], object] | None = None) -> tuple[Result, Farm]:
    """One workload under one policy; `told` as in Farm."""
    farm = Farm(work, policy, told).run()
    return measure(farm), farm


def measure(farm: Farm) -> Result:
    """The figures of a farm that has run."""
    pools = farm.pools.values()
    waits = sorted(farm.waits) or [0.0]
    return Result(
        farm.work.name, farm.policy.name, len(farm.waits), farm.lost, sum(waits) / len(waits),
        waits[min(len(waits) - 1, int(0.95 * len(waits)))], sum(p.hours.all for p in pools) / 3600,
        sum(p.hours.used / p.type.slots for p in pools) / 3600, sum(p.hours.idle for p in pools) / 3600,
        sum(p.hours.boot for p in pools) / 3600, sum(p.launches for p in pools), _swing(farm), _unfair(farm),
    )  # fmt: skip


def _swing(farm: Farm) -> int:
    """The largest difference of two samples that are at most an hour apart."""
    numbers = [(s.at, sum(s.nodes.values())) for s in farm.samples]
    largest, first = 0, 0
    for at, (now, nodes) in enumerate(numbers):
        while now - numbers[first][0] > 3600:
            first += 1
        largest = max(largest, *(abs(nodes - n) for _, n in numbers[first : at + 1]))
    return largest


def _unfair(farm: Farm) -> float | None:
    total = sum(farm.shared.values())
    weights: Sequence[tuple[str, float]] = [(s.name, s.shares) for s in farm.work.shares]
    if not total:
        return None
    whole = sum(w for _, w in weights)
    return max(abs(farm.shared[name] / total - weight / whole) for name, weight in weights)
