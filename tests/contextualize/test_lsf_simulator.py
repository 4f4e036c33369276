"""The simulated cluster prints, byte for byte, what a real one printed in the same state."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from contextualize.machine import Machine
from tests.contextualize.lsf_farm import SERVER, LsfFarm

RECORDED = Path(__file__).parents[1] / "simulators/lsf/recorded"


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[LsfFarm]:
    farm = LsfFarm(tmp_path, "volclava")
    farm.machine.path("/etc").mkdir()
    farm.machine.path("/etc/lsf.conf").write_text('LSF_SERVER_HOSTS="lavam"\n')
    yield farm
    with farm.state() as state:
        started = list(state["hosts"].get("lava1", {}).get("pids", {}))
    if started:
        farm.crash()


def check(farm: LsfFarm, recording: str) -> None:
    """Runs the commands of a recording and compares."""
    for part in (RECORDED / recording).read_text().split("$ ")[1:]:
        command, _, output = part.partition("\n")
        done = farm.master(*shlex.split(command))
        assert f"{done.stdout}[rc={done.returncode}]\n" == output, command


def start_daemons(farm: LsfFarm) -> None:
    for daemon in ("lim", "res", "sbatchd"):
        Machine.ask(
            farm.machine,
            [str(farm.machine.path(f"{SERVER}/{daemon}"))],
            environment={"LSF_ENVDIR": str(farm.machine.path("/etc"))},
        )


def fill(farm: LsfFarm) -> None:
    """A host that was added and has all of its slots taken; and a job that nobody starts."""
    start_daemons(farm)
    farm.master("lsaddhost", "lava1")
    farm.wait(20)
    for job in ((1, "alice", "a1", "lava1"), (3, "bob", "b[2]", "lava1")):
        farm.add_job(*job)
    farm.add_job(9, "alice", "hold", status="PSUSP")


def test_a_host_that_was_just_added(farm: LsfFarm) -> None:
    start_daemons(farm)
    check(farm, "listed.txt")


def test_a_host_with_all_slots_taken_that_is_closed_and_opened(farm: LsfFarm) -> None:
    fill(farm)
    check(farm, "full.txt")


def test_a_host_that_crashed_and_is_removed(farm: LsfFarm) -> None:
    fill(farm)
    farm.crash()
    assert farm.hosts()["lava1"] == "closed_Full"
    farm.said("lsload")
    farm.wait(79)
    assert farm.hosts()["lava1"] == "closed_Full"
    farm.wait(10)
    check(farm, "crashed.txt")
    assert "lava1" in farm.hosts(), "bhosts forgets later than lshosts"
    assert "a1" not in farm.said("bjobs", "-w", "-u", "all"), "a removal drops the jobs"
    farm.wait(40)
    assert "lava1" not in farm.hosts()


def test_only_the_master_adds_a_host(farm: LsfFarm) -> None:
    answer = Machine.ask(farm.machine, [farm.machine.path("/usr/lsf/bin/lsaddhost"), "lava1"])
    assert answer.err == "ls_addhost: Cannot locate master LIM now, try later"


def test_the_first_ok_of_bhosts_is_before_that_of_lsload(farm: LsfFarm) -> None:
    start_daemons(farm)
    farm.master("lsaddhost", "lava1")
    farm.wait(10)
    assert farm.hosts()["lava1"] == "ok"
    assert "lava1           unavail" in farm.said("lsload")
    farm.wait(10)
    assert "lava1               ok" in farm.said("lsload")
