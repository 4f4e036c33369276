"""The policies that are compared: kiosk's own, which is the scheduler's core itself, and those of others as published.

All see the same looks, count jobs by the same mapping and nodes that come as nodes, and none ends a node with jobs;
that is generous to some of them. Only kiosk's spreads its nodes' lifetimes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import ceil

from kiosk.scheduler import control, shares
from kiosk.scheduler.forecast import HOUR, HourRow, forecast
from kiosk.scheduler.model import NodeType
from kiosk.scheduler.simulate.farm import View


class _Plain:
    """Nodes live as long as their type says."""

    name = ""
    boots = True

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
        granted = shares.divide(work.capacity, view.needs, work.shares, work.queues, work.types)
        found, self.memory = control.targets(
            work.types, view.needs, view.supplies, coming, granted, self.memory, at, work.capacity
        )
        return {target.type: target.nodes for target in found}

    def lifetime(self, type: NodeType, ordinal: int) -> float:
        """Spread."""
        return control.lifetime(type, ordinal)

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
    """Always the same number: all that the maxima allow."""

    name = "static size"

    def decide(self, view: View) -> Mapping[str, int]:
        """The maxima."""
        return {name: type.maximum for name, type in view.farm.work.types.items()}


class Bound(Static):
    """What no policy can do better: all nodes are there at once and for ever, and only their used hours are paid."""

    name = "clairvoyant bound"
    boots = False

    def lifetime(self, type: NodeType, ordinal: int) -> float:
        """For ever."""
        return float("inf")


class Reactive(_Plain):
    """A node for what waits, at once; no node that is idle."""

    name = "purely reactive"

    def decide(self, view: View) -> Mapping[str, int]:
        """What waits and what is busy."""
        found = {}
        for name, supply in view.supplies.items():
            found[name] = supply.busy + ceil(max(0.0, view.needs[name].pending - supply.busy + supply.used) - 1e-6)
        return found


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


ALL: tuple[type[Kiosk] | type[Static] | type[Reactive] | type[Threshold] | type[Linear], ...] = (
    Bound, Static, Reactive, Threshold, Linear, Kiosk,
)  # fmt: skip
