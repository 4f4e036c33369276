"""The goals that kiosk has set itself, each as a ratio within one run, and whether it is met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kiosk.cli.common import say

GENERAL = "kiosk, general way"
DIFFERENCES = "kiosk"
PATCH = "zstd -3 --patch-from"
WHOLE = "whole image, zstd -3"
CASYNC = "casync"
RESTIC = "restic"
UPDATES = ("quiet", "heavy", "rebuilt")


@dataclass(frozen=True)
class Goal:
    """`met` is None where a row that it needs was not measured."""

    what: str
    figures: str
    met: bool | None


def judge(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """All goals, from the rows of a results file."""
    found = _Rows(rows)
    goals: list[Goal] = []
    for make in (_moved, _memory, _general, _publish, _fastest, _cold, _cores):
        goals += make(found)
    return goals


def show(goals: Sequence[Mapping[str, Any]]) -> None:
    """Prints a line for each."""
    for goal in goals:
        word = {True: "PASS", False: "FAIL", None: "----"}[goal["met"]]
        say(f"{word}  {goal['what']}: {goal['figures']}")


class _Rows:
    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.all = {str(row["name"]): row for row in rows}

    def get(self, name: str, *path: str) -> Any:
        value: Any = self.all.get(name)
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def moved(self, name: str, update: str) -> float | None:
        found = self.get(name, "moved", update, "bytes")
        return None if found is None else found / 1e6

    def durable(self, name: str, *path: str) -> float | None:
        step = self.get(name, *path)
        return None if step is None else step["seconds"] + step["sync"]

    def others(self) -> Iterator[str]:
        return (name for name in self.all if name not in (GENERAL, DIFFERENCES))


def _ratio(what: str, ours: float | None, theirs: float | None, limit: float, unit: str) -> Goal:
    """Met when ours is at most `limit` times theirs."""
    if ours is None or theirs is None:
        return Goal(what, "not measured", None)
    text = f"{ours:.1f} to {theirs:.1f} {unit}, {ours / theirs:.3g}× (at most {limit:g}×)"
    return Goal(what, text, ours <= limit * theirs)


def _moved(rows: _Rows) -> Iterator[Goal]:
    for update, limit in {"quiet": 1.0, "heavy": 0.8, "rebuilt": 0.8}.items():
        what = f"moved, {update}, with differences, to {PATCH}"
        yield _ratio(what, rows.moved(DIFFERENCES, update), rows.moved(PATCH, update), limit, "MB")


def _memory(rows: _Rows) -> Iterator[Goal]:
    for kind, word in {"publish": "publishing", "make": "making"}.items():
        ours, theirs = (rows.get(name, kind, "heavy", "peak") for name in (DIFFERENCES, PATCH))
        mega = [None if n is None else n / 1e6 for n in (ours, theirs)]
        yield _ratio(f"memory, {word} heavy, with differences, to {PATCH}", mega[0], mega[1], 0.1, "MB")


def _general(rows: _Rows) -> Iterator[Goal]:
    chunking = [name for name, row in rows.all.items() if row["chunking"]]
    for update in UPDATES:
        found = {name: moved for name in chunking if (moved := rows.moved(name, update)) is not None}
        yield _least(
            f"moved, {update}, general way, to the best chunking tool",
            rows.moved(GENERAL, update),
            found,
            "MB",
        )
    ours, theirs = rows.moved(GENERAL, "heavy"), rows.moved(PATCH, "heavy")
    yield _ratio(f"moved, heavy, general way, to {PATCH}", ours, theirs, 1.15, "MB")


def _publish(rows: _Rows) -> Iterator[Goal]:
    seconds = {n: rows.get(n, "publish", "heavy", "seconds") for n in (GENERAL, DIFFERENCES, CASYNC, RESTIC)}
    for other in (CASYNC, RESTIC):
        yield _ratio(
            f"publishing heavy, general way, to {other}", seconds[GENERAL], seconds[other], 1 / 3, "s"
        )
    what = "publishing heavy, with differences, to restic"
    yield _ratio(what, seconds[DIFFERENCES], seconds[RESTIC], 1.0, "s")


def _fastest(rows: _Rows) -> Iterator[Goal]:
    for name in (GENERAL, DIFFERENCES):
        for update in UPDATES:
            found = {n: s for n in rows.others() if (s := rows.durable(n, "make", update)) is not None}
            ours = rows.durable(name, "make", update)
            yield _least(f"making {update}, {name}, to the fastest other tool", ours, found, "s")


def _cold(rows: _Rows) -> Iterator[Goal]:
    ours, theirs = rows.durable(GENERAL, "cold"), rows.durable(WHOLE, "cold")
    yield _ratio(f"cold, to {WHOLE}", ours, theirs, 1 / 0.8, "s")


def _cores(rows: _Rows) -> Iterator[Goal]:
    step = rows.get(GENERAL, "publish", "v1")
    if step is None:
        yield Goal("publishing v1 uses both cores", "not measured", None)
        return
    busy = step["cpu"] / step["seconds"]
    text = f"{step['cpu']:.1f} processor seconds in {step['seconds']:.1f} s, {busy:.2f} (at least 1.5)"
    yield Goal("publishing v1 uses both cores", text, busy >= 1.5)


def _least(what: str, ours: float | None, theirs: Mapping[str, float], unit: str) -> Goal:
    if ours is None or not theirs:
        return Goal(what, "not measured", None)
    name, best = min(theirs.items(), key=lambda item: item[1])
    return Goal(what, f"{ours:.1f} to {best:.1f} {unit} ({name}), {ours / best:.3g}×", ours < best)
