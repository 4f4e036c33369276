"""What a policy sees of a simulated farm, and what it is: one function from a look to numbers of nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from kiosk.batch.api import Look, Pending, Requirements, Running
from kiosk.scheduler.mapping import needs
from kiosk.scheduler.model import Need, NodeType, Supply

if TYPE_CHECKING:
    from kiosk.scheduler.simulate.farm import Farm

Key = tuple[str, str, str | None, Requirements]
"""Jobs that are alike."""


class Policy(Protocol):
    """Decides at each look how many nodes (that do not drain) there should be of each type."""

    name: str
    boots: bool
    """Whether nodes need time to boot (a bound may do without)."""
    look: float | None
    """Seconds between two looks where not those of the workload; nothing is asked then while nothing happens."""

    def decide(self, view: View) -> Mapping[str, int]:
        """The numbers; a type that is left out stays as it is."""

    def lifetime(self, type: NodeType, ordinal: int) -> float:
        """Seconds until the type's `ordinal`th node drains."""


@dataclass
class View:
    """What a policy sees at one look. All but `now` is as the batch system and kiosk's own ledger would say."""

    farm: Farm
    now: float

    @property
    def at(self) -> datetime:
        """The time of the look."""
        return self.farm.work.begin + timedelta(seconds=self.now)

    @cached_property
    def supplies(self) -> dict[str, Supply]:
        """Nodes by type."""
        return {name: pool.supply for name, pool in self.farm.pools.items()}

    @cached_property
    def look(self) -> Look:
        """The batch system's tables."""
        begin, work = self.farm.work.begin, self.farm.work
        pending = [
            Pending(queue, user, group, r, len(jobs), begin + timedelta(seconds=jobs[0].submitted))
            for (queue, user, group, r), jobs in self.farm.waiting.items()
        ]
        running = [Running(*key, jobs=n) for key, n in self.farm.running.items()]
        return Look(self.at, pending, running, (), work.queues, work.shares)

    @cached_property
    def needs(self) -> dict[str, Need]:
        """What each type is asked for, by kiosk's mapping."""
        return needs(self.look, self.farm.work.types, self.farm.work.rules, self.supplies)[0]

    def waits(self) -> list[float]:
        """How long each job has waited, the longest first."""
        return sorted(
            (self.now - job.submitted for jobs in self.farm.waiting.values() for job in jobs), reverse=True
        )

    def idle(self, type: str) -> list[float]:
        """How long each idle node has been idle."""
        return [self.now - node.idle_since for node in self.farm.pools[type].idle.values()]


@dataclass
class Sample:
    """The farm at one look. `wanted` is what the policy decided."""

    at: float
    pending: int
    nodes: dict[str, int]
    busy: float
    by_share: dict[str, int]
    wanted: Mapping[str, int] = field(default_factory=dict)
