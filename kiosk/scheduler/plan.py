"""What a tick knows, what it may do, and its plan as it grows; and how nodes, VMs and hosts are told apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from kiosk.batch.api import Host
from kiosk.cloud.api import VmState
from kiosk.scheduler.breaker import (
    BreakerLimits,
    Circuit,
    Images,
)
from kiosk.scheduler.effects import Close, Drain, Effect, Forget, Stop
from kiosk.scheduler.life import Limits
from kiosk.scheduler.model import Node, NodeType, Target
from kiosk.scheduler.placement import Hypervisor, Overhead
from kiosk.scheduler.replace import Leaver

TOO_MANY = "more nodes than wanted"
"""The reason of a drain that is taken back when nodes are wanted again."""


@dataclass(frozen=True)
class Rules:
    """What does not change between ticks. `prefix` begins the names of this farm's VMs, and of no other's; at most so
    many `launches`, `stops` and `removals` a tick, `nodes` and `cores` in all. An unknown VM with our prefix is ended
    after `orphan` seconds; where more than `blackout` of the nodes, and at least three, are missing at once, it is not
    believed for long."""

    prefix: str = "kiosk"
    cloud: str = "cloud"
    limits: Limits = field(default_factory=Limits)
    breaker: BreakerLimits = field(default_factory=BreakerLimits)
    overhead: Overhead = field(default_factory=Overhead)
    launches: int = 500
    stops: int = 1000
    removals: int = 50
    nodes: int | None = None
    cores: int | None = None
    orphan: float = 3600.0
    blackout: float = 0.3


@dataclass(frozen=True)
class Site:
    """What a tick knows. `vms`, `hosts` and `targets` are None where they are unknown; `hypervisors` is None where
    the cloud's own scheduler places; `gone` are names of VMs and hosts listed now that the ledger's history knows as
    gone; `born` is when the ledger was begun. The same `seed` gives the same names."""

    now: datetime
    types: Mapping[str, NodeType]
    nodes: Mapping[str, Node]
    vms: Sequence[VmState] | None
    hosts: Sequence[Host] | None
    targets: Sequence[Target] | None
    images: Images = field(default_factory=Images)
    circuits: Mapping[str, Circuit] = field(default_factory=dict)
    hypervisors: Sequence[Hypervisor] | None = None
    gone: frozenset[str] = frozenset()
    born: datetime | None = None
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """What to do: first all `nodes` are written down, then `circuits`, then the effects follow in order. `notes` say
    why less was done than was wanted."""

    nodes: tuple[Node, ...] = ()
    circuits: Mapping[str, Circuit] = field(default_factory=dict)
    effects: tuple[Effect, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class Work:
    """A tick's plan as it grows."""

    nodes: dict[str, Node]
    circuits: dict[str, Circuit]
    phases: Mapping[str, str]
    """Of the VMs, by name."""
    absent: set[str] = field(default_factory=set)
    """Nodes whose VM is surely gone."""
    changed: dict[str, Node] = field(default_factory=dict)
    learnt: dict[str, Circuit] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def change(self, node: Node, *effects: Effect) -> None:
        self.nodes[node.id] = self.changed[node.id] = node
        self.effects += effects

    def learn(self, key: str, circuit: Circuit) -> None:
        self.circuits[key] = self.learnt[key] = circuit


def is_idle(host: Host) -> bool:
    return host.status != "unavailable" and not host.jobs and not host.used


def by_node(nodes: Mapping[str, Node], hosts: Iterable[Host]) -> dict[str, Host]:
    """The host of each node: by its name, without a domain; of a host that was renamed, by what it says of itself."""
    found: dict[str, Host] = {}
    others: list[Host] = []
    for host in hosts:
        short = host.name.partition(".")[0].lower()
        if short in nodes:
            if short not in found or found[short].status == "unavailable":
                found[short] = host
        elif host.values:
            others.append(host)
    for host in others:
        for _, value in host.values:
            if value in nodes and value not in found:
                found[value] = host
    return found


def types_of_nodes(nodes: Iterable[Node], absent: Container[str]) -> dict[str, list[Node]]:
    """Nodes by type, as far as they have a VM or may have one: none whose VM was ended, or lost, and is not listed for
    long enough. (Of these only the batch system still has to be told.)"""
    found: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        if node.phase != "gone" and not (node.phase in ("leaving", "failed") and node.id in absent):
            found[node.type].append(node)
    return found


def drain(one: Leaver, work: Work, site: Site, hosts: Mapping[str, Host]) -> None:
    """A joined node drains from now on."""
    node = replace(one.node, phase="draining", since=site.now, reason=one.reason, missing=None, silent=None)
    host = hosts.get(node.id)
    if host is not None:
        work.change(node, *([] if host.mine else [Close(node.id, host.name, one.reason)]))
    elif node.vm is not None:
        work.change(node, Drain(node.id, node.vm, one.reason))


def cancel(node: Node, reason: str, work: Work, site: Site) -> None:
    """A node that is still coming comes no more."""
    if node.phase == "wanted":
        work.nodes.pop(node.id, None)
        work.changed.pop(node.id, None)
        work.effects.append(Forget(node.id, reason))
        return
    up = work.phases.get(node.id) in ("ready", "running")
    after = replace(
        node, phase="draining" if up else "leaving", since=site.now, reason=reason, missing=None, silent=None
    )
    if node.vm is None:
        return
    work.change(after, Drain(node.id, node.vm, reason) if up else Stop(node.id, node.vm, reason))


def ordered(effects: Sequence[Effect], rules: Rules) -> tuple[Effect, ...]:
    """Closing before ending, ending before launching; of each kind as many as a tick may."""
    kinds: dict[str, list[Effect]] = defaultdict(list)
    for effect in effects:
        kinds[type(effect).__name__].append(effect)
    kinds["Stop"] = kinds["Stop"][: rules.stops]
    kinds["Remove"] = kinds["Remove"][: rules.removals]
    order = ("Forget", "Adopt", "Close", "Drain", "Stop", "Remove", "Open", "Launch")
    return tuple(effect for kind in order for effect in kinds[kind])
