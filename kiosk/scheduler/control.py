"""How many nodes of each type there should be now. Pure, and slow on purpose: right on average.

What a type needs is what waits and what runs on its nodes, less the free slots of real hosts. Between two looks the
number rises and falls by bounded steps. Nodes that have nothing to do are kept for a while, since work comes back: for
how long is learned, for each type, from how long its nodes were idle before work came back, so that keeping them costs
a small, fixed part of what they are used (`IDLE_PART`), whatever the work is like. Where history says that work is
sure to come, nodes are there before it.

Guaranteed: never more than a type's maximum and the capacity, with the nodes that drain; never fewer than the minimum,
within that; never fewer than are busy, so that no target ends a job, unless a maximum was lowered; the sentences of a
target name each rule that moved it, with figures. Without a look there is no call, and every node stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil, floor
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kiosk.errors import CorruptError
from kiosk.scheduler import keep
from kiosk.scheduler.forecast import Forecast
from kiosk.scheduler.keep import Kept
from kiosk.scheduler.model import Capacity, Need, NodeType, Supply, Target

STEP = 8
"""So many nodes may always come or go between two looks."""
UP, DOWN = 1 / 600, 1 / 600
"""A whole maximum in ten minutes, and away in as many: parts of the maximum for each second."""
FASTEST = 1000 / 60
"""Nodes for each second at the most: a batch system takes a minute for a thousand that join."""
LOOK = 300.0
LONGEST = 900.0
"""After a longer pause the steps are no larger."""
PATIENCE = 900.0
"""Jobs that waited so long, with no node idle or coming, do not fit the free slots of busy nodes."""


@dataclass(frozen=True)
class Memory:
    """What control remembers between ticks; `at` in seconds since 1970."""

    at: float | None = None
    types: Mapping[str, Kept] = field(default_factory=dict)

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        made: dict[str, Any] = MEMORY.dump_python(self, mode="json")
        return made

    @classmethod
    def load(cls, data: object) -> Memory:
        """From what `dump` gave; CorruptError where it is something else."""
        try:
            return MEMORY.validate_python(data)
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise CorruptError(f"the scheduler's memory can't be read: {where}: {first['msg']}") from None


MEMORY = TypeAdapter(Memory)


def targets(
    types: Mapping[str, NodeType],
    needs: Mapping[str, Need],
    supplies: Mapping[str, Supply],
    forecasts: Mapping[str, Forecast],
    granted: Mapping[str, float],
    memory: Memory,
    now: datetime,
    capacity: Capacity | None = None,
) -> tuple[list[Target], Memory]:
    """The targets of all types, by name, and what to remember. `granted` limits what a type gets for its jobs where
    the capacity is short. A clock that went back stands still until it has caught up."""
    at = now.timestamp() if memory.at is None else max(now.timestamp(), memory.at)
    passed = LOOK if memory.at is None else min(at - memory.at, LONGEST)
    plans, kept = [], {}
    for name in sorted(types):
        plan = _Plan(types[name], needs.get(name, Need()), supplies.get(name, Supply()))
        kept[name] = _wish(
            plan, forecasts.get(name), granted.get(name), memory.types.get(name, Kept()), at, passed
        )
        plans.append(plan)
    if capacity is not None:
        _within(plans, capacity)
    return [Target(p.type.name, p.nodes, tuple(p.because)) for p in plans], Memory(at, kept)


class _Plan:
    """The number of one type's nodes, as the rules move it."""

    def __init__(self, type: NodeType, need: Need, supply: Supply) -> None:
        self.type = type
        self.need = need
        self.supply = supply
        self.most = max(0, type.maximum - supply.draining)
        self.least = min(type.minimum, self.most)
        self.nodes = 0
        self.asked = 0
        self.work = 0.0
        self.because: list[str] = []

    def to(self, nodes: int, because: str) -> None:
        """Sets the number and says why, where it changes."""
        if nodes != self.nodes:
            self.because.append(f"{because}: {nodes}")
            self.nodes = nodes

    @property
    def cores(self) -> int:
        """Of one node."""
        return self.type.flavour.cores


def _wish(
    plan: _Plan, forecast: Forecast | None, granted: float | None, kept: Kept, at: float, passed: float
) -> Kept:
    """What one type should have, whatever the others want."""
    supply, have = plan.supply, plan.supply.nodes
    _demand(plan)
    if granted is not None and plan.nodes > max(ceil(granted - 1e-6), supply.busy):
        plan.to(max(ceil(granted - 1e-6), supply.busy), f"fair share and priority grant {granted:.1f}")
    plan.to(max(plan.nodes, supply.busy), f"{supply.busy} are busy and none of them is ended")
    plan.to(min(plan.nodes, plan.most), _top(plan))
    plan.asked = plan.nodes
    kept = keep.seen(kept, plan.nodes, plan.work, supply, at, passed)
    more = keep.ready(kept)
    if more and plan.work > 0:
        plan.to(
            max(plan.nodes, min(ceil(plan.work) + more, plan.most)),
            f"{more} more are ready for what mostly comes between two looks",
        )
    stay, patience = keep.stay(kept, at, plan.type.keep)
    stay = min(stay, have, plan.most)
    plan.to(max(plan.nodes, stay), f"idle nodes are kept for {_time(patience)}, as work came back before")
    if forecast is not None and floor(forecast.low) > plan.nodes:
        plan.to(min(floor(forecast.low), plan.most), f"at least {forecast.low:.1f} are surely asked for soon")
    up = max(STEP, int(min(plan.type.maximum * UP, FASTEST) * passed))
    down = max(STEP, int(min(plan.type.maximum * DOWN, FASTEST) * passed))
    plan.to(min(plan.nodes, have + up), f"no more than {up} more at a time")
    plan.to(max(plan.nodes, min(have - down, plan.most)), f"no more than {down} fewer at a time")
    plan.to(max(plan.nodes, plan.least), f"the minimum is {plan.type.minimum}")
    plan.to(min(plan.nodes, plan.most), _top(plan))
    return kept


def _demand(plan: _Plan) -> None:
    need, supply = plan.need, plan.supply
    waiting = max(0.0, need.pending - supply.real)
    real = f", less {min(need.pending, supply.real):.1f} free on real hosts" if supply.real else ""
    stuck = waiting > 0 and not supply.idle and not supply.coming and need.oldest > PATIENCE
    taken = float(supply.busy) if stuck else supply.used
    plan.work = supply.used + waiting
    plan.nodes = ceil(taken + waiting - 1e-6)
    plan.because.append(
        f"{waiting:.1f} nodes' worth of jobs wait{real} and {supply.used:.1f} run on {supply.busy} nodes"
        + (f"; the first has waited {_time(need.oldest)} and fits no free slot" if stuck else "")
        + f": {plan.nodes}"
    )


def _top(plan: _Plan) -> str:
    draining = f", {plan.supply.draining} of them drain" if plan.supply.draining else ""
    return f"the maximum is {plan.type.maximum}{draining}"


def _within(plans: Sequence[_Plan], capacity: Capacity) -> None:
    """Keeps all types together within the capacity: idle nodes go first, then what would be launched is cut."""
    for limit, size, unit in (
        (capacity.nodes, lambda _: 1, "nodes"),
        (capacity.cores, lambda p: p.cores, "cores"),
    ):
        if limit is None:
            continue
        why = f"all types together may have {limit} {unit}"
        over = sum((p.nodes + p.supply.draining) * size(p) for p in plans) - limit
        for least in (_demanded, _minimum):
            for plan in sorted(plans, key=lambda p: least(p) - p.nodes):
                spare = max(0, plan.nodes - least(plan))
                cut = min(spare, ceil(over / size(plan))) if over > 0 else 0
                plan.to(plan.nodes - cut, why)
                over -= cut * size(plan)
        there = sum((p.supply.nodes + p.supply.draining) * size(p) for p in plans)
        _launches(plans, max(0, limit - there), size, why)


def _demanded(plan: _Plan) -> int:
    """Without what is only kept, and without what is still to be launched."""
    return max(plan.least, min(plan.asked, plan.supply.nodes))


def _minimum(plan: _Plan) -> int:
    return min(plan.nodes, plan.supply.busy)


def _launches(plans: Sequence[_Plan], room: int, size: Any, why: str) -> None:
    """Cuts launches to the room that is there now, in proportion, minima first."""
    more = {p.type.name: max(0, p.nodes - p.supply.nodes) for p in plans}
    if sum(more[p.type.name] * size(p) for p in plans) <= room:
        return
    first = {p.type.name: min(more[p.type.name], max(0, p.least - p.supply.nodes)) for p in plans}
    given = dict.fromkeys(more, 0)
    for wanted in (first, {name: more[name] - first[name] for name in more}):
        total = sum(wanted[p.type.name] * size(p) for p in plans)
        part = min(1.0, room / total) if total else 0.0
        for plan in plans:
            some = int(wanted[plan.type.name] * part + 1e-9)
            given[plan.type.name] += some
            room -= some * size(plan)
        for plan in plans:  # what rounding left
            name = plan.type.name
            if room >= size(plan) and given[name] < more[name] and part < 1.0 and wanted[name]:
                given[name] += 1
                room -= size(plan)
    for plan in plans:
        plan.to(min(plan.nodes, plan.supply.nodes + given[plan.type.name]), why)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds >= 7200 else f"{seconds / 60:.0f} min"
