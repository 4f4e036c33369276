"""How long one tick of the scheduler takes in a large farm, and what it asks: `python -m benchmarks.scheduler`.

16,000 VMs on 2,000 hypervisors, 200,000 pending jobs, 50 types of nodes, 60 rules, 400 users with shares, fourteen
weeks of history; as many launches as a tick may have. Measured is the processor time of the whole decision (`decide`),
with the history read before and written after it, each size in a fresh process for its peak of memory. What a look
returns, the cloud's list and the ledger's nodes are there before. Python's collector of cycles is off, as in the
scheduler. `--groups` says how many kinds of jobs the pending ones are: 5,000 is what a large farm has, 200,000 the
worst that can be. Besides, LSF's drivers are asked for an hour of ticks, and the commands are counted that they run.
Writes benchmarks/results/scheduler.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from kiosk import files
from kiosk.batch.api import BatchSystem, Host, Look, Pending, Queue, Requirements, Running, Share
from kiosk.batch.ask import Commands
from kiosk.batch.lsf.driver import Lsf
from kiosk.batch.lsf.follow import EventLog, Followed
from kiosk.cli.common import emit, say, table
from kiosk.cloud.api import VmState
from kiosk.model.flavour import Flavour
from kiosk.scheduler import control, shares, tick
from kiosk.scheduler.breaker import Circuit, Images
from kiosk.scheduler.forecast import HOUR
from kiosk.scheduler.history import KEEP, VERSION, History
from kiosk.scheduler.model import Capacity, Node, NodeType
from kiosk.scheduler.placement import Hypervisor
from kiosk.scheduler.plan import Rules
from kiosk.scheduler.replace import until
from kiosk.scheduler.run import without_collector
from kiosk.scheduler.settings import Rule
from kiosk.scheduler.tick import Farm, World

RESULTS = Path(__file__).parent / "results" / "scheduler.json"
NOW = datetime(2026, 3, 2, 12, tzinfo=timezone.utc)
VMS, HYPERVISORS, TYPES, JOBS, USERS = 16_000, 2000, 50, 200_000, 400
GROUPS = (5_000, 200_000)
LIMIT_SECONDS, LIMIT_BYTES = 1.0, 500 << 20
TICKS, LIMIT_QUERIES = 12, 12
"""Ticks of an hour, as they are by default, and queries of each kind in it."""


QUEUES = """
QUEUE: normal
  -- The only one.

PARAMETERS/STATISTICS
PRIO NICE STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN SSUSP USUSP  RSV
 30   20  Open:Active       -    -    -    -     0     0     0     0     0    0

USERS:  all
HOSTS:  all"""
HOSTS = """HOST  m
STATUS           CPUF  JL/U    MAX  NJOBS    RUN  SSUSP  USUSP    RSV DISPATCH_WINDOW
ok             100.00     -      4      0      0      0      0      0      -"""
"""A cluster of one host, as volclava prints it."""


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


def world(groups: int, kept: History) -> World:
    """All that a tick knows: nearly all nodes joined, their VMs listed, room on the hypervisors for more."""
    known, vms = {}, []
    for n in range(VMS):
        id = f"kiosk-type-{n % TYPES}-{n:010}"
        began = NOW - timedelta(seconds=3600 + n % 60_000)
        drains = n % 50 == 0
        image = f"type-{n % TYPES}@1"
        known[id] = Node(
            id, f"type-{n % TYPES}", image, "draining" if drains else "joined", began, began,
            until(id, began, 86400), f"hv-{n % HYPERVISORS}", f"vm{n}", f"node-{n}",
        )  # fmt: skip
        vms.append(VmState(f"vm{n}", id, id, image, (), "c2", "draining" if drains else "ready", began))
    seen = look(groups)
    hosts = [replace(h, values=frozenset({("node", id)})) for h, id in zip(seen.hosts, known, strict=False)]
    hosts += seen.hosts[len(hosts) :]
    names = [f"type-{n}" for n in range(TYPES)]
    return World(
        NOW,
        replace(seen, hosts=hosts),
        vms,
        known,
        Images({name: (f"{name}@1",) for name in names}, dict.fromkeys(names)),
        {f"image:{name}@1": Circuit(promoted=True, joined=5, since=NOW) for name in names},
        [
            Hypervisor(
                f"hv-{n}", 262_144, 64, 4000, f"rack-{n // 40}", images=frozenset({f"type-{n % TYPES}@1"})
            )
            for n in range(HYPERVISORS)
        ],
        kept.rows(NOW, HOUR),
        born=NOW,
    )


def fill(path: Path) -> None:
    """Fourteen weeks of all types."""
    hour = int(NOW.timestamp()) // HOUR
    with History(path) as kept:
        assert VERSION == 1
        kept._db.execute("BEGIN")
        rows = ((f"type-{n}", hour - h, 12, 12.0 * n, n + 3, 1, n) for n in range(TYPES) for h in range(KEEP))
        kept._db.executemany("INSERT INTO hours VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        kept._db.execute("COMMIT")


@contextlib.contextmanager
def watched(parts: dict[str, float]) -> Iterator[None]:
    """Adds up the seconds of each part of `decide` while it runs as it is."""
    named = {
        (tick, "supplies"): "supplies", (tick, "needs"): "mapping", (tick, "with_real"): "supplies",
        (tick, "forecast"): "forecast", (shares, "divide"): "shares", (control, "targets"): "control",
        (tick, "reconcile"): "life, placement",
    }  # fmt: skip
    before = {(module, name): getattr(module, name) for module, name in named}

    inside: set[str] = set()

    def timed(part: str, what: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any) -> Any:
            if part in inside:  # it calls itself
                return what(*words)
            inside.add(part)
            began = time.process_time()
            made = what(*words)
            parts[part] = parts.get(part, 0.0) + time.process_time() - began
            inside.remove(part)
            return made

        return call

    for (module, name), part in named.items():
        setattr(module, name, timed(part, before[(module, name)]))
    try:
        yield
    finally:
        for (module, name), what in before.items():
            setattr(module, name, what)


def one(groups: int) -> dict[str, Any]:
    """One tick, in this process: processor seconds of each part, and bytes of memory (before it, and at its peak)."""
    farm = Farm(
        types(), rules(), Capacity(2 * VMS, 8 * VMS), Rules(launches=1000, nodes=2 * VMS, cores=8 * VMS)
    )
    parts: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, History(Path(folder, "history.db")) as kept:
        fill(kept.path)
        known = world(groups, kept)
        before = _memory()
        with without_collector():
            began = time.process_time()
            known = replace(known, hours=kept.rows(NOW, HOUR))
            read = time.process_time() - began
            with watched(parts):
                found = tick.decide(farm, known)
            decided = time.process_time()
            kept.record(NOW, found.needs)
            parts["history"] = read + time.process_time() - decided
            seconds = time.process_time() - began
    assert found.targets is not None
    return {
        "groups": groups, "parts": parts, "seconds": seconds, "before": before, "peak": _memory(),
        "targets": sum(target.nodes for target in found.targets), "effects": len(found.plan.effects),
        "unserved": sum(u.jobs for u in found.unserved),
    }  # fmt: skip


def questions() -> list[dict[str, Any]]:
    """Commands that ask the batch system in an hour of ticks, by kind: the drivers, with programs that print an empty
    cluster and write down how they are called."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, asked in (("lsf", lsf_by_query), ("lsf by its event log", lsf_by_log)):
            home = Path(folder, name.replace(" ", "-"))
            home.mkdir()
            batch, calls = asked(home)
            for _ in range(TICKS):
                batch.look()
            kinds = (
                Counter(line.split()[0] for line in calls.read_text().splitlines()) if calls.exists() else {}
            )
            kinds.pop("lsid", None)  # once, to know the dialect
            found.append({"batch": name, "ticks": TICKS, "kinds": dict(kinds)})
    return found


def lsf_by_query(home: Path) -> tuple[BatchSystem, Path]:
    """LSF by its commands."""
    printed = {
        "lsid": "volclava 2.2 , May 10 2025\nMy cluster name is c\nMy master name is m",
        "bjobs": "No unfinished job found",
        "bqueues": QUEUES,
        "bhosts": HOSTS,
        "lshosts": "HOST_NAME      type    model  cpuf ncpus maxmem maxswp server RESOURCES\n"
        "m              linux   x86   60.0     4  7000M      -    Yes ()",
    }
    for name, text in printed.items():
        script = f"#!/bin/sh\necho {name} >> {home}/calls\ncat <<'.'\n{text}\n.\n"
        (home / name).write_text(script)
        (home / name).chmod(0o755)
    return Lsf(Commands(home)), home / "calls"


def lsf_by_log(home: Path) -> tuple[BatchSystem, Path]:
    """LSF by its event log alone."""
    (home / "lsb.events").write_text("#80                \n")
    return Followed(EventLog(home), Lsf(Commands(home))), home / "calls"


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    """Measures from the command line."""
    parser = argparse.ArgumentParser(description="Measure one tick of the scheduler in a large farm.")
    parser.add_argument(
        "--groups", type=int, nargs="+", default=GROUPS, help="kinds of pending jobs (5000 200000)"
    )
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the results go")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    given = parser.parse_args()
    if given.one:
        emit(one(given.one))
        return 0
    found = {"rows": [_apart(groups) for groups in given.groups], "queries": questions()}
    files.write(given.output, (json.dumps(found, indent=1) + "\n").encode())
    if given.json:
        emit(found)
    else:
        show(found["rows"], found["queries"])
    return 0


def _apart(groups: int) -> dict[str, Any]:
    """A tick in a fresh process."""
    argv = [sys.executable, "-m", "benchmarks.scheduler", "--one", str(groups)]
    made: dict[str, Any] = json.loads(
        subprocess.run(argv, check=True, capture_output=True, timeout=300).stdout
    )
    return made


def show(rows: list[dict[str, Any]], queries: list[dict[str, Any]]) -> None:
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
    for asked in queries:
        kinds = ", ".join(f"{count} {name}" for name, count in asked["kinds"].items()) or "none"
        met = max(asked["kinds"].values(), default=0) <= (0 if "log" in asked["batch"] else LIMIT_QUERIES)
        say(f"{'PASS' if met else 'FAIL'}  {asked['batch']}, {asked['ticks']} ticks in an hour: {kinds}")
    for row in rows:
        met = row["seconds"] < LIMIT_SECONDS and row["peak"] < LIMIT_BYTES
        what = f"{JOBS:,} jobs of {row['groups']:,} kinds: under {LIMIT_SECONDS:.0f} s and {LIMIT_BYTES >> 20} MiB"
        say(f"{'PASS' if met else 'FAIL'}  {what}: {row['seconds']:.2f} s, {row['peak'] >> 20} MiB")


if __name__ == "__main__":
    sys.exit(main())
