"""What each type has: kiosk's own nodes by what they can do now, and free slots of hosts that are not kiosk's. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from kiosk.batch.api import Host, Look
from kiosk.scheduler.model import COMING, Need, Node, NodeType, Supply


def supplies(look: Look, nodes: Iterable[Node], types: Mapping[str, NodeType]) -> dict[str, Supply]:
    """What each type has of kiosk's own nodes. A joined node that takes no jobs now (closed by somebody else, or
    silent) counts as full. `real` is left for `with_real`."""
    hosts = {host.name: host for host in look.hosts}
    counts = {name: [0, 0, 0, 0] for name in types}
    used = dict.fromkeys(types, 0.0)
    for node in nodes:
        if node.type not in counts or node.phase == "gone":
            continue
        count = counts[node.type]
        if node.phase in COMING:
            count[0] += 1
        elif node.phase == "joined":
            full = _filled(hosts.get(node.host or ""))
            used[node.type] += full
            count[1 if full else 2] += 1
        else:
            count[3] += 1
    return {
        name: Supply(coming, busy, idle, draining, used=used[name])
        for name, (coming, busy, idle, draining) in counts.items()
    }


def _filled(host: Host | None) -> float:
    if host is None or host.status != "open" or host.slots <= 0:
        return 1.0
    return min(1.0, host.used / host.slots)


def with_real(
    own: Mapping[str, Supply],
    look: Look,
    nodes: Iterable[Node],
    types: Mapping[str, NodeType],
    asked: Mapping[str, Need],
) -> dict[str, Supply]:
    """Adds the free slots of hosts that are not kiosk's. A host counts for types whose every tag and value it has;
    where there are several, for those first that the most nodes are asked of, and nowhere twice."""
    ours = {node.host for node in nodes if node.host}
    kinds: dict[tuple[frozenset[str], frozenset[tuple[str, str]]], float] = defaultdict(float)
    for host in look.hosts:
        if host.status == "open" and host.name not in ours and not host.mine and host.slots > host.used:
            kinds[(host.tags, host.values)] += host.slots - host.used
    real = dict.fromkeys(types, 0.0)
    open_need = {name: need.pending for name, need in asked.items()}
    covers = [
        (kind, [name for name, t in types.items() if t.tags <= kind[0] and t.values <= kind[1]])
        for kind in kinds
    ]
    for kind, names in sorted(covers, key=lambda item: len(item[1])):
        free = float(kinds[kind])
        for name in sorted(names, key=lambda n: -open_need.get(n, 0.0)):
            slots = types[name].slots
            take = min(free, max(0.0, open_need.get(name, 0.0) - real[name]) * slots)
            real[name] += take / slots
            free -= take
    return {name: replace(supply, real=real.get(name, 0.0)) for name, supply in own.items()}
