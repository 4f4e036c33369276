"""Draws the bytes that each tool moves for each update: `python -m benchmarks.plot RESULTS TARGET`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

OURS, THEIRS, INK = "#1f5fa8", "#a9adb3", "#333333"
TITLES = {
    "quiet": "after a quiet day",
    "heavy": "after heavy updates in place",
    "rebuilt": "rebuilt after those updates",
}


def draw(results: Mapping[str, Any], target: Path) -> None:
    """Writes an SVG: one panel for each update, one line for each tool, on a logarithmic axis."""
    rows = [row for row in results["rows"] if row["moved"]]
    rows.sort(key=lambda row: -row["moved"]["heavy"]["bytes"])
    names = [row["name"] for row in rows]
    with mpl.rc_context({"svg.hashsalt": "kiosk", "svg.fonttype": "path", "font.size": 9}):
        figure = Figure(figsize=(10, 0.6 + 0.33 * len(rows)), layout="constrained")
        panels = figure.subplots(1, 3, sharey=True)
        for axes, (update, title) in zip(panels, TITLES.items(), strict=True):
            for at, row in enumerate(rows):
                _one(axes, at, row, update)
            axes.set_xscale("log")
            axes.set_xlim(1, 2500)
            axes.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_title(title, fontsize=10, loc="left", color=INK)
            axes.tick_params(length=0, colors=INK)
            axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
            axes.set_axisbelow(True)
            for side in axes.spines.values():
                side.set_visible(False)
        panels[0].set_yticks(range(len(names)), names)
        for label in panels[0].get_yticklabels():
            if label.get_text().startswith("kiosk"):
                label.set(color=OURS, fontweight="bold")
        figure.supxlabel(
            "MB moved to a host that holds the version before (less is better; logarithmic)",
            fontsize=9,
            color=INK,
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, format="svg", metadata={"Date": None})


def _one(axes: Any, at: int, row: Mapping[str, Any], update: str) -> None:
    if update not in row["moved"]:
        return
    moved = row["moved"][update]["bytes"] / 1e6
    colour = OURS if row["name"].startswith("kiosk") else THEIRS
    axes.plot([1, moved], [at, at], color=colour, linewidth=1.2, alpha=0.6, zorder=1)
    axes.plot([moved], [at], "o", color=colour, markersize=6)
    text = f"{moved:.1f}" if moved < 10 else f"{moved:.0f}"
    axes.annotate(text, (moved, at), (7, 0), textcoords="offset points", va="center", color=INK, fontsize=8.5)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
