"""VMs and hosts of this farm that the ledger does not have: taken up, or ended. Pure.

A VM's name says its type. One of a type that there is becomes a node (a draining one, where its version is revoked or
the type has its maximum); one whose node was given up before is ended; one of no type drains after a while. What does
not have the farm's prefix is nobody's business here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from kiosk.batch.api import Host
from kiosk.cloud.api import VmState
from kiosk.scheduler.effects import Adopt, Remove, Stop
from kiosk.scheduler.model import Node
from kiosk.scheduler.plan import (
    Rules,
    Site,
    Work,
)
from kiosk.scheduler.replace import revoked, until

SUFFIX = r"[0-9a-z]{10}"


def type_of(name: str, prefix: str) -> str | None:
    """The type that a VM's name says, None where the name is none of this farm's."""
    found = re.fullmatch(rf"{re.escape(prefix)}-([a-z][a-z0-9-]{{0,30}})-{SUFFIX}", name)
    return found[1] if found else None


def names_of(host: Host) -> list[str]:
    """The names of nodes that a host may be: its own, and what it says of itself where it was renamed."""
    return [host.name.partition(".")[0].lower(), *(value for _, value in host.values)]


def left_behind(site: Site, work: Work) -> None:
    """Removes hosts whose nodes are gone and that were missing when they went."""
    for host in site.hosts or () if site.gone and site.vms is not None else ():
        if host.status == "unavailable":
            for name in names_of(host):
                if name in site.gone and name not in work.phases:
                    work.effects.append(Remove(name, host.name))


def orphans(
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
