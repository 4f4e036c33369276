"""From targets to nodes: who goes where there are too many, and what is launched where there are too few. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from kiosk.batch.api import Host
from kiosk.scheduler.breaker import (
    choices,
    probed,
    room,
    version_of,
)
from kiosk.scheduler.effects import Launch, Open
from kiosk.scheduler.model import Node, NodeType
from kiosk.scheduler.placement import Ground, Wish
from kiosk.scheduler.plan import (
    TOO_MANY,
    Rules,
    Site,
    Work,
    cancel,
    drain,
    is_idle,
)
from kiosk.scheduler.replace import Leaver, until


def too_many(
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
    idle = [n for n in joined if is_idle(hosts[n.id])]
    for node in coming[:count]:
        cancel(node, TOO_MANY, work, site)
    left = count - min(count, len(coming))
    for node in idle[:left]:
        drain(Leaver(node, TOO_MANY), work, site, hosts)
    left -= min(left, len(idle))
    kind = site.types.get(type)
    budget = (kind.max_unavailable if kind is not None else 1) - sum(n.phase == "draining" for n in nodes)
    busy = sorted((n for n in joined if not is_idle(hosts[n.id])), key=lambda n: hosts[n.id].jobs)
    for node in busy[: max(0, min(left, budget))]:
        drain(Leaver(node, TOO_MANY), work, site, hosts)


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


def launch(
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
            cancel(node, "its image or its hypervisor is not to be used now", work, site)
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
