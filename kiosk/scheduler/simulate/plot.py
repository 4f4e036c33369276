"""Draws simulated farms: jobs that wait, nodes by type, utilization, shares. Needs matplotlib, an extra of kiosk's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from kiosk import files
from kiosk.errors import MissingToolError
from kiosk.scheduler.simulate.farm import Farm
from kiosk.scheduler.simulate.view import Sample

COLOURS = ("#1f5fa8", "#c2622d", "#3f8f5b", "#8a6bb8", "#b8943f", "#5b5b5b", "#c94f7c")
MOST = 7
"""Of types or shares, so many have an area of their own; the rest is one."""


def draw(farms: Mapping[str, Farm], shown: str, target: Path) -> None:
    """Writes an SVG of one workload: the waiting jobs and the nodes of each policy in `farms`, and of the policy
    `shown` the nodes by type, the utilization and who has how much. MissingToolError without matplotlib."""
    figure = _figure()
    axes = figure.subplots(4, 1, sharex=True)
    for colour, (name, farm) in zip(COLOURS * len(farms), farms.items(), strict=False):
        days = [s.at / 86400 for s in farm.samples]
        axes[0].plot(days, [s.pending for s in farm.samples], color=colour, linewidth=0.9, label=name)
        part = [s.busy / max(1, sum(s.nodes.values())) for s in farm.samples]
        axes[2].plot(days, part, color=colour, linewidth=0.7, label=name)
    _areas(axes[1], farms[shown].samples, lambda s: s.nodes)
    _areas(axes[3], farms[shown].samples, lambda s: s.by_share)
    for axis, title in zip(
        axes,
        ("jobs that wait", f"nodes by type ({shown})", "utilization", f"slots by share ({shown})"),
        strict=True,
    ):
        axis.set_title(title, loc="left", fontsize=9)
        axis.set_ylim(bottom=0)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7, frameon=False, ncols=4, loc="upper left")
    axes[3].set_xlabel("days")
    made = BytesIO()
    figure.savefig(made, format="svg", metadata={"Date": None})
    target.parent.mkdir(parents=True, exist_ok=True)
    files.write(target, made.getvalue())


def _figure() -> Any:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingToolError(
            "drawing needs matplotlib, which is not installed",
            hint="pip install 'kiosk[plot]', or leave out --plot",
        ) from None
    mpl.rcParams.update({"svg.hashsalt": "kiosk", "svg.fonttype": "none", "font.size": 8})
    return Figure(figsize=(9, 10), layout="constrained")


def available() -> None:
    """MissingToolError where nothing can be drawn: said before long work, not after it."""
    _figure()


def _areas(axis: Any, samples: Sequence[Sample], of: Any) -> None:
    totals: dict[str, int] = {}
    for sample in samples:
        for name, count in of(sample).items():
            totals[name] = totals.get(name, 0) + count
    names = [n for n in sorted(totals, key=lambda n: (-totals[n], n)) if totals[n]]
    if not names:
        return
    rows = [[of(s).get(name, 0) for s in samples] for name in names[:MOST]]
    labels = [name or "(no group)" for name in names[:MOST]]
    if len(names) > MOST:
        rows.append([sum(of(s).get(name, 0) for name in names[MOST:]) for s in samples])
        labels.append(f"{len(names) - MOST} others")
    colours = [COLOURS[n % len(COLOURS)] for n in range(len(rows) - 1)] + [
        "#bbbbbb" if len(names) > MOST else COLOURS[(len(rows) - 1) % MOST]
    ]
    axis.stackplot([s.at / 86400 for s in samples], *rows, labels=labels, colors=colours, linewidth=0)
