"""The demo's scheduler: a burst of jobs starts two nodes, they run the jobs, and go when there are no more.

Everything is as a user would do it: two files, `kiosk scheduler run`, and what it says after each tick.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kiosk import files
from kiosk.batch.workload.book import Book
from kiosk.cli.common import say
from kiosk.errors import KioskError
from kiosk.run import run, service

if TYPE_CHECKING:
    from kiosk.cli.demo import Demo

LIMIT = 420.0
LOOK = 0.5
ROW = "{:>7}  {:>7}  {:>7}  {:>4}  {}"
PHASES = ("wanted", "launching", "booting", "joined", "draining", "leaving")
SCHEDULER = """\
tick = "2 s"

[batch]
system = "workload"        # no batch system: the jobs of a file, run in the nodes
file = "workload.toml"

[types.worker]
image = "debian-12-minimal"
layers = ["experiment/demo/software"]
flavour = "1/1/1"          # a core, 1 GiB of memory, 1 GiB of scratch
maximum = 2
keep = "6 s"               # idle nodes go after so long (by default it is learned, from 15 minutes on)
offers = { tags = ["demo"] }
"""
WORKLOAD = """\
[[jobs]]
name = "hello"             # the experiment's own command, where its layer is
count = 4
command = ["/opt/experiment/demo/bin/hello"]
tags = ["demo"]

[[jobs]]
name = "burst"
count = 4
seconds = 6
after = 2
"""


def burst(demo: Demo, hypervisor: Mapping[str, str]) -> None:
    """Jobs wait, nodes come, jobs run, nodes go."""
    with demo.step("A burst of jobs: the scheduler starts nodes, they run them, and go") as facts:
        folder = demo.home / "scheduler"
        for name, text in (("scheduler.toml", SCHEDULER), ("workload.toml", WORKLOAD)):
            files.write(folder / name, text.encode())
            say(f"   ({folder / name})")
        file = str(folder / "scheduler.toml")
        demo.do(dict(hypervisor), "scheduler", "check", "--scheduler-config", file)
        say(f"$ kiosk scheduler run --scheduler-config {file}")
        # it ends with the demo, even where that is killed
        words = [
            "setpriv",
            "--pdeathsig",
            "TERM",
            *demo.kiosk,
            "scheduler",
            "run",
            "--scheduler-config",
            file,
        ]
        log = demo.home / "scheduler.log"
        kept = demo.home / "hypervisor/scheduler"
        log.unlink(missing_ok=True)
        try:
            with service(words, log_to=log, env=hypervisor) as running:
                _follow(kept, lambda: running.poll() is not None, log)
        finally:
            if left := _vms(kept):
                run([*demo.kiosk, "vm", "stop", "--now", *left], env=hypervisor, timeout=120)
        demo.do(dict(hypervisor), "scheduler", "jobs")
        facts.append(_ended(kept))


def _follow(kept: Path, over: Callable[[], bool], log: Path) -> None:
    """A line each time that something changed, until all jobs have ended and no node is left."""
    begun, last = time.monotonic(), ""
    say(ROW.format("seconds", "waiting", "running", "done", "nodes"))
    while True:
        time.sleep(LOOK)
        seconds = time.monotonic() - begun
        if over() or seconds > LIMIT:
            why = "ended" if over() else f"was not done after {LIMIT:.0f} s"
            raise KioskError(f"the scheduler {why}", where=str(log), hint="What it said stands there.")
        if (found := _status(kept)) is None:
            continue
        jobs, nodes = found
        runs = jobs["starting"] + jobs["running"]
        there = ", ".join(f"{nodes[phase]} {phase}" for phase in PHASES if nodes[phase]) or "none"
        row = (jobs["waiting"], runs, jobs["done"], there)
        if str(row) != last:
            last = str(row)
            say(ROW.format(f"{seconds:.0f}", *row))
        if jobs and not runs and not jobs["waiting"] and not jobs["later"] and not _vms(kept):
            say(ROW.format(f"{seconds:.0f}", *row[:3], "no VM is left"))
            return


def _status(kept: Path) -> tuple[Counter[str], Counter[str]] | None:
    """How many jobs and nodes are in which state, by the last tick; None before the first one."""
    from kiosk import clock

    try:
        status = json.loads((kept / "status.json").read_bytes())
    except FileNotFoundError:
        return None
    jobs: Counter[str] = Counter()
    for states in Book.read(kept / "workload.json").counts(clock.now()).values():
        jobs.update({str(state): count for state, count in states.items()})
    nodes: Counter[str] = Counter()
    for one in status["types"].values():
        nodes.update(one["nodes"])
    return jobs, nodes


def _vms(kept: Path) -> list[str]:
    """The names of the scheduler's VMs that there are."""
    names = [str(json.loads(path.read_bytes())["name"]) for path in (kept.parent / "vms").glob("*/vm.json")]
    return [name for name in names if name.startswith("kiosk-worker-")]


def _ended(kept: Path) -> str:
    """What became of the jobs. KioskError where not all of them went well."""
    jobs = [
        job for group in Book.read(kept / "workload.json").groups.values() for job in group.begun.values()
    ]
    done = [job for job in jobs if job.state == "done"]
    if len(done) < len(jobs):
        raise KioskError(f"{len(jobs) - len(done)} of {len(jobs)} jobs did not end well")
    return f"{len(done)} jobs ran on {len({job.host for job in done})} nodes, which are gone"
