"""From what should be and what is to what is done: targets, ledger, the cloud's list and the batch system's look in;
nodes as they are from now on and an ordered, bounded list of effects out. Pure. What it guarantees:

* a type never has more nodes than its maximum, counting everything that may exist: asked for, coming, leaving, failed,
  unknown VMs of its name, second VMs;
* where the cloud's list is unknown nothing is launched or ended, where the look at the batch system is unknown nothing
  is launched, closed for being too many, or ended for being absent; a large share missing at once is not believed for
  long (`Limits.mass`);
* nothing is launched of an image that is revoked or of which that is not known;
* VMs without kiosk's prefix, and hosts that are no node's, are never touched.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from kiosk.batch.api import Host
from kiosk.cloud.api import VmState
from kiosk.scheduler.breaker import (
    NEW,
    BreakerLimits,
    Circuit,
    Images,
    choices,
    failed,
    probed,
    promotable,
    room,
    succeeded,
    version_of,
)
from kiosk.scheduler.effects import Adopt, Close, Drain, Effect, Forget, Launch, Open, Remove, Stop
from kiosk.scheduler.life import Change, Limits, Seen, step
from kiosk.scheduler.model import Node, NodeType, Supply, Target
from kiosk.scheduler.placement import Ground, Hypervisor, Overhead, Wish
from kiosk.scheduler.replace import Leaver, Placed, leavers, revoked, until

SUFFIX = r"[0-9a-z]{10}"
TOO_MANY = "more nodes than wanted"
"""The reason of a drain that is taken back when nodes are wanted again."""


@dataclass(frozen=True)
class Rules:
    """What does not change between ticks. `prefix` begins the names of this farm's VMs, and of no other's; at most so
    many `launches`, `stops` and `removals` a tick, `nodes` and `cores` in all. An unknown VM with our prefix is ended
    after `orphan` seconds; where more than `blackout` of at least five nodes are missing at once, it is not
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


def reconcile(site: Site, rules: Rules) -> Plan:
    """The plan of one tick."""
    work = Work(dict(site.nodes), dict(site.circuits), {vm.name: vm.phase for vm in site.vms or ()})
    hosts = _by_node(site.nodes, site.hosts or ())
    strangers = _live(site, rules, work, hosts)
    extra = _orphans(site, rules, work, strangers, hosts)
    by_type = _by_type(work.nodes.values(), work.absent)
    _left_behind(site, work)
    newest = _promote(site, rules, work, by_type, hosts)
    targets = {t.type: t.nodes for t in site.targets} if site.targets is not None else None
    _replace(site, work, by_type, hosts, targets, newest)
    if targets is not None and site.vms is not None and site.hosts is not None:
        by_type = _by_type(work.nodes.values(), work.absent)
        short = _too_many(site, rules, work, by_type, hosts, targets)
        _launch(site, rules, work, by_type, extra, short)
    else:
        what = [
            n
            for n, v in (("the cloud", site.vms), ("the batch system", site.hosts), ("the targets", targets))
            if v is None
        ]
        work.notes.append(
            f"not known: {', '.join(what)}; nothing is launched, and nobody goes for being too many"
        )
    return Plan(tuple(work.changed.values()), work.learnt, _ordered(work.effects, rules), tuple(work.notes))


def supplies(nodes: Iterable[Node], hosts: Sequence[Host]) -> dict[str, Supply]:
    """What each type has, for the control. A joined node that somebody else closed is no supply."""
    there = {n.id: n for n in nodes}
    found = _by_node(there, hosts)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for node in there.values():
        host = found.get(node.id)
        if node.phase in ("wanted", "launching", "booting"):
            counts[node.type]["coming"] += 1
        elif node.phase == "draining" or (node.phase == "joined" and host is not None and host.others):
            counts[node.type]["draining"] += 1
        elif node.phase == "joined":
            counts[node.type]["idle" if host is not None and _idle(host) else "busy"] += 1
    return {name: Supply(c["coming"], c["busy"], c["idle"], c["draining"]) for name, c in counts.items()}


# -- what is there --------------------------------------------------------------------------------------------


def _idle(host: Host) -> bool:
    return host.status != "unavailable" and not host.jobs and not host.used


def _by_node(nodes: Mapping[str, Node], hosts: Iterable[Host]) -> dict[str, Host]:
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


def _by_type(nodes: Iterable[Node], absent: Container[str]) -> dict[str, list[Node]]:
    """Nodes by type, as far as they have a VM or may have one: none whose VM was ended, or lost, and is not listed for
    long enough. (Of these only the batch system still has to be told.)"""
    found: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        if node.phase != "gone" and not (node.phase in ("leaving", "failed") and node.id in absent):
            found[node.type].append(node)
    return found


def _live(site: Site, rules: Rules, work: Work, hosts: Mapping[str, Host]) -> list[VmState]:
    """Every node's step; returns the VMs that are no node's."""
    seen: dict[str, list[VmState]] = {}
    strangers: list[VmState] = []
    for vm in site.vms or ():
        if vm.name in site.nodes:
            seen.setdefault(vm.name, []).append(vm)
        else:
            strangers.append(vm)
    limits = _believed(site, rules, seen, hosts, work)
    none: tuple[VmState, ...] = ()
    for node in site.nodes.values():
        vms = None if site.vms is None else seen.get(node.id, none)
        if (
            vms is none
            and node.missing is not None
            and (site.now - node.missing).total_seconds() >= limits.vanish
        ):
            work.absent.add(node.id)
        change = step(node, Seen(vms, site.hosts is not None, hosts.get(node.id)), site.now, limits)
        if change is not None:
            work.change(change.node, *change.effects)
            if change.blame or change.credit:
                _learn(change, work, site, rules)
    return strangers


def _believed(
    site: Site, rules: Rules, seen: Mapping[str, object], hosts: Mapping[str, Host], work: Work
) -> Limits:
    """The limits of this tick: much longer ones where a large share of all is missing at once."""
    limits = rules.limits
    there = [n for n in site.nodes.values() if n.phase in ("booting", "joined", "draining")]
    joined = [n for n in there if n.phase == "joined"]
    lost = sum(n.id not in seen for n in there) if site.vms is not None else 0
    mute = (
        sum((h := hosts.get(n.id)) is None or h.status == "unavailable" for n in joined)
        if site.hosts is not None
        else 0
    )
    if lost >= 5 and lost > rules.blackout * len(there):
        work.notes.append(f"the cloud's list misses {lost} of {len(there)} nodes at once: not believed yet")
        limits = replace(limits, launch=limits.mass, vanish=limits.mass)
    if mute >= 5 and mute > rules.blackout * len(joined):
        work.notes.append(f"the batch system misses {mute} of {len(joined)} nodes at once: not believed yet")
        limits = replace(limits, join=limits.mass, silence=limits.mass)
    return limits


def _learn(change: Change, work: Work, site: Site, rules: Rules) -> None:
    names = {"image": change.node.image, "hypervisor": change.node.where, "cloud": rules.cloud}
    for kind, of in names.items():
        key = f"{kind}:{of}"
        circuit = work.circuits.get(key, NEW)
        if of is None:
            continue
        if kind in change.blame:
            work.learn(key, failed(key, circuit, site.now, rules.breaker, change.node.reason))
        elif kind in change.credit and (kind != "cloud" or circuit.failures or circuit.opened):
            work.learn(key, succeeded(circuit, site.now))


# -- VMs that nobody knows --------------------------------------------------------------------------------------


def type_of(name: str, prefix: str) -> str | None:
    """The type that a VM's name says, None where the name is none of this farm's."""
    found = re.fullmatch(rf"{re.escape(prefix)}-([a-z][a-z0-9-]{{0,30}})-{SUFFIX}", name)
    return found[1] if found else None


def names_of(host: Host) -> list[str]:
    """The names of nodes that a host may be: its own, and what it says of itself where it was renamed."""
    return [host.name.partition(".")[0].lower(), *(value for _, value in host.values)]


def _left_behind(site: Site, work: Work) -> None:
    """Removes hosts whose nodes are gone and that were missing when they went."""
    for host in site.hosts or () if site.gone and site.vms is not None else ():
        if host.status == "unavailable":
            for name in names_of(host):
                if name in site.gone and name not in work.phases:
                    work.effects.append(Remove(name, host.name))


def _orphans(
    site: Site, rules: Rules, work: Work, strangers: Sequence[VmState], hosts: Mapping[str, Host]
) -> Counter[str]:
    """Takes up, or ends, VMs of our name that the ledger does not have. Returns how many more of each type exist."""
    extra: Counter[str] = Counter()
    seen: set[str] = set()
    counts = Counter(n.type for n in site.nodes.values())
    for vm in sorted(strangers, key=lambda v: (v.created, v.id)):
        type = type_of(vm.name, rules.prefix)
        if type is None:
            continue
        if vm.name in site.gone:
            work.effects.append(Stop(vm.name, vm.id, "it was given up before", now=True))
        elif vm.name in seen:
            work.effects.append(Stop(vm.name, vm.id, "a second VM of this name", now=True))
        elif type in site.types:
            seen.add(vm.name)
            kind = site.types[type]
            ends = until(vm.name, vm.created, kind.lifetime)
            node = Node(
                vm.name, type, vm.image, "booting", vm.created, site.now, ends, vm=vm.id, reason="found in the cloud"
            )  # fmt: skip
            counts[type] += 1
            bad = revoked(node, vm.layers, site.images)
            if bad or counts[type] > kind.maximum:
                why = f"{bad} is revoked" if bad else f"{type} has more than its maximum of {kind.maximum}"
                node = replace(node, phase="draining", reason=why)
            work.change(node, Adopt(node))
            continue
        elif site.now - max(vm.created, site.born or vm.created) >= timedelta(seconds=rules.orphan):
            node = Node(
                vm.name,
                type,
                vm.image,
                "draining",
                vm.created,
                site.now,
                vm=vm.id,
                reason=f"{type} is no type",
            )
            work.change(node, Adopt(node))
            continue
        extra[type] += 1
    twice = Counter(vm.name for vm in site.vms or () if vm.name in site.nodes)
    for name, count in twice.items():
        if count > 1:
            extra[site.nodes[name].type] += count - 1
    return extra


# -- versions ---------------------------------------------------------------------------------------------------


def _promote(
    site: Site, rules: Rules, work: Work, by_type: Mapping[str, Sequence[Node]], hosts: Mapping[str, Host]
) -> dict[str, str]:
    """Promotes versions whose canaries did enough; returns the newest promoted by name (of layers, the newest)."""
    busy = {
        n.image
        for nodes in by_type.values()
        for n in nodes
        if n.phase == "joined" and n.id in hosts and hosts[n.id].jobs
    }
    newest: dict[str, str] = {}
    for name, refs in site.images.offered.items():
        if "/" in name:
            if refs and site.images.revoked(refs[0]) is False:
                newest[name] = refs[0]
            continue
        usable = [ref for ref in refs if site.images.revoked(ref) is False]
        for at, ref in enumerate(usable):
            key = f"image:{ref}"
            circuit = work.circuits.get(key, NEW)
            fallback = any(work.circuits.get(f"image:{r}", NEW).promoted for r in usable[at + 1 :])
            if promotable(
                ref, circuit, worked=ref in busy, fallback=fallback, now=site.now, limits=rules.breaker
            ):
                circuit = replace(circuit, promoted=True)
                work.learn(key, circuit)
                work.notes.append(f"{ref} is promoted: {circuit.joined} nodes of it joined")
            if circuit.promoted and circuit.opened is None:
                newest[name] = ref
                break
    return newest


def _replace(
    site: Site, work: Work, by_type: Mapping[str, Sequence[Node]], hosts: Mapping[str, Host],
    targets: Mapping[str, int] | None, newest: Mapping[str, str],
) -> None:  # fmt: skip
    """Drains nodes on revoked versions at once, on older ones and those past their age a few at a time."""
    layers = {vm.name: vm.layers for vm in site.vms or ()}
    for type, nodes in by_type.items():
        kind = site.types.get(type)
        placed = [
            Placed(n, hosts[n.id].jobs if n.id in hosts else 0, layers.get(n.id, ()))
            for n in nodes
            if n.phase == "joined"
        ]
        draining = sum(n.phase == "draining" for n in nodes)
        wanted = (targets or {}).get(type, len(placed))
        most = kind.max_unavailable if kind is not None and site.hosts is not None else 0
        for one in leavers(placed, draining, wanted, most, newest, site.images, site.now):
            _drain(one, work, site, hosts)
        for node in nodes:
            bad = (
                revoked(node, layers.get(node.id, ()), site.images)
                if node.phase in ("wanted", "booting")
                else None
            )
            if bad:
                _cancel(node, f"{bad} is revoked", work, site)


def _drain(one: Leaver, work: Work, site: Site, hosts: Mapping[str, Host]) -> None:
    """A joined node drains from now on."""
    node = replace(one.node, phase="draining", since=site.now, reason=one.reason, missing=None, silent=None)
    host = hosts.get(node.id)
    if host is not None:
        work.change(node, *([] if host.mine else [Close(node.id, host.name, one.reason)]))
    elif node.vm is not None:
        work.change(node, Drain(node.id, node.vm, one.reason))


def _cancel(node: Node, reason: str, work: Work, site: Site) -> None:
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


# -- numbers ----------------------------------------------------------------------------------------------------


def _too_many(
    site: Site, rules: Rules, work: Work, by_type: Mapping[str, Sequence[Node]], hosts: Mapping[str, Host],
    targets: Mapping[str, int],
) -> dict[str, int]:  # fmt: skip
    """Lets nodes go where there are more than wanted; returns how many each type lacks."""
    short: dict[str, int] = {}
    for type in {*by_type, *targets}:
        nodes = by_type.get(type, [])
        there = sum(n.phase in ("wanted", "launching", "booting") for n in nodes) + sum(
            n.phase == "joined" and not _others(hosts.get(n.id)) for n in nodes
        )
        wanted = targets.get(type, 0 if type not in site.types else there)
        kind = site.types.get(type)
        if kind is not None:
            wanted = min(wanted, kind.maximum)
        if there > wanted:
            _let_go(type, nodes, there - wanted, work, site, hosts)
        elif there < wanted:
            short[type] = _taken_back(nodes, wanted - there, work, site, hosts)
    return short


def _others(host: Host | None) -> bool:
    return host is not None and host.others


def _let_go(
    type: str, nodes: Sequence[Node], count: int, work: Work, site: Site, hosts: Mapping[str, Host]
) -> None:
    """Those that were only wished for go first, then those that come, then idle ones, of older versions first, the
    oldest first; of those with jobs only as many at a time as may be unavailable, and these drain."""
    coming = sorted(
        (n for n in nodes if n.phase in ("wanted", "booting")),
        key=lambda n: (n.phase != "wanted", -n.wanted.timestamp()),
    )
    joined = [n for n in nodes if n.phase == "joined" and n.id in hosts and not hosts[n.id].others]
    joined.sort(key=lambda n: (version_of(n.image).parts, n.wanted))
    idle = [n for n in joined if _idle(hosts[n.id])]
    for node in coming[:count]:
        _cancel(node, TOO_MANY, work, site)
    left = count - min(count, len(coming))
    for node in idle[:left]:
        _drain(Leaver(node, TOO_MANY), work, site, hosts)
    left -= min(left, len(idle))
    kind = site.types.get(type)
    budget = (kind.max_unavailable if kind is not None else 1) - sum(n.phase == "draining" for n in nodes)
    busy = sorted((n for n in joined if not _idle(hosts[n.id])), key=lambda n: hosts[n.id].jobs)
    for node in busy[: max(0, min(left, budget))]:
        _drain(Leaver(node, TOO_MANY), work, site, hosts)


def _taken_back(nodes: Sequence[Node], count: int, work: Work, site: Site, hosts: Mapping[str, Host]) -> int:
    """Opens hosts again that drain only because there were too many; returns how many are lacking still."""
    for node in nodes:
        host = hosts.get(node.id)
        if count <= 0 or node.phase != "draining" or node.reason != TOO_MANY or host is None:
            continue
        if work.phases.get(node.id) not in ("ready", "running") or node.id in work.changed:
            continue  # a guest that drains by itself can't be told otherwise
        if host.mine and not host.others and host.status == "closed":
            work.change(replace(node, phase="joined", since=site.now, reason=None), Open(node.id, host.name))
            count -= 1
    return count


def _launch(
    site: Site, rules: Rules, work: Work, by_type: Mapping[str, Sequence[Node]], extra: Mapping[str, int],
    short: Mapping[str, int],
) -> None:  # fmt: skip
    """Wishes for what is lacking, within every limit, and asks for what was wished for."""
    ground = _ground(site, rules, work)
    left = min(rules.launches, room(f"cloud:{rules.cloud}", work.circuits, site.now, rules.breaker))
    exist = sum(map(len, by_type.values())) + sum(extra.values())
    cores = sum(
        site.types[t].flavour.cores * (len(n) + extra.get(t, 0))
        for t, n in by_type.items()
        if t in site.types
    )
    listed = {vm.name for vm in site.vms or ()}
    asked = _wished_before(site, rules, work, by_type, listed, left)
    alive = Counter(
        n.image for n in work.nodes.values() if n.phase in ("wanted", "launching", "booting", "joined")
    )
    names = _names(site, rules, listed)
    for type, lacking in sorted(short.items()):
        kind = site.types.get(type)
        if kind is None or lacking <= 0:
            continue
        most = [("its maximum", kind.maximum - len(by_type.get(type, ())) - extra.get(type, 0))]
        most.append(("launches a tick, or the cloud's circuit", left - asked))
        if rules.nodes is not None:
            most.append(("nodes in all", rules.nodes - exist))
        if rules.cores is not None:
            most.append(("cores in all", (rules.cores - cores) // kind.flavour.cores))
        limit, allowed = min(most, key=lambda m: m[1])
        count = max(0, min(lacking, allowed))
        if count < lacking:
            work.notes.append(f"{type}: {count} of {lacking} lacking nodes, because of {limit}")
        made = _wish(kind, count, site, rules, work, ground, names, alive)
        asked, exist, cores = asked + made, exist + made, cores + made * kind.flavour.cores
    if asked:
        key = f"cloud:{rules.cloud}"
        _probe(key, work, site, rules)


def _wished_before(
    site: Site, rules: Rules, work: Work, by_type: Mapping[str, Sequence[Node]], listed: set[str], most: int
) -> int:
    """Asks for nodes that a tick before wished for and did not come to; returns how many."""
    asked = 0
    for node in [n for nodes in by_type.values() for n in nodes if n.phase == "wanted"]:
        if work.nodes.get(node.id) is not node or node.id in listed:
            continue
        ways = [f"image:{node.image}", *([f"hypervisor:{node.where}"] if node.where else [])]
        if site.images.revoked(node.image) is not False or not all(
            room(key, work.circuits, site.now, rules.breaker) for key in ways
        ):
            _cancel(node, "its image or its hypervisor is not to be used now", work, site)
        elif asked < most:
            work.effects.append(Launch(node))
            asked += 1
            for key in ways:
                _probe(key, work, site, rules)
    return asked


def _wish(
    kind: NodeType, count: int, site: Site, rules: Rules, work: Work, ground: Ground | None, names: Iterator[str],
    alive: Counter[str],
) -> int:  # fmt: skip
    """Wishes for up to `count` nodes of a type; returns how many there was a version and a place for."""
    if count <= 0:
        return 0
    found, notes = choices(kind.image, site.images, work.circuits, alive, site.now, rules.breaker)
    work.notes += [note for note in notes if note not in work.notes]
    made = 0
    for choice in found:
        want = min(count - made, choice.room)
        places: Sequence[str | None] = [None] * want
        if ground is not None:
            places = ground.place(Wish(kind.name, choice.image, kind.flavour, want))
            if len(places) < want:
                work.notes.append(
                    f"{kind.name}: {want - len(places)} nodes have no place: {ground.why_not(kind.flavour)}"
                )
        for where in places:
            id = f"{rules.prefix}-{kind.name}-{next(names)}"
            node = Node(
                id,
                kind.name,
                choice.image,
                "wanted",
                site.now,
                site.now,
                until(id, site.now, kind.lifetime),
                where,
            )
            work.change(node, Launch(node))
            if where is not None:
                _probe(f"hypervisor:{where}", work, site, rules)
        if places:
            _probe(f"image:{choice.image}", work, site, rules)
        alive[choice.image] += len(places)
        made += len(places)
        if made >= count or len(places) < want:
            break
    return made


def _probe(key: str, work: Work, site: Site, rules: Rules) -> None:
    circuit = work.circuits.get(key)
    if circuit is not None and circuit.opened is not None:
        work.learn(key, probed(key, circuit, site.now, rules.breaker))


def _ground(site: Site, rules: Rules, work: Work) -> Ground | None:
    if site.hypervisors is None:
        return None
    closed = {
        key.partition(":")[2]: room(key, work.circuits, site.now, rules.breaker)
        for key, circuit in work.circuits.items()
        if key.startswith("hypervisor:") and circuit.opened is not None
    }
    ground = Ground(site.hypervisors, rules.overhead, closed=closed)
    ground.occupy(
        (n.where, n.type, site.types[n.type].flavour)
        for n in work.nodes.values()
        if n.where is not None and n.type in site.types and n.phase != "gone"
    )
    return ground


def _names(site: Site, rules: Rules, listed: set[str]) -> Iterator[str]:
    """Endings of names, by the seed; none that a VM or a node has."""
    taken = {name.rpartition("-")[2] for name in (*listed, *site.nodes, *site.gone)}
    at = 0
    while True:
        digest = hashlib.blake2b(f"{site.seed} {site.now.timestamp()} {at}".encode(), digest_size=8).digest()
        at += 1
        number, letters = int.from_bytes(digest, "big"), ""
        for _ in range(10):
            number, digit = divmod(number, 36)
            letters += "0123456789abcdefghijklmnopqrstuvwxyz"[digit]
        if letters not in taken:
            yield letters


def _ordered(effects: Sequence[Effect], rules: Rules) -> tuple[Effect, ...]:
    """Closing before ending, ending before launching; of each kind as many as a tick may."""
    kinds: dict[str, list[Effect]] = defaultdict(list)
    for effect in effects:
        kinds[type(effect).__name__].append(effect)
    kinds["Stop"] = kinds["Stop"][: rules.stops]
    kinds["Remove"] = kinds["Remove"][: rules.removals]
    order = ("Forget", "Adopt", "Close", "Drain", "Stop", "Remove", "Open", "Launch")
    return tuple(effect for kind in order for effect in kinds[kind])
