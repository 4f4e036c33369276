"""The goals of distribution at scale, from the rows of results/swarm.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.goals import Goal

MANY = 32
FEW = (1, 2)
NOISE = 1.05
"""Two runs of the same thing differ by so much."""


def judge(size: int, rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """All goals; `size` is one copy in bytes. Of several runs of a kind the slowest counts."""
    slowest_last = sorted(rows, key=lambda row: max(row["done"], default=0.0))
    found = {(row["way"], row["agents"]): row for row in slowest_last}
    return [_last(found), _copies(size, rows), *_few(found), _first_byte(rows)]


def _last(found: Mapping[tuple[str, int], Mapping[str, Any]]) -> Goal:
    what = f"the last of {MANY} agents is done within 2× the time of a single one"
    one, many = _whole(found.get(("agent", 1))), _whole(found.get(("agent", MANY)))
    if one is None or many is None:
        return Goal(what, "not measured", None)
    return Goal(what, f"{many:.1f} to {one:.1f} s, {many / one:.2f}×", many <= 2 * one)


def _copies(size: int, rows: Sequence[Mapping[str, Any]]) -> Goal:
    what = "the kiosk sends at most 3 copies, however many agents"
    sent = {
        row["agents"]: row["origin_bytes"] / size for row in rows if row["way"] == "agent" and row["done"]
    }
    if not sent:
        return Goal(what, "not measured", None)
    most = max(sent, key=lambda n: sent[n])
    return Goal(what, f"{sent[most]:.2f} copies for {most} agents", sent[most] <= 3)


def _few(found: Mapping[tuple[str, int], Mapping[str, Any]]) -> Iterator[Goal]:
    for n in FEW:
        what = f"{n} agent{'s are' if n > 1 else ' is'} never slower than plain HTTP"
        ours, plain = _whole(found.get(("agent", n))), _whole(found.get(("http", n)))
        if ours is None or plain is None:
            yield Goal(what, "not measured", None)
        else:
            text = f"{ours:.1f} to {plain:.1f} s, {ours / plain:.2f}× (runs differ by 5 %)"
            yield Goal(what, text, ours <= NOISE * plain)


def _first_byte(rows: Sequence[Mapping[str, Any]]) -> Goal:
    what = "from `kiosk publish` returning to the first byte at an agent: under 2 s"
    times: dict[int, float] = {}
    for row in rows:
        if row["first_byte"] is not None:
            times[row["agents"]] = max(row["first_byte"], times.get(row["agents"], 0.0))
    if not times:
        return Goal(what, "not measured", None)
    fewest, most = min(times), max(times)
    text = f"{times[fewest]:.2f} s with {fewest}"
    if most > fewest:
        text += f" ({times[most]:.2f} s with {most} on this one machine, not judged)"
    return Goal(what, text, times[fewest] < 2)


def _whole(row: Mapping[str, Any] | None) -> float | None:
    """When the last was done, where all were."""
    return None if row is None or row["failed"] or not row["done"] else max(row["done"])
