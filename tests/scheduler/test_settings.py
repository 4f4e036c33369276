"""What scheduler.toml says is what the core is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiosk.scheduler import keep
from kiosk.scheduler.model import Capacity
from kiosk.scheduler.settings import SchedulerSettings

FILE = """
[batch]
system = "slurm"
{more}
[types.worker]
image = "debian-12-worker"
flavour = "tiny"
maximum = 3
{type}
"""


def read(folder: Path, more: str = "", type: str = "") -> SchedulerSettings:
    file = folder / "scheduler.toml"
    file.write_text(FILE.format(more=more, type=type))
    return SchedulerSettings.read(file)


@pytest.mark.parametrize(
    ("more", "most"),
    [
        ("", Capacity()),
        ('[cloud]\ntaps = ["tap0", "tap1"]', Capacity(nodes=2)),
        ('[cloud]\ntaps = ["tap0", "tap1"]\n[capacity]\nnodes = 1\ncores = 4', Capacity(nodes=1, cores=4)),
        ("[capacity]\nnodes = 9", Capacity(nodes=9)),
    ],
)
def test_a_farm_has_no_more_nodes_than_taps(tmp_path: Path, more: str, most: Capacity) -> None:
    assert read(tmp_path, more).most() == most


def test_a_type_keeps_idle_nodes_no_longer_than_it_says(tmp_path: Path) -> None:
    assert read(tmp_path).node_types()["worker"].keep is None
    worker = read(tmp_path, type='keep = "40 s"').node_types()["worker"]
    assert worker.keep == 40
    had_two = keep.Kept(idle=((2, 0.0),))
    assert keep.stay(had_two, 39.0, worker.keep) == (2, 40.0)
    assert keep.stay(had_two, 41.0, worker.keep) == (0, 40.0)
    assert keep.stay(had_two, 41.0) == (2, keep.FIRST)


@pytest.mark.parametrize(("said", "nodes"), [("2", 2), ('"2"', 2), ('"67%"', 2), ('"1%"', 1)])
def test_how_many_may_be_unavailable_is_a_number_or_a_share(tmp_path: Path, said: str, nodes: int) -> None:
    assert read(tmp_path, type=f"max_unavailable = {said}").node_types()["worker"].max_unavailable == nodes
