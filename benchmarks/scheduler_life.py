"""What a tick's life of nodes costs at full size: `python -m benchmarks.scheduler_life [--nodes 16000]`.

16,000 VMs of 50 types on 2,000 hypervisors: every node's step, orphans, replacement, numbers, placement. Three ticks:
one in which nothing changes, one that launches 1,000 nodes, and one that lets 1,000 go and has 500 VMs that nobody
knows; and what the ledger takes to read all nodes and to write 1,000 changes. Processor time, the best of five.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kiosk import files
from kiosk.batch.api import Host
from kiosk.cloud.api import VmState
from kiosk.model.flavour import FLAVOURS
from kiosk.scheduler.breaker import Circuit, Images
from kiosk.scheduler.ledger import Ledger
from kiosk.scheduler.model import Node, NodeType, Target
from kiosk.scheduler.placement import Hypervisor
from kiosk.scheduler.plan import Plan, Rules, Site
from kiosk.scheduler.reconcile import reconcile
from kiosk.scheduler.replace import until

NOW = datetime(2026, 11, 25, 9, tzinfo=UTC)
TYPES, HYPERVISORS = 50, 2000
GOAL = 0.4
NAMES = [f"worker-{t}" for t in range(5)]


def site(nodes: int) -> Site:
    """A large site at rest."""
    types = {
        f"type-{t}": NodeType(
            f"type-{t}", NAMES[t % 5], (), FLAVOURS["c2"], 2, 3600, 0, 2 * nodes // TYPES, 86400.0, 10
        )
        for t in range(TYPES)
    }
    known: dict[str, Node] = {}
    vms: list[VmState] = []
    hosts: list[Host] = []
    for i in range(nodes):
        kind = types[f"type-{i % TYPES}"]
        id = f"kiosk-{kind.name}-{i:010}"
        begun = NOW - timedelta(seconds=i % 60_000)
        where = f"hv-{i % HYPERVISORS}"
        known[id] = Node(
            id,
            kind.name,
            f"{kind.image}@1",
            "joined",
            begun,
            begun,
            until(id, begun, 86400),
            where,
            f"vm{i}",
            id,
        )
        vms.append(VmState(f"vm{i}", id, id, f"{kind.image}@1", (), "c2", "ready", begun))
        hosts.append(Host(id, "open", 2, i % 3, i % 3))
    hosts += [Host(f"real-{i}", "open", 64, 64, 64) for i in range(2000)]
    places = [
        Hypervisor(f"hv-{i}", 262_144, 64, 4000, f"rack-{i // 40}", images=frozenset({f"{NAMES[i % 5]}@1"}))
        for i in range(HYPERVISORS)
    ]
    return Site(
        NOW, types, known, vms, hosts, targets(types, nodes // TYPES),
        Images({name: (f"{name}@1",) for name in NAMES}, dict.fromkeys(NAMES)),
        {f"image:{name}@1": Circuit(promoted=True, joined=5, since=NOW) for name in NAMES}, places, born=NOW,
    )  # fmt: skip


def targets(types: Mapping[str, NodeType], each: int) -> list[Target]:
    """The same for all types."""
    return [Target(name, each) for name in types]


def best(work: Callable[[], object], times: int = 5) -> float:
    """Seconds of processor time, the best of some."""
    found = []
    for _ in range(times):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return min(found)


def measured(nodes: int) -> dict[str, float]:
    """All figures, in seconds."""
    rest = site(nodes)
    rules = Rules(launches=1000)
    more = replace(rest, targets=targets(rest.types, (nodes + 1000) // TYPES))
    stranger = rest.vms or []
    unknown = [
        replace(vm, id=f"x{i}", name=f"kiosk-type-{i % TYPES}-x{i:09}") for i, vm in enumerate(stranger[:500])
    ]
    fewer = replace(rest, targets=targets(rest.types, (nodes - 1000) // TYPES), vms=[*stranger, *unknown])
    found: dict[str, float] = {}
    plans: dict[str, Plan] = {}

    def tick(name: str, at: Site) -> None:
        plans[name] = reconcile(at, rules)

    for name, at in (("nothing changes", rest), ("1,000 launches", more), ("1,000 go, 500 unknown", fewer)):
        found[name] = best(functools.partial(tick, name, at))
    assert not plans["nothing changes"].effects
    assert len(plans["1,000 launches"].effects) == 1000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        ledger = Ledger(path)
        ledger.put(rest.nodes.values(), NOW)
        changed = [replace(n, phase="draining", since=NOW) for n in list(rest.nodes.values())[:1000]]
        found["ledger: 1,000 changes"] = best(lambda: ledger.put(changed, NOW), 1)
        ledger.close()
        found["ledger: open and read"] = best(lambda: Ledger(path).close())
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=16_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = measured(given.nodes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{given.nodes:,} VMs, {HYPERVISORS:,} hypervisors, {TYPES} types; processor seconds")
    for name, seconds in found.items():
        print(f"{name:<24} {seconds:7.3f}")
    worst = max(seconds for name, seconds in found.items() if not name.startswith("ledger"))
    print(
        f"{'PASS' if worst <= GOAL else 'FAIL'}  a tick's part within {GOAL} s; peak {peak:.0f} MiB, the site in it"
    )
    if given.json:
        files.write(given.json, json.dumps({**found, "peak_mib": peak}, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
