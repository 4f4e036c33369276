"""Draws when the last host has a new image: `python -m benchmarks.swarm_plot SWARM.json SIMULATION.json TARGET`.

Left: measured with real agents. Right (where SIMULATION.json is there): simulated farms.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.plot import INK, OURS, THEIRS

WAYS = {"http": "plain HTTP", "squid": "one Squid", "agent": "kiosk agent"}
SIMULATED = {
    "plain HTTP": "plain HTTP",
    "a Squid in each rack": "a Squid in each rack",
    "a tree of copies": "tree of copies",
    "swarm": "kiosk agent",
}


def draw(results: Mapping[str, Any], target: Path, simulated: Mapping[str, Any] | None = None) -> None:
    """Writes an SVG."""
    with mpl.rc_context({"svg.hashsalt": "kiosk", "svg.fonttype": "path", "font.size": 9}):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        panels = figure.subplots(1, 2 if simulated else 1, squeeze=False)[0]
        _measured(panels[0], results)
        if simulated:
            _simulated(panels[1], simulated["rows"])
        for axes in panels:
            axes.tick_params(length=0, colors=INK)
            axes.set_axisbelow(True)
            for side in axes.spines.values():
                side.set_visible(False)
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, format="svg", metadata={"Date": None})


def _measured(axes: Any, results: Mapping[str, Any]) -> None:
    farm = results["farm"]
    ideal = farm["size"] * 8 / farm["link"]
    for way, name in WAYS.items():
        rows = [r for r in results["rows"] if r["way"] == way and r["done"] and not r["failed"]]
        if not rows:
            continue
        colour = OURS if way == "agent" else THEIRS
        counts, last = [r["agents"] for r in rows], [max(r["done"]) for r in rows]
        axes.plot(counts, last, "o:" if way == "squid" else "o-", color=colour, markersize=5)
        place, weight = (6, 0), "bold" if way == "agent" else "normal"
        axes.annotate(
            name, (counts[-1], last[-1]), place, textcoords="offset points", va="center", color=colour,
            fontweight=weight,
        )  # fmt: skip
    counts = sorted({r["agents"] for r in results["rows"]})
    axes.axhline(ideal, color="#e6e6e6", linewidth=1)
    axes.annotate("the link's limit", (1, ideal), (0, -10), textcoords="offset points", color=INK, fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.set_xlim(0.9, counts[-1] * 2.4)
    _seconds(axes, (30, 60, 120, 300, 600, 1200))
    mega = f"{farm['size'] / 1e6:.0f} MB over {farm['link'] / 1e6:g} Mbit/s"
    axes.set_title(f"measured: last host done, {mega}", fontsize=10, loc="left", color=INK)
    axes.set_xlabel("hosts", color=INK)


def _simulated(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    names = list(SIMULATED)
    many = sorted({row["hosts"] for row in rows if row["way"] != "swarm"})
    shown = [n for n in (450, many[-1]) if n in many]
    height = 0.8 / len(shown)
    for at, name in enumerate(names):
        for which, hosts in enumerate(shown):
            found = [r for r in rows if r["way"] == name and r["hosts"] == hosts and not r["vanish"]]
            last = found[0]["last"]
            where = at - 0.2 + which * height
            colour = OURS if name == "swarm" else THEIRS
            axes.barh(where, last, height * 0.9, color=colour, alpha=1 - 0.4 * which)
            text = f"{hosts:,} hosts: {_clock(last)}"
            axes.annotate(
                text, (last, where), (5, 0), textcoords="offset points", va="center", color=INK, fontsize=8
            )
    axes.set_xscale("log")
    axes.set_xlim(30, 5e6)
    axes.set_xticks([60, 600, 3600, 36000, 360000], ["1 min", "10 min", "1 h", "10 h", "100 h"])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(names)), [SIMULATED[name] for name in names])
    axes.set_title("simulated: last host done, 10 GB over 1 Gbit/s", fontsize=10, loc="left", color=INK)
    for label in axes.get_yticklabels():
        if label.get_text() == SIMULATED["swarm"]:
            label.set(color=OURS, fontweight="bold")


def _seconds(axes: Any, ticks: Sequence[int]) -> None:
    axes.set_yticks(ticks, [f"{n} s" for n in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color="#f0f0f0", linewidth=0.8)


def _clock(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


if __name__ == "__main__":
    measured, made, where = map(Path, sys.argv[1:4])
    draw(json.loads(measured.read_text()), where, json.loads(made.read_text()) if made.exists() else None)
