"""How long a farm takes to get a new image, by three ways, with real agents on real (shaped) links.

    sudo .venv/bin/python -m benchmarks.swarm [--agents N ...] [--way WAY ...] [--quick] [--json]

Each hypervisor is a network namespace with a link of its own; so are the kiosk and the site's Squid. Ways:

    http    `kiosk sync` on all hosts at once, from `kiosk serve`
    squid   the same through one Squid with server/squid.conf
    agent   `kiosk agent` as installed, idle until `kiosk publish`: it is woken by the push, and chooses itself

The image is noise, so that its size is what moves. Links are slow, so that they and not this machine's processor
are the bottleneck; the processor's share is in the table. Bytes are what the kernel counted on the kiosk's link.
A whole run writes benchmarks/results/swarm.json and docs/swarm.svg; a run with --agents or --way puts its rows into
the results that are there, when everything else is the same.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import goals, swarm_goals
from benchmarks.distribution import machine
from benchmarks.farm import Hypervisor, Origin, running, squid
from benchmarks.network import Network, network
from kiosk import files
from kiosk.build import sandbox
from kiosk.cli.common import emit, guard, say, table
from kiosk.errors import KioskError, MissingToolError, UsageError

HOME = Path("/dev/shm")  # noqa: S108
RESULTS = Path(__file__).parent / "results" / "swarm.json"
PLOT = Path(__file__).parent.parent / "docs" / "swarm.svg"
AGENTS = (1, 2, 4, 8, 16, 32)
WAYS = ("http", "squid", "agent")
RACK = 8
LOOK = 0.05
MOVING = 32 << 10
"""So many bytes at a host since the publication are more than events and metadata."""
SETTLE = 3.0
PATIENCE = 40
"""A run ends after so many times what all copies one after the other would take over the slowest link."""
MBIT = 1_000_000


@dataclass(frozen=True)
class Farm:
    """What is the same in every row. Rates in bits a second, size in bytes."""

    size: int
    link: int
    origin_link: int
    proxy_link: int

    @property
    def ideal(self) -> float:
        """Seconds that one copy takes over a host's link."""
        return self.size * 8 / self.link


@dataclass
class Row:
    """One measurement. Seconds count from the order to start (http, squid) or from the return of `kiosk publish`
    (agent). `first_byte` is that of the first host. `busy` is the processors' share, of all of them."""

    way: str
    agents: int
    when: str
    done: list[float] = field(default_factory=list)
    first_byte: float | None = None
    origin_bytes: int = 0
    proxy_bytes: int = 0
    hosts_bytes: int = 0
    busy: float = 0.0
    load: float = 0.0
    failed: str = ""
    note: str = ""


def measure(way: str, agents: int, farm: Farm, folder: Path) -> Row:
    """One row; whatever goes wrong is in it."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    row = Row(way, agents, now, load=round(os.getloadavg()[0], 2))
    try:
        with network() as net:
            _measure(row, farm, net, folder)
    except KioskError as e:
        row.failed = str(e)
    finally:
        files.remove_tree(folder)
    return row


def _measure(row: Row, farm: Farm, net: Network, folder: Path) -> None:
    origin = Origin(net.host(farm.origin_link), folder / "kiosk")
    origin.create(farm.size)
    with ExitStack() as stack:
        stack.enter_context(origin.serving())
        proxy_host = proxy = None
        if row.way == "squid":
            proxy_host = net.host(farm.proxy_link)
            proxy = stack.enter_context(squid(proxy_host, folder / "squid", origin))
        hosts = [
            Hypervisor(net.host(farm.link, 1 + n // RACK), folder / f"host-{n + 1}", origin, proxy)
            for n in range(row.agents)
        ]
        watch = Watch(origin, hosts)
        if row.way == "agent":
            processes = [host.agent() for host in hosts]
            stack.enter_context(running(processes))
            _idle(hosts, processes)
            watch.begin()
            began = origin.publish()
        else:
            origin.publish()
            time.sleep(1)
            watch.begin()
            began = time.monotonic()
            processes = [host.sync() for host in hosts]
            stack.enter_context(running(processes))
        limit = PATIENCE + PATIENCE * farm.size * 8 * row.agents / min(farm.link, farm.origin_link) / 20
        watch.until_done(began, processes, limit, keep_going=row.way == "agent")
        row.done = sorted(round(seconds, 2) for seconds in watch.done.values())
        row.first_byte = watch.first_byte if row.way == "agent" else None
        row.origin_bytes = origin.host.sent() - watch.origin_sent
        row.proxy_bytes = proxy_host.sent() if proxy_host else 0
        row.hosts_bytes = sum(host.host.sent() for host in hosts) - watch.hosts_sent
        row.busy = round(watch.busy(), 3)
        if len(watch.done) < row.agents:
            late = next(h for h in hosts if h.name not in watch.done)
            row.failed = (
                f"{row.agents - len(watch.done)} of {row.agents} did not finish; {late.name}: {late.said()}"
            )


def _idle(hosts: Sequence[Hypervisor], processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Waits until all agents have looked once and wait for events: a quiet network."""
    end = time.monotonic() + 30 + 3 * len(hosts)
    while not all(host.waits() for host in hosts):
        for host, process in zip(hosts, processes, strict=True):
            if process.poll() is not None:
                raise KioskError("the agent ended", where=host.name, hint=host.said())
        if time.monotonic() > end:
            late = next(host for host in hosts if not host.waits())
            raise KioskError("the agent does not come to rest", where=late.name, hint=late.said())
        time.sleep(0.2)
    time.sleep(SETTLE)


class Watch:
    """Looks at all hosts until they have the image."""

    def __init__(self, origin: Origin, hosts: Sequence[Hypervisor]) -> None:
        self.origin, self.hosts = origin, hosts
        self.done: dict[str, float] = {}
        self.first_byte: float | None = None
        self.origin_sent = self.hosts_sent = 0
        self._received: dict[str, int] = {}
        self._jiffies = (0, 0)
        self._ended = (0, 0)

    def begin(self) -> None:
        """Remembers where counters stand."""
        self.origin_sent = self.origin.host.sent()
        self.hosts_sent = sum(host.host.sent() for host in self.hosts)
        self._received = {host.name: host.host.received() for host in self.hosts}
        self._jiffies = jiffies()

    def until_done(
        self, began: float, processes: Sequence[subprocess.Popen[bytes]], limit: float, *, keep_going: bool
    ) -> None:
        """Until all have it, or `limit` seconds are over, or (unless `keep_going`) all programs have ended."""
        while len(self.done) < len(self.hosts):
            now = time.monotonic() - began
            ended = not keep_going and all(p.poll() is not None for p in processes)
            for host in self.hosts:
                if host.name not in self.done and host.done():
                    self.done[host.name] = now
                if self.first_byte is None and host.host.received() - self._received[host.name] > MOVING:
                    self.first_byte = round(now, 2)
            if ended or now > limit:
                break
            time.sleep(LOOK)
        self._ended = jiffies()

    def busy(self) -> float:
        """The processors' share between begin and end."""
        busy, total = (b - a for a, b in zip(self._jiffies, self._ended, strict=True))
        return busy / max(1, total)


def jiffies() -> tuple[int, int]:
    """What all processors have worked, and all that they could have."""
    fields = [int(n) for n in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def show(farm: Farm, rows: Sequence[dict[str, Any]]) -> None:
    """Prints the table."""
    columns = ["way", "agents#", "first byte, s#", "first, s#", "median, s#", "last, s#", "last / ideal#"]
    columns += ["origin, MB#", "copies#", "Squid, MB#", "hosts, MB#", "CPU#"]
    lines = []
    for row in rows:
        done = row["done"]
        lines.append(
            [
                row["way"],
                row["agents"],
                "–" if row["first_byte"] is None else f"{row['first_byte']:.2f}",
                *(f"{f(done):.1f}" if done else "–" for f in (min, statistics.median, max)),
                f"{max(done) / farm.ideal:.2f}" if done else "–",
                f"{row['origin_bytes'] / 1e6:.1f}",
                f"{row['origin_bytes'] / farm.size:.2f}",
                f"{row['proxy_bytes'] / 1e6:.1f}" if row["way"] == "squid" else "–",
                f"{row['hosts_bytes'] / 1e6:.1f}",
                f"{row['busy']:.0%}",
            ]
        )
    say(
        f"{farm.size / 1e6:.1f} MB to each host; links: hosts {farm.link / MBIT:g} Mbit/s, kiosk "
        f"{farm.origin_link / MBIT:g}, Squid {farm.proxy_link / MBIT:g}; ideal {farm.ideal:.1f} s"
    )
    table(columns, lines)
    for row in rows:
        if row["failed"]:
            say(f"{row['way']}, {row['agents']} agents: {row['failed']}")
    for note in sorted({row["note"] for row in rows if row.get("note")}):
        say(note)


def merged(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All rows, the newer in place of the older, in the order of the ways."""
    found = {(row["way"], row["agents"]): row for row in [*old, *new]}
    return sorted(found.values(), key=lambda row: (WAYS.index(row["way"]), row["agents"]))


def document(farm: Farm, rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
    """What is written to results/swarm.json; bytes and seconds."""
    return {
        "machine": about,
        "farm": asdict(farm),
        "rows": list(rows),
        "goals": [asdict(goal) for goal in swarm_goals.judge(farm.size, rows)],
    }


def main() -> int:
    """Measures from the command line."""
    parser = argparse.ArgumentParser(description="Measure how a farm gets a new image.")
    parser.add_argument("--agents", type=int, nargs="+", help=f"how many ({' '.join(map(str, AGENTS))})")
    parser.add_argument("--way", nargs="+", choices=WAYS, help="which ways (all)")
    parser.add_argument(
        "--quick", action="store_true", help="3 agents, a small image: whether it works at all"
    )
    parser.add_argument("--size", type=int, default=32, help="the image, MiB (32)")
    parser.add_argument("--link", type=float, default=8, help="a host's link, Mbit/s (8)")
    parser.add_argument("--origin-link", type=float, help="the kiosk's link, Mbit/s (as a host's)")
    parser.add_argument("--proxy-link", type=float, help="Squid's link, Mbit/s (four times a host's)")
    parser.add_argument("--home", type=Path, default=HOME, help=f"where hosts' folders are ({HOME}: memory)")
    parser.add_argument("--output", type=Path, help="where the results go (not --quick: results/)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    given = parser.parse_args()
    return guard(lambda: _run(given))


def _run(given: argparse.Namespace) -> None:
    sandbox.require_root("making network namespaces")
    if any(n < 1 or n > 200 for n in given.agents or []):
        raise UsageError("--agents takes numbers from 1 to 200")
    size, link = (4, 40.0) if given.quick else (given.size, given.link)
    farm = Farm(
        size << 20,
        round(link * MBIT),
        round((given.origin_link or link) * MBIT),
        round((given.proxy_link or 4 * link) * MBIT),
    )
    agents = given.agents or ((3,) if given.quick else AGENTS)
    output = given.output or (None if given.quick else RESULTS)
    if output == RESULTS and importlib.util.find_spec("matplotlib") is None:
        raise MissingToolError("matplotlib is not installed", hint="pip install -e '.[bench]'")
    old = _kept(output, farm)
    about = machine()
    rows: list[dict[str, Any]] = []
    with files.scratch(given.home.resolve() / "kiosk-bench-swarm") as folder:
        folder.chmod(0o711)  # Squid gives up root, and has its cache below
        for way in given.way or WAYS:
            for n in agents:
                print(f"{way}: {n} agents", file=sys.stderr, flush=True)
                rows.append(asdict(measure(way, n, farm, folder / f"{way}-{n}")))
                print(f"{way}: {n} agents: {_short(rows[-1])}", file=sys.stderr, flush=True)
                found = document(farm, merged(old, rows), about)
                if output is not None:
                    files.write(output, (json.dumps(found, indent=1) + "\n").encode())
    if output == RESULTS:
        from benchmarks import swarm_plot  # needs the extra `bench`

        simulated = RESULTS.with_name("simulation.json")
        swarm_plot.draw(found, PLOT, json.loads(simulated.read_bytes()) if simulated.exists() else None)
    if given.json:
        emit(found)
    else:
        show(farm, found["rows"])
        say()
        goals.show(found["goals"])


def _kept(output: Path | None, farm: Farm) -> list[dict[str, Any]]:
    """The rows of an earlier run in the same farm."""
    if output is None or not output.exists():
        return []
    found = json.loads(output.read_bytes())
    rows: list[dict[str, Any]] = found["rows"] if found["farm"] == asdict(farm) else []
    return rows


def _short(row: dict[str, Any]) -> str:
    last: Callable[[list[float]], str] = lambda done: f"{max(done):.1f} s" if done else "–"  # noqa: E731
    return row["failed"] or f"last {last(row['done'])}, origin {row['origin_bytes'] / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
