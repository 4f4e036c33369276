"""Takes the distribution of a version to farms that no test machine holds: simulated, and checked against real runs.

    sudo .venv/bin/python -m benchmarks.simulation [--hosts N ...] [--check] [--json]

First it measures how fast one host verifies and writes on this machine. Then it simulates the farms of
benchmarks/results/swarm.json with the parameters they had, and prints predicted beside measured. Then it simulates
10 GB to hundreds and thousands of hypervisors at 1 Gbit/s in racks that share an uplink, by the swarm and by three
other ways, with and without hosts that vanish. benchmarks/simulate/model.py says what is assumed. A whole run (about
ten minutes, most of it for 5,000 hosts) writes benchmarks/results/simulation.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import goals, swarm
from benchmarks.distribution import machine
from benchmarks.farm import KIOSK, Origin
from benchmarks.goals import Goal
from benchmarks.network import Host
from benchmarks.simulate import others
from benchmarks.simulate.engine import Swarm
from benchmarks.simulate.model import GIGABIT, MIB, Farm, Racks, Result, Trouble
from kiosk import files
from kiosk.cli.common import emit, guard, say, table
from kiosk.run import run

RESULTS = Path(__file__).parent / "results" / "simulation.json"
HOSTS = (450, 500, 5000)
SIZE = 10_000_000_000
SAMPLE = 512 * MIB
TROUBLE = Trouble(vanish=0.2, slow=0.05)
CLOSE = 0.25
"""So far may a prediction be off."""
OBJECT = 256 << 10
"""What benchmarks/scaled.py publishes a small image in."""
PUBLISHED = 30 * 60.0
"""Seconds that a published farm of this kind took for 10 GB to 450 hosts."""


def assembly(home: Path) -> float:
    """Bytes a second that one host verifies and writes: `kiosk sync` of noise from a folder."""
    with files.scratch(home / "kiosk-bench-swarm") as folder:
        origin = Origin(Host("", "", 0), folder / "kiosk")
        origin.create(SAMPLE)
        origin.publish()
        url = f"file://{origin.home / 'repository'}"
        argv = [*KIOSK, "sync", "--url", url, "--root", str(origin.root)]
        began = time.monotonic()
        run(argv, timeout=600, env={"KIOSK_HOME": str(folder / "host"), "KIOSK_PROGRESS": "0"})
        return SAMPLE / (time.monotonic() - began)


def as_measured(found: Mapping[str, Any], row: Mapping[str, Any], fast: float) -> Farm:
    """The farm of a real run. What a host needs besides the image's bytes is taken from the run with one host."""
    farm = swarm.Farm(**found["farm"])
    single = next(
        (r for r in found["rows"] if r["way"] == row["way"] and r["agents"] == 1 and r["done"]), row
    )
    wire = min(1.0, farm.size / single["origin_bytes"])
    begin = single["first_byte"] or 0.3
    return Farm(
        hosts=row["agents"],
        size=farm.size,
        object_size=OBJECT,
        link=farm.link / 8,
        origin=farm.origin_link / 8,
        racks=Racks(0, 0.0),
        wire=wire,
        begin=begin,
        papers=50e3,
        assembly=fast,
        end=max(0.0, max(single["done"]) - farm.size / (farm.link / 8 * wire) - begin),
    )


def check(fast: float) -> list[dict[str, Any]]:
    """Predicted beside measured, for each real run of agents."""
    if not swarm.RESULTS.exists():
        return []
    found = json.loads(swarm.RESULTS.read_bytes())
    runs = [*found["rows"], *found.get("other_runs", ())]
    rows = [row for row in runs if row["done"] and not row["failed"] and row["way"] in ("http", "agent")]
    checked = []
    for row in rows:
        farm = as_measured(found, row, fast)
        made = others.http(farm) if row["way"] == "http" else Swarm(farm).run()
        checked.append(
            {
                "way": row["way"],
                "agents": row["agents"],
                "measured": {"median": statistics.median(row["done"]), "last": max(row["done"])},
                "predicted": {"median": statistics.median(made.done), "last": max(made.done)},
                "copies": [row["origin_bytes"] / farm.size, made.origin_bytes / farm.size],
            }
        )
    return checked


def simulate(hosts: int, fast: float, *, racks: Racks, troubled: bool) -> list[tuple[Farm, Result]]:
    """A farm by all ways; with trouble by the swarm alone."""
    farm = Farm(hosts=hosts, size=SIZE, racks=racks, assembly=fast)
    if troubled:
        farm = replace(farm, trouble=TROUBLE)
        return [(farm, Swarm(farm).run())]
    return [
        (farm, Swarm(farm).run()),
        *((farm, way(farm)) for way in (others.squids, others.tree, others.http)),
    ]


def line(farm: Farm, result: Result) -> dict[str, Any]:
    """One row of the results, in seconds and copies."""
    done = result.done
    full = GIGABIT * farm.racks.hosts / farm.racks.uplink if farm.racks.hosts else 0.0
    return {
        "way": result.way,
        "hosts": result.hosts,
        "racks": f"{farm.racks.hosts} hosts, {full:g}:1" if farm.racks.hosts else "none",
        "vanish": farm.trouble.vanish,
        "slow": farm.trouble.slow,
        "first": round(done[0], 1),
        "median": round(statistics.median(done), 1),
        "p99": round(done[max(0, -(-len(done) * 99 // 100) - 1)], 1),
        "last": round(done[-1], 1),
        "slow_last": round(result.slow[-1], 1) if result.slow else None,
        "copies": round(result.origin_bytes / farm.size, 2),
        "unfinished": result.unfinished,
        "lost": result.lost,
        "seconds": round(result.seconds, 1),
    }


def judge(checked: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """The goals of the simulated farms, and whether the simulation may be believed."""
    swarms = [row for row in rows if row["way"] == "swarm"]
    calm = [row for row in swarms if not row["vanish"] and row["hosts"] == 450 and row["racks"] != "none"]
    found = []
    if checked:
        off = max(abs(_off(one, kind)) for one in checked for kind in ("median", "last"))
        what = f"predictions are within {CLOSE:.0%} of real runs"
        found.append(Goal(what, f"off by {off:.0%} at the most ({len(checked)} runs)", off <= CLOSE))
    else:
        found.append(Goal("predictions are close to real runs", "not measured", None))
    if calm:
        last = calm[0]["last"]
        text = f"{last:.0f} s, {PUBLISHED / last:.1f} times as fast as the published half an hour"
        found.append(Goal("10 GB to 450 hypervisors in under 5 minutes", text, last < 300))
    if swarms:
        spread = max(row["p99"] / row["median"] for row in swarms)
        found.append(
            Goal(
                "the 99th percentile of hosts with a full link is at most 2× the median",
                f"{spread:.2f}×",
                spread <= 2,
            )
        )
        copies = max(row["copies"] for row in swarms)
        found.append(Goal("the kiosk sends at most 3 copies", f"{copies:.2f}", copies <= 3))
        left = sum(row["unfinished"] for row in swarms)
        found.append(Goal("every host that stays gets the image", f"{left} did not", left == 0))
    return found


def _off(one: Mapping[str, Any], kind: str) -> float:
    return float(one["predicted"][kind] / one["measured"][kind] - 1)


def show(found: Mapping[str, Any]) -> None:
    """Prints both tables and the goals."""
    say(f"One host verifies and writes {found['assembly'] / 1e6:.0f} MB/s on this machine.")
    say()
    columns = [
        "way",
        "agents#",
        "median, s: measured#",
        "predicted#",
        "last, s: measured#",
        "predicted#",
        "off#",
    ]
    columns += ["copies: measured#", "predicted#"]
    table(
        columns,
        [
            (
                one["way"],
                one["agents"],
                *(
                    f"{one[which][kind]:.1f}"
                    for kind in ("median", "last")
                    for which in ("measured", "predicted")
                ),
                f"{_off(one, 'last'):+.0%}",
                *(f"{n:.2f}" for n in one["copies"]),
            )
            for one in found["check"]
        ],
    )
    say()
    columns = ["way", "hosts#", "racks", "vanish#", "slow#", "first, s#", "median, s#", "p99, s#", "last, s#"]
    columns += ["slow ones' last, s#", "copies#"]
    table(
        columns,
        [
            (
                row["way"],
                row["hosts"],
                row["racks"],
                f"{row['vanish']:.0%}",
                f"{row['slow']:.0%}",
                *(f"{row[kind]:,.0f}" for kind in ("first", "median", "p99", "last")),
                f"{row['slow_last']:,.0f}" if row["slow_last"] else "–",
                f"{row['copies']:.2f}",
            )
            for row in found["rows"]
        ],
    )
    say()
    goals.show(found["goals"])


def main() -> int:
    """Simulates from the command line."""
    parser = argparse.ArgumentParser(description="Simulate how a large farm gets a new image.")
    parser.add_argument(
        "--hosts", type=int, nargs="+", default=HOSTS, help="farms to simulate (450 500 5000)"
    )
    parser.add_argument("--rack", type=int, default=40, help="hosts in a rack; 0 for no racks (40)")
    parser.add_argument("--uplink", type=float, default=10, help="a rack's uplink, Gbit/s (10)")
    parser.add_argument("--assembly", type=float, help="MB/s that a host verifies and writes (measured here)")
    parser.add_argument("--check", action="store_true", help="compare with the real runs alone")
    parser.add_argument("--home", type=Path, default=swarm.HOME, help=f"scratch ({swarm.HOME}: memory)")
    parser.add_argument("--output", type=Path, help="where the results go (a whole run: results/)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    given = parser.parse_args()
    return guard(lambda: _run(given))


def _run(given: argparse.Namespace) -> None:
    fast = given.assembly * 1e6 if given.assembly else assembly(given.home.resolve())
    found: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "assembly": round(fast),
        "check": check(fast),
        "rows": [],
    }
    racks = Racks(given.rack, given.uplink * GIGABIT)
    whole = tuple(given.hosts) == HOSTS and not given.check
    output = given.output or (RESULTS if whole else None)
    for hosts in () if given.check else given.hosts:
        kinds = [
            (racks, False),
            (racks, True),
            *([(Racks(0, 0.0), False)] if hosts < 1000 and racks.hosts else []),
        ]
        for at, (kind, troubled) in enumerate(kinds):
            print(
                f"{hosts} hosts, {kind}, {'trouble' if troubled else 'no trouble'}",
                file=sys.stderr,
                flush=True,
            )
            made = simulate(hosts, fast, racks=kind, troubled=troubled)
            found["rows"] += [line(*one) for one in (made if at < 2 else made[:1])]
            if output is not None:
                files.write(output, (json.dumps(found, indent=1) + "\n").encode())
    found["goals"] = [asdict(goal) for goal in judge(found["check"], found["rows"])]
    found["farm"] = asdict(Farm(hosts=0, size=SIZE, racks=racks, assembly=fast))
    if output is not None:
        files.write(output, (json.dumps(found, indent=1) + "\n").encode())
    if output == RESULTS and swarm.RESULTS.exists():
        from benchmarks import swarm_plot  # needs the extra `bench`

        swarm_plot.draw(json.loads(swarm.RESULTS.read_bytes()), swarm.PLOT, found)
    if given.json:
        emit(found)
    else:
        show(found)


if __name__ == "__main__":
    sys.exit(main())
