"""Draws simulated farms: jobs that wait, nodes by type, utilization, shares. Used by benchmarks.scheduler_policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.plot import INK, OURS, THEIRS
from kiosk.scheduler.simulate.farm import Farm
from kiosk.scheduler.simulate.view import Sample

LINES = {
    "kiosk": (OURS, "-", 1.4),
    "purely reactive": ("#c2622d", "-", 0.9),
    "LSF RC threshold": (THEIRS, "-", 0.9),
}
COLOURS = ("#1f5fa8", "#7fb0de", "#c2622d", "#e3b08f")
Farms = Mapping[tuple[str, str], Farm]


def draw(farms: Farms, target: Path) -> None:
    """Writes an SVG: on the left a farm with bursts under three policies, on the right kiosk's farm with several
    types and shares."""
    with mpl.rc_context({"svg.hashsalt": "kiosk", "svg.fonttype": "path", "font.size": 9}):
        figure = Figure(figsize=(11, 8), layout="constrained")
        panels = figure.subplots(3, 2, sharex="col")
        _bursts([panels[n][0] for n in range(3)], farms)
        _mixed([panels[n][1] for n in range(3)], farms[("mixed", "kiosk")])
        for axes in panels.flat:
            axes.tick_params(length=0, colors=INK)
            axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.set_ylim(0, axes.get_ylim()[1] * 1.15)  # room for the legend
            for side in axes.spines.values():
                side.set_visible(False)
        for axes in panels[2]:
            axes.set_xlabel("hours", color=INK)
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, format="svg", metadata={"Date": None})


def _some(farm: Farm) -> list[Sample]:
    """A sample for each quarter of an hour of four days."""
    return [s for s in farm.samples[::3] if s.at <= 4 * 86400]


def _hours(samples: Sequence[Sample]) -> list[float]:
    return [sample.at / 3600 for sample in samples]


def _title(axes: Any, text: str) -> None:
    axes.set_title(text, fontsize=10, loc="left", color=INK)
    axes.legend(fontsize=8, frameon=False, loc="upper right", ncols=4)


def _bursts(panels: Sequence[Any], farms: Farms) -> None:
    for policy, (colour, style, width) in LINES.items():
        samples = _some(farms[("bursts", policy)])
        hours = _hours(samples)
        options = {"color": colour, "linestyle": style, "linewidth": width, "label": policy}
        panels[0].plot(hours, [s.pending for s in samples], **options)
        panels[1].plot(hours, [sum(s.nodes.values()) for s in samples], **options)
        panels[2].plot(hours, _smooth([(s.busy, sum(s.nodes.values())) for s in samples]), **options)
    _title(panels[0], "bursts: jobs that wait")
    _title(panels[1], "bursts: nodes")
    _title(panels[2], "bursts: part of the nodes' slots with jobs (mean of 2 h)")


def _mixed(panels: Sequence[Any], farm: Farm) -> None:
    samples = _some(farm)
    hours = _hours(samples)
    names = list(farm.work.types)
    panels[0].plot(hours, [s.pending for s in samples], color=OURS, linewidth=1.2, label="kiosk")
    panels[1].stackplot(
        hours, [[s.nodes[name] for s in samples] for name in names], labels=names, colors=COLOURS
    )
    shares = [share.name for share in farm.work.shares]
    panels[2].stackplot(
        hours,
        [[s.by_share.get(name, 0) for s in samples] for name in shares],
        labels=[f"{share.name} ({share.shares:g})" for share in farm.work.shares],
        colors=COLOURS,
    )
    _title(panels[0], "mixed: jobs that wait")
    _title(panels[1], "mixed: nodes by type")
    _title(panels[2], "mixed: slots with jobs, by share")


def _smooth(pairs: Sequence[tuple[float, float]], over: int = 8) -> list[float]:
    found = []
    for at in range(len(pairs)):
        some = pairs[max(0, at - over) : at + 1]
        nodes = sum(n for _, n in some)
        found.append(sum(b for b, _ in some) / nodes if nodes else 0.0)
    return found
