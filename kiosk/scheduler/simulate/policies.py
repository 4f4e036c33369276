"""The policies that are compared: kiosk's own, which is the scheduler's core itself, and those of others as published.

All see the same looks, count jobs by the same mapping and nodes that come as nodes, and none ends a node with jobs;
that is generous to some of them. Only kiosk's spreads its nodes' lifetimes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timezone
from math import ceil

from kiosk.scheduler import control, shares
from kiosk.scheduler.forecast import HOUR, HourRow, forecast
from kiosk.scheduler.model import NodeType
from kiosk.scheduler.replace import until
from kiosk.scheduler.simulate.view import View


class _Plain:
    """Nodes live as long as their type says."""

    name = ""
    boots = True
    look: float | None = None

    def lifetime(self, type: NodeType, ordinal: int) -> float:
        """Seconds until it drains."""
        return type.lifetime


class Kiosk(_Plain):
    """The scheduler's core: forecast, shares, control. History is kept as its database keeps it, in memory."""

    name = "kiosk"

    def __init__(self) -> None:
        self.memory = control.Memory()
        self.hours: dict[tuple[str, int], HourRow] = {}
        self.counts: dict[tuple[str, int], int] = defaultdict(int)
        self.before: dict[str, float] = {}
        self.forecasts: dict[str, object] = {}

    def decide(self, view: View) -> Mapping[str, int]:
        """One tick."""
        work, at = view.farm.work, view.at
        self._record(view, int(at.timestamp()) // HOUR)
        coming = forecast(self.hours.values(), at, HOUR)
        granted = shares.divide(
            work.capacity, view.needs, work.shares, work.queues, work.types, view.supplies
        )
        found, self.memory = control.targets(
            work.types, view.needs, view.supplies, coming, granted, self.memory, at, work.capacity
        )
        return {target.type: target.nodes for target in found}

    def lifetime(self, type: NodeType, ordinal: int) -> float:
        """Spread, as that of real nodes by their names."""
        begins = datetime.fromtimestamp(0, timezone.utc)
        return (until(f"{type.name}-{ordinal}", begins, type.lifetime) - begins).total_seconds()

    def _record(self, view: View, hour: int) -> None:
        for name, need in view.needs.items():
            asked = min(need.nodes, view.farm.work.types[name].maximum)
            arrived = max(0.0, need.nodes - self.before.get(name, 0.0))
            self.before[name] = need.nodes
            key = (name, hour)
            n = self.counts[key]
            old = self.hours.get(key, HourRow(name, hour, 0.0, 0.0, 0.0))
            mean = (old.mean * n + asked) / (n + 1)
            self.hours[key] = HourRow(name, hour, mean, max(old.peak, asked), old.arrived + arrived)
            self.counts[key] = n + 1


class Static(_Plain):
    """Always the same number: all that the maxima allow, in proportion where the capacity does not hold them."""

    name = "static size"

    def decide(self, view: View) -> Mapping[str, int]:
        """The maxima."""
        work = view.farm.work
        part = 1.0
        if work.capacity.nodes is not None:
            part = min(part, work.capacity.nodes / sum(t.maximum for t in work.types.values()))
        if work.capacity.cores is not None:
            part = min(
                part, work.capacity.cores / sum(t.maximum * t.flavour.cores for t in work.types.values())
            )
        return {name: int(type.maximum * part) for name, type in work.types.items()}


class Reactive(_Plain):
    """For each job that waits, nodes of its own, once; no node that is idle, unless jobs wait that it could run. What
    the maximum leaves no room for is launched later."""

    name = "purely reactive"

    def __init__(self) -> None:
        self.done: set[int] = set()

    def decide(self, view: View) -> Mapping[str, int]:
        """What came since the last look."""
        found = {}
        more: dict[str, int] = defaultdict(int)
        room = {
            name: view.farm.work.types[name].maximum - s.nodes - s.draining
            for name, s in view.supplies.items()
        }
        waiting = set()
        for key, jobs in view.farm.waiting.items():
            pool, slots = view.farm.fit(key)[0]
            name, nodes = pool.type.name, ceil(slots / pool.type.slots)
            for job in jobs:
                waiting.add(id(job))
                if id(job) not in self.done and more[name] + nodes <= room[name]:
                    more[name] += nodes
                    self.done.add(id(job))
        self.done &= waiting
        for name, supply in view.supplies.items():
            idle = max(0, supply.idle - ceil(view.needs[name].pending - 1e-6))
            found[name] = supply.nodes - idle + more[name]
        return found


class ReactiveSlots(_Plain):
    """As many nodes as all that waits needs beside the free slots and the nodes that come; no node that is idle."""

    name = "reactive by slots"

    def decide(self, view: View) -> Mapping[str, int]:
        """What waits and what is busy."""
        found = {}
        for name, supply in view.supplies.items():
            found[name] = supply.busy + ceil(
                max(0.0, view.needs[name].pending - supply.busy + supply.used) - 1e-6
            )
        return found


class Clairvoyant(ReactiveSlots):
    """Knows when a job will need a node: it is ready at that moment, as if launched in time, lives until its last job
    ends, and costs nothing but the hours in which it has jobs. Where jobs run is still up to the batch system."""

    name = "clairvoyant bound"
    boots = False
    look = 5.0

    def lifetime(self, type: NodeType, ordinal: int) -> float:
        """For ever."""
        return float("inf")


class Threshold(_Plain):
    """LSF Resource Connector: `THRESHOLD[[5,10] [1,60] [100,0]]` (so many jobs have waited for so many minutes) asks
    for nodes for all that waits; a node that is idle for an hour goes back."""

    name = "LSF RC threshold"
    rule = ((5, 10), (1, 60), (100, 0))
    idle = 3600.0

    def decide(self, view: View) -> Mapping[str, int]:
        """By the rule."""
        waits = view.waits()
        asks = any(len(waits) >= jobs and waits[jobs - 1] >= 60 * minutes for jobs, minutes in self.rule)
        found = {}
        for name, supply in view.supplies.items():
            tired = sum(age >= self.idle for age in view.idle(name))
            nodes = supply.nodes - tired
            if asks:
                nodes = max(nodes, ceil(view.needs[name].pending + supply.used - 1e-6))
            found[name] = nodes
        return found


class Linear(_Plain):
    """COBalD's LinearController with its defaults: below `low_utilisation` demand falls, above `high_allocation` it
    rises, by `rate` nodes each second. Utilisation and allocation are those of the slots (one resource)."""

    name = "COBalD linear"
    low_utilisation, high_allocation, rate, interval = 0.5, 0.5, 1.0, 1.0

    def __init__(self) -> None:
        self.demand: dict[str, float] = {}

    def decide(self, view: View) -> Mapping[str, int]:
        """One regulation for each interval that passed; between two looks the figures are the same. A pool without
        nodes has, as in COBalD, utilisation and allocation 1, and demand stays within its limits."""
        found = {}
        for name, supply in view.supplies.items():
            type = view.farm.work.types[name]
            joined = supply.busy + supply.idle
            full = supply.used / joined if joined else 1.0
            demand = self.demand.get(name, float(type.minimum))
            step = self.rate * self.interval * (view.farm.work.look / self.interval)
            if full < self.low_utilisation:
                demand -= step
            elif full > self.high_allocation:
                demand += step
            self.demand[name] = min(float(type.maximum), max(float(type.minimum), demand))
            found[name] = int(self.demand[name])
        return found


ALL = (Clairvoyant, Static, Reactive, ReactiveSlots, Threshold, Linear, Kiosk)
"""All policies, to be made anew for each run."""
