"""What the benchmark claims is what happened: its own tools keep every byte and judge by the figures."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks import goals
from benchmarks.measure import held
from benchmarks.packed import fill, strip

BLOCK = 4096


@pytest.mark.parametrize("blocks", [[], [0], [1, 2], [0, 3, 300, 301, 700], list(range(600))])
def test_a_disk_without_its_zero_blocks_can_be_filled_again(tmp_path: Path, blocks: list[int]) -> None:
    image, packed, where = tmp_path / "image", tmp_path / "packed", tmp_path / "map"
    with image.open("wb") as f:
        f.truncate(1024 * BLOCK)
        for block in blocks:
            f.seek(block * BLOCK)
            f.write(random.Random(block).randbytes(BLOCK))
    strip(image, packed, where)
    assert packed.stat().st_size == len(blocks) * BLOCK
    fill(packed, where, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == image.read_bytes()
    assert held(tmp_path / "again") <= held(image) + BLOCK * 256


def row(name: str, moved: float, *, chunking: bool = False) -> dict[str, object]:
    found = {update: {"bytes": moved * 1e6, "requests": 1} for update in goals.UPDATES}
    return {"name": name, "chunking": chunking, "moved": found, "publish": {}, "make": {}, "cold": None}


def met(rows: list[dict[str, object]], what: str) -> bool | None:
    (found,) = [goal.met for goal in goals.judge(rows) if goal.what == what]
    return found


def test_a_goal_is_met_at_its_limit_and_not_beyond_it() -> None:
    what = f"moved, heavy, with differences, to {goals.PATCH}"
    assert met([row(goals.DIFFERENCES, 8), row(goals.PATCH, 10)], what) is True
    assert met([row(goals.DIFFERENCES, 8.1), row(goals.PATCH, 10)], what) is False


def test_the_general_way_is_held_against_the_best_chunking_tool() -> None:
    what = "moved, quiet, general way, to the best chunking tool"
    rows = [row(goals.GENERAL, 5), row("a", 6, chunking=True), row("patch", 1)]
    assert met(rows, what) is True
    assert met([*rows, row("b", 4, chunking=True)], what) is False


def test_a_goal_whose_rows_are_missing_is_neither_met_nor_failed() -> None:
    assert {goal.met for goal in goals.judge([row(goals.PATCH, 10)])} == {None}
