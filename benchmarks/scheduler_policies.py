"""Compares policies that decide how many nodes a farm has: `python -m benchmarks.scheduler_policies TRACE.swf`.

Simulates workloads (the traces given, and made-up days with bursts: kiosk/scheduler/simulate/synthetic.py says what is
in them) under each policy of kiosk/scheduler/simulate/policies.py. kiosk's is the scheduler's own core, with the same
constants for all workloads. Prints a table and the goals, writes benchmarks/results/scheduler-policies.json and draws
docs/scheduler-policies.svg (both only for a whole run with a trace). Takes about a minute.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import goals
from benchmarks.goals import Goal
from kiosk import files
from kiosk.cli.common import emit, guard, say, table
from kiosk.scheduler.simulate import past, policies, synthetic
from kiosk.scheduler.simulate.farm import Farm
from kiosk.scheduler.simulate.result import Result, run
from kiosk.scheduler.simulate.workload import Workload

RESULTS = Path(__file__).parent / "results" / "scheduler-policies.json"
PLOT = Path(__file__).parent.parent / "docs" / "scheduler-policies.svg"
WAIT, LAUNCHES, IDLE, COST = 1.10, 0.5, 0.05, 1.15
BASE, SLOTS, BOUND, OURS = "purely reactive", "reactive by slots", "clairvoyant bound", "kiosk"


def compare(works: Sequence[Workload]) -> tuple[list[Result], dict[tuple[str, str], Farm], dict[str, int]]:
    """All policies on all workloads; the farms for the plots, and for each workload the launches of `fewest`."""
    results, farms, least = [], {}, {}
    for work in works:
        for policy in policies.ALL:
            began = time.monotonic()
            result, farm = run(work, policy())
            print(
                f"{work.name}: {policy.name}, {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True
            )
            results.append(result)
            farms[(work.name, policy.name)] = farm
        least[work.name] = fewest(farms[(work.name, SLOTS)])
    return results, farms, least


def fewest(farm: Farm) -> int:
    """About the launches of a reactive farm that knew of every idle node when work would come back, and kept just those
    that are idle for the shortest time, as far as IDLE lets it: what keeping idle nodes could bring at the best, as
    long as no job is made to wait longer."""
    gaps: list[float] = []
    for name in farm.pools:
        idle: dict[int, float] = {}
        level = 0
        for sample in farm.samples:
            nodes = sample.nodes[name]
            gaps += [sample.at - idle.pop(n) for n in range(level + 1, nodes + 1) if n in idle]
            idle.update(dict.fromkeys(range(nodes + 1, level + 1), sample.at))
            level = nodes
    hours = sum(p.hours.all for p in farm.pools.values())
    budget = (IDLE * hours - sum(p.hours.idle for p in farm.pools.values())) / (1 - IDLE)
    saved = 0
    for gap in sorted(gaps):
        budget -= gap
        if budget < 0:
            break
        saved += 1
    return sum(p.launches for p in farm.pools.values()) - saved


def judge(rows: Sequence[Mapping[str, Any]], least: Mapping[str, int]) -> Iterator[Goal]:
    """The goals on each workload."""
    found = {(row["workload"], row["policy"]): row for row in rows}
    for name in dict.fromkeys(row["workload"] for row in rows):
        ours, base, bound = (found[(name, policy)] for policy in (OURS, BASE, BOUND))
        slots = found[(name, SLOTS)]
        wait = ours["mean"] / max(base["mean"], 1e-9)
        yield Goal(
            f"{name}: mean wait within 10 % of purely reactive",
            f"{ours['mean']:,.0f} to {base['mean']:,.0f} s, {wait:.2f}× ({slots['mean']:,.0f} s by slots)",
            ours["mean"] <= WAIT * base["mean"],
        )
        part = ours["launches"] / base["launches"]
        yield Goal(
            f"{name}: at most half of its launches",
            f"{ours['launches']:,} to {base['launches']:,}, {part:.2f}× ({slots['launches']:,} by slots, "
            f"{bound['launches']:,} clairvoyant, {least[name]:,} with the best choice of idle nodes)",
            part <= LAUNCHES,
        )
        idle = ours["idle"] / ours["hours"]
        yield Goal(f"{name}: at most 5 % idle node-hours", f"{idle:.1%}", idle <= IDLE)
        cost = ours["hours"] / bound["hours"]
        packed = ours["hours"] / ours["used"]
        yield Goal(
            f"{name}: node-hours within 1.15× of the clairvoyant bound",
            f"{ours['hours']:,.0f} to {bound['hours']:,.0f}, {cost:.2f}× ({packed:.2f}× of perfect packing)",
            cost <= COST,
        )


def show(rows: Sequence[Mapping[str, Any]], judged: Sequence[Mapping[str, Any]]) -> None:
    """Prints the table and the goals."""
    columns = [
        "workload",
        "policy",
        "wait: mean, s#",
        "p95, s#",
        "node-hours#",
        "used#",
        "idle#",
        "boot#",
        "wasted#",
    ]
    columns += ["launches#", "change / h#", "shares off#"]
    lines = []
    for row in rows:
        hours = row["hours"]
        lines.append(
            (
                row["workload"], row["policy"], f"{row['mean']:,.0f}", f"{row['p95']:,.0f}", f"{hours:,.0f}",
                f"{row['used']:,.0f}", f"{row['idle'] / hours:.1%}", f"{row['boot'] / hours:.1%}",
                f"{1 - row['used'] / hours:.1%}", f"{row['launches']:,}", f"{row['swing']:,}",
                "–" if row["unfair"] is None else f"{row['unfair']:.1%}",
            )
        )  # fmt: skip
    table(columns, lines)
    say()
    goals.show(judged)


def main() -> int:
    """Compares from the command line."""
    parser = argparse.ArgumentParser(description="Compare policies for the size of a farm.")
    parser.add_argument("trace", type=Path, nargs="*", help="a workload in the Standard Workload Format")
    parser.add_argument("--nodes", type=int, help="the most nodes for a trace (its .machines file)")
    parser.add_argument("--slots", type=int, help="slots of each (its .machines file)")
    parser.add_argument("--output", type=Path, help="where the results go (with a trace: results/)")
    parser.add_argument("--plot", type=Path, help="where the plot goes (with a trace: docs/)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    given = parser.parse_args()
    return guard(lambda: _run(given))


def _run(given: argparse.Namespace) -> None:
    works = [past.trace(path, given.nodes, given.slots) for path in given.trace]
    works += [make() for make in synthetic.ALL]
    results, farms, least = compare(works)
    rows = [asdict(result) for result in results]
    found: dict[str, Any] = {"rows": rows, "fewest": least}
    found["goals"] = [asdict(goal) for goal in judge(rows, least)]
    output = given.output or (RESULTS if given.trace else None)
    if output is not None:
        files.write(output, (json.dumps(found, indent=1) + "\n").encode())
    plot = given.plot or (PLOT if given.trace else None)
    if plot is not None:
        from benchmarks import scheduler_plot  # needs the extra `bench`

        scheduler_plot.draw(farms, plot)
    if given.json:
        emit(found)
    else:
        show(rows, found["goals"])


if __name__ == "__main__":
    sys.exit(main())
