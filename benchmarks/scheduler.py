"""How long one tick of the scheduler takes in a large farm: `python -m benchmarks.scheduler`.

16,000 VMs on 2,000 hypervisors, 200,000 pending jobs, 50 types of nodes, 60 rules, 400 users with shares, fourteen
weeks of history. Measured are the pure parts, in the order of a tick (supplies, mapping, history, forecast, shares,
control), each size in a fresh process for its peak of memory; the input itself (what a look returns, and the ledger's
nodes) is there before. Python's collector of cycles is off meanwhile: nothing in a tick makes any, and it would look
through all of the input again and again. `--groups` says how many kinds of jobs the pending ones are: 5,000 is what a
large farm has, 200,000 the worst that can be.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from kiosk.batch.api import Host, Look, Pending, Queue, Requirements, Running, Share
from kiosk.cli.common import emit, say, table
from kiosk.model.flavour import Flavour
from kiosk.scheduler import control, mapping, shares, supply
from kiosk.scheduler.forecast import HOUR, forecast
from kiosk.scheduler.history import KEEP, VERSION, History
from kiosk.scheduler.model import Capacity, Node, NodeType
from kiosk.scheduler.settings import Rule

NOW = datetime(2026, 3, 2, 12, tzinfo=timezone.utc)
VMS, TYPES, JOBS, USERS = 16_000, 50, 200_000, 400
GROUPS = (5_000, 200_000)
LIMIT_SECONDS, LIMIT_BYTES = 1.0, 500 << 20


def types() -> dict[str, NodeType]:
    """Fifty types: five operating systems in ten sizes."""
    found = {}
    for n in range(TYPES):
        cores = (1, 2, 4, 8, 16)[n // 10]
        flavour = Flavour(cores=cores, memory=2 * cores, scratch=10 * cores)
        values = frozenset({("os", f"os{n % 10}")})
        name = f"type-{n}"
        found[name] = NodeType(name, name, (), flavour, cores, 1800 * cores, 10, 1000, values=values)
    return found


def rules() -> list[Rule]:
    """Sixty rules: by queue, by group, by operating system, by the resource string."""
    found = []
    for n in range(10):
        some = tuple(f"type-{n + 10 * size}" for size in range(5))
        found.append(Rule(queue=f"special{n}*", types=some))
        found.append(Rule(group=f"group{n}?", values={"os": f"os{n}"}, types=some))
        found.append(Rule(text=rf"GlueOS\s*==\s*os{n}\b", types=some))
        found += [Rule(user=f"user{n}{m}x", types=some) for m in range(2)]
        found.append(Rule(values={"os": f"os{n}"}, types=some))
    return found


def look(groups: int) -> Look:
    """A look at a farm in which all wait for more than there is."""
    dice = random.Random(1)
    each = JOBS // groups
    pending = []
    for n in range(groups):
        user = dice.randrange(USERS)
        r = Requirements(
            dice.choice((1, 1, 1, 2, 4)), memory=dice.choice((500, 1000, 1500)),
            values=frozenset({("os", f"os{dice.randrange(10)}")}), text=f"select[type==any && job{n}] rusage[mem=1]",
        )  # fmt: skip
        since = NOW - timedelta(seconds=dice.randrange(86400))
        pending.append(
            Pending(f"queue{dice.randrange(20)}", f"user{user}", f"group{user % 40}", r, each, since)
        )
    running = [Running(p.queue, p.user, p.group, p.requirements, 2) for p in pending[:5000]]
    hosts = [Host(f"node-{n}", "open", 4, n % 5, n % 5) for n in range(VMS)]
    hosts += [
        Host(f"real-{n}", "open", 32, 30, 30, values=frozenset({("os", f"os{n % 10}")})) for n in range(500)
    ]
    queues = [Queue(f"queue{n}", n % 4, True) for n in range(20)]
    owners = [Share(f"group{n}", n + 1) for n in range(40)]
    owners += [Share(f"user{n}", 1 + n % 7, parent=f"group{n % 40}") for n in range(USERS)]
    return Look(NOW, pending, running, hosts, queues, owners)


def nodes() -> list[Node]:
    """The ledger's nodes, nearly all joined."""
    at = NOW - timedelta(hours=5)
    joined = Node("", "", "image@1", "joined", at, at)
    return [
        replace(
            joined,
            id=f"vm-{n}",
            type=f"type-{n % TYPES}",
            host=f"node-{n}",
            phase="draining" if n % 50 == 0 else "joined",
        )
        for n in range(VMS)
    ]


def fill(path: Path) -> None:
    """Fourteen weeks of all types."""
    hour = int(NOW.timestamp()) // HOUR
    with History(path) as kept:
        assert VERSION == 1
        kept._db.execute("BEGIN")
        rows = ((f"type-{n}", hour - h, 12, 12.0 * n, n + 3, 1, n) for n in range(TYPES) for h in range(KEEP))
        kept._db.executemany("INSERT INTO hours VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        kept._db.execute("COMMIT")


def tick(groups: int) -> dict[str, Any]:
    """One tick, in this process: seconds of each part, and bytes of memory (before it, and at its peak)."""
    all_types, all_rules, seen, known = types(), rules(), look(groups), nodes()
    parts: dict[str, float] = {}

    def timed(name: str, what: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        made = what()
        parts[name] = parts.get(name, 0.0) + time.perf_counter() - began
        return made

    with tempfile.TemporaryDirectory() as folder, History(Path(folder, "history.db")) as kept:
        fill(kept.path)
        before = _memory()
        gc.collect()
        gc.disable()
        own = timed("supplies", lambda: supply.supplies(seen, known, all_types))
        needs, unserved = timed("mapping", lambda: mapping.needs(seen, all_types, all_rules, own))
        own = timed("supplies", lambda: supply.with_real(own, seen, known, all_types, needs))
        timed("history", lambda: kept.record(NOW, needs))
        rows = timed("history", lambda: kept.rows(NOW, HOUR))
        coming = timed("forecast", lambda: forecast(rows, NOW, HOUR))
        capacity = Capacity(nodes=VMS, cores=4 * VMS)
        granted = timed(
            "shares", lambda: shares.divide(capacity, needs, seen.shares, seen.queues, all_types, own)
        )
        found, _ = timed(
            "control",
            lambda: control.targets(all_types, needs, own, coming, granted, control.Memory(), NOW, capacity),
        )
    return {
        "groups": groups, "parts": parts, "seconds": sum(parts.values()), "before": before, "peak": _memory(),
        "targets": sum(target.nodes for target in found), "unserved": sum(u.jobs for u in unserved),
    }  # fmt: skip


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    """Measures from the command line."""
    parser = argparse.ArgumentParser(description="Measure one tick of the scheduler in a large farm.")
    parser.add_argument(
        "--groups", type=int, nargs="+", default=GROUPS, help="kinds of pending jobs (5000 200000)"
    )
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    given = parser.parse_args()
    if given.one:
        emit(tick(given.one))
        return 0
    rows = [_apart(groups) for groups in given.groups]
    if given.json:
        emit({"rows": rows})
    else:
        show(rows)
    return 0


def _apart(groups: int) -> dict[str, Any]:
    """A tick in a fresh process."""
    argv = [sys.executable, "-m", "benchmarks.scheduler", "--one", str(groups)]
    made: dict[str, Any] = json.loads(
        subprocess.run(argv, check=True, capture_output=True, timeout=300).stdout
    )
    return made


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the table and the goal."""
    names = list(rows[0]["parts"])
    table(
        ["kinds of jobs#", *(f"{name}, s#" for name in names), "all, s#", "input, MiB#", "peak, MiB#"],
        [
            (
                f"{row['groups']:,}", *(f"{row['parts'][name]:.3f}" for name in names), f"{row['seconds']:.3f}",
                row["before"] >> 20, row["peak"] >> 20,
            )
            for row in rows
        ],
    )  # fmt: skip
    say()
    for row in rows:
        met = row["seconds"] < LIMIT_SECONDS and row["peak"] < LIMIT_BYTES
        what = f"{JOBS:,} jobs of {row['groups']:,} kinds: under {LIMIT_SECONDS:.0f} s and {LIMIT_BYTES >> 20} MiB"
        say(f"{'PASS' if met else 'FAIL'}  {what}: {row['seconds']:.2f} s, {row['peak'] >> 20} MiB")


if __name__ == "__main__":
    sys.exit(main())
