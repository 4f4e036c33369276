"""One tick, pure: from what was seen to what is wanted and what is done, with everything that explains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from kiosk.batch.api import Look
from kiosk.cloud.api import VmState
from kiosk.scheduler import control, shares
from kiosk.scheduler.breaker import Circuit, Images
from kiosk.scheduler.control import Memory
from kiosk.scheduler.forecast import Forecast, HourRow, forecast
from kiosk.scheduler.mapping import needs
from kiosk.scheduler.model import Capacity, Need, Node, NodeType, Supply, Target, Unserved
from kiosk.scheduler.placement import Hypervisor
from kiosk.scheduler.plan import Plan, Rules, Site
from kiosk.scheduler.reconcile import reconcile
from kiosk.scheduler.settings import Rule
from kiosk.scheduler.supply import supplies, with_real

HORIZON = 3600.0
"""Seconds that the forecast looks ahead."""


@dataclass(frozen=True)
class Farm:
    """What the configuration says, as the core has it."""

    types: Mapping[str, NodeType]
    mapping: Sequence[Rule] = ()
    capacity: Capacity = field(default_factory=Capacity)
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True)
class World:
    """What a tick knows. `look` and `vms` are None where the batch system or the cloud could not be asked. Where it is
    `planned`, the `targets` are those of a plan made before (None where it does not hold), whatever the look says."""

    now: datetime
    look: Look | None
    vms: Sequence[VmState] | None
    nodes: Mapping[str, Node]
    images: Images = field(default_factory=Images)
    circuits: Mapping[str, Circuit] = field(default_factory=dict)
    hypervisors: Sequence[Hypervisor] | None = None
    hours: Sequence[HourRow] = ()
    memory: Memory = field(default_factory=Memory)
    gone: frozenset[str] = frozenset()
    born: datetime | None = None
    planned: bool = False
    targets: Sequence[Target] | None = None
    seed: int = 0


@dataclass(frozen=True)
class Decision:
    """What a tick decided, and from what."""

    plan: Plan
    memory: Memory
    targets: Sequence[Target] | None = None
    needs: Mapping[str, Need] = field(default_factory=dict)
    supplies: Mapping[str, Supply] = field(default_factory=dict)
    forecasts: Mapping[str, Forecast] = field(default_factory=dict)
    granted: Mapping[str, float] = field(default_factory=dict)
    unserved: Sequence[Unserved] = ()


def decide(farm: Farm, world: World) -> Decision:
    """The decision. Without a look at the batch system, or a plan that holds where there is one, no number changes:
    nodes stay, and only those go that the cloud itself says have ended."""
    found = _wanted(farm, world)
    targets = world.targets if world.planned else found.targets
    site = Site(
        now=world.now,
        types=farm.types,
        nodes=world.nodes,
        vms=world.vms,
        hosts=None if world.look is None else world.look.hosts,
        targets=targets,
        images=world.images,
        circuits=world.circuits,
        hypervisors=world.hypervisors,
        gone=world.gone,
        born=world.born,
        seed=world.seed,
    )
    return replace(found, targets=targets, plan=reconcile(site, farm.rules))


def _wanted(farm: Farm, world: World) -> Decision:
    """Numbers only."""
    if world.look is None or world.planned:
        return Decision(Plan(), world.memory)
    nodes = list(world.nodes.values())
    own = supplies(world.look, nodes, farm.types)
    asked, unserved = needs(world.look, farm.types, farm.mapping, own)
    there = with_real(own, world.look, nodes, farm.types, asked)
    coming = forecast(world.hours, world.now, HORIZON)
    granted = shares.divide(farm.capacity, asked, world.look.shares, world.look.queues, farm.types, there)
    targets, memory = control.targets(
        farm.types, asked, there, coming, granted, world.memory, world.now, farm.capacity
    )
    return Decision(Plan(), memory, targets, asked, there, coming, granted, unserved)
