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

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kiosk.batch.api import Host
from kiosk.cloud.api import VmState
from kiosk.scheduler.breaker import (
    NEW,
    failed,
    promotable,
    succeeded,
)
from kiosk.scheduler.life import Change, Limits, Seen, step
from kiosk.scheduler.model import Node
from kiosk.scheduler.numbers import launch, too_many
from kiosk.scheduler.orphans import left_behind, orphans
from kiosk.scheduler.plan import (
    Plan,
    Rules,
    Site,
    Work,
    by_node,
    cancel,
    drain,
    ordered,
    types_of_nodes,
)
from kiosk.scheduler.replace import Placed, leavers, revoked, tried


def reconcile(site: Site, rules: Rules) -> Plan:
    """The plan of one tick."""
    work = Work(dict(site.nodes), dict(site.circuits), {vm.name: vm.phase for vm in site.vms or ()})
    hosts = by_node(site.nodes, site.hosts or ())
    strangers = _live(site, rules, work, hosts)
    extra = orphans(site, rules, work, strangers, hosts)
    by_type = types_of_nodes(work.nodes.values(), work.absent)
    left_behind(site, work)
    newest = _promote(site, rules, work, by_type, hosts)
    targets = {t.type: t.nodes for t in site.targets} if site.targets is not None else None
    _replace(site, rules, work, by_type, hosts, targets, newest)
    if targets is not None and site.vms is not None and site.hosts is not None:
        by_type = types_of_nodes(work.nodes.values(), work.absent)
        short = too_many(site, rules, work, by_type, hosts, targets)
        launch(site, rules, work, by_type, extra, short)
    else:
        what = [
            n
            for n, v in (("the cloud", site.vms), ("the batch system", site.hosts), ("the targets", targets))
            if v is None
        ]
        work.notes.append(
            f"not known: {', '.join(what)}; nothing is launched, and nobody goes for being too many"
        )
    return Plan(tuple(work.changed.values()), work.learnt, ordered(work.effects, rules), tuple(work.notes))


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
            and node.phase in ("leaving", "failed")
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
    if lost >= 3 and lost > rules.blackout * len(there):
        work.notes.append(f"the cloud's list misses {lost} of {len(there)} nodes at once: not believed yet")
        limits = replace(limits, launch=limits.mass, vanish=limits.mass)
    if mute >= 3 and mute > rules.blackout * len(joined):
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
    site: Site, rules: Rules, work: Work, by_type: Mapping[str, Sequence[Node]], hosts: Mapping[str, Host],
    targets: Mapping[str, int] | None, newest: Mapping[str, str],
) -> None:  # fmt: skip
    """Drains nodes on revoked versions at once, on older ones and those past their age a few at a time."""
    layers = {vm.name: vm.layers for vm in site.vms or ()}
    trials = _trials(site, rules, work, by_type)
    for type, nodes in by_type.items():
        kind = site.types.get(type)
        placed = [
            Placed(n, hosts[n.id].jobs if n.id in hosts else 0, layers.get(n.id, ()))
            for n in nodes
            if n.phase == "joined"
        ]
        draining = sum(n.phase == "draining" for n in nodes)
        wanted = (targets or {}).get(type, len(placed))
        known = site.hosts is not None and site.vms is not None
        most = kind.max_unavailable if kind is not None and known else 0
        trial = trials.get(kind.image) if kind is not None else None
        for one in leavers(placed, draining, wanted, most, newest, site.images, site.now, trial=trial):
            drain(one, work, site, hosts)
            if trial is not None and kind is not None and one.reason == tried(trial[0]):
                trial = trials[kind.image] = (trial[0], trial[1] - 1)
        for node in nodes:
            bad = (
                revoked(node, layers.get(node.id, ()), site.images)
                if node.phase in ("wanted", "booting")
                else None
            )
            if bad:
                cancel(node, f"{bad} is revoked", work, site)


def _trials(
    site: Site, rules: Rules, work: Work, by_type: Mapping[str, Sequence[Node]]
) -> dict[str, tuple[str, int]]:
    """The newest version of each image that is not promoted yet, and how many canaries of it still need room."""
    found: dict[str, tuple[str, int]] = {}
    for name, refs in site.images.offered.items():
        ref = next((ref for ref in refs if site.images.revoked(ref) is False), None)
        circuit = work.circuits.get(f"image:{ref}", NEW)
        if ref is None or "/" in name or circuit.promoted or circuit.opened is not None:
            continue
        known = sum(
            (n.image == ref and n.phase in ("wanted", "launching", "booting", "joined"))
            or n.reason == tried(ref)
            for nodes in by_type.values()
            for n in nodes
        )
        if known < rules.breaker.canaries:
            found[name] = (ref, rules.breaker.canaries - known)
    return found
