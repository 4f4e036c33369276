"""The scheduler without a batch system: what its configuration says, and which VMs its jobs may run in."""

from __future__ import annotations

import re
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kiosk.batch.workload.file import WorkloadFile
from kiosk.cli import demo_scheduler
from kiosk.cloud.api import Phase, VmState
from kiosk.cloud.hostcache import HostCache
from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.errors import UsageError
from kiosk.scheduler.guests import FarmGuests
from kiosk.scheduler.settings import SchedulerSettings
from tests.publish.test_commands import Terminal, terminal

__all__ = ["terminal"]

ROOT = Path(__file__).parents[2]
TYPES = '[types.worker]\nimage = "i"\nflavour = "2/1/1"\nmaximum = 2\nkeep = "30 s"\noffers = { tags = ["demo"] }\n'


def read(folder: Path, batch: str) -> SchedulerSettings:
    (folder / "scheduler.toml").write_text(f"[batch]\n{batch}\n{TYPES}")
    return SchedulerSettings.read(folder / "scheduler.toml")


def test_the_workload_is_found_beside_the_configuration(tmp_path: Path) -> None:
    found = read(tmp_path, 'system = "workload"\nfile = "jobs.toml"')
    assert found.batch.file == tmp_path / "jobs.toml"
    assert found.node_types()["worker"].keep == 30
    assert read(tmp_path, 'system = "workload"\nfile = "/a/jobs.toml"').batch.file == Path("/a/jobs.toml")


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ('system = "workload"', "needs `file`"),
        ('system = "slurm"\nfile = "jobs.toml"', '`file` is of the system "workload"'),
        ('system = "workload"\nfile = "a"\nevents = "/b"', "neither `commands` nor `events`"),
    ],
)
def test_what_cannot_go_together_is_said(tmp_path: Path, batch: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read(tmp_path, batch)


def test_the_page_shows_files_that_are_read(tmp_path: Path) -> None:
    """The first two examples of docs/scheduler-workload.md are a configuration and a workload."""
    blocks = re.findall(
        r"(?:^    .*\n|^\n)+", (ROOT / "docs/scheduler-workload.md").read_text(), re.MULTILINE
    )
    scheduler, workload, *_ = [textwrap.dedent(b) for b in blocks if b.strip()]
    (tmp_path / "scheduler.toml").write_text(scheduler)
    (tmp_path / "workload.toml").write_text(workload)
    found = SchedulerSettings.read(tmp_path / "scheduler.toml")
    assert found.batch.file is not None
    assert WorkloadFile.read(found.batch.file).jobs[0].count == 20


def test_the_demos_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "scheduler.toml").write_text(demo_scheduler.SCHEDULER)
    (tmp_path / "workload.toml").write_text(demo_scheduler.WORKLOAD)
    found = SchedulerSettings.read(tmp_path / "scheduler.toml")
    assert found.batch.file is not None
    assert sum(one.count for one in WorkloadFile.read(found.batch.file).jobs) == 8


def test_a_workload_without_an_image_waits_and_says_so(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "scheduler.toml").write_text(demo_scheduler.SCHEDULER)
    (tmp_path / "workload.toml").write_text(demo_scheduler.WORKLOAD)
    terminal.set("KIOSK_HOME", tmp_path / "home")
    code, _, err = terminal.run("scheduler", "jobs")
    assert (code, "no workload has run here yet" in err) == (6, True)
    run = ["scheduler", "run", "--once", "--scheduler-config", str(tmp_path / "scheduler.toml")]
    assert terminal.json(*run, "--observe")["types"]["worker"]["pending"] == 4
    assert not (tmp_path / "home/scheduler/workload.json").exists()
    found = terminal.json(*run)
    assert (found["types"]["worker"]["target"], found["effects"]) == (2, [])
    assert "hello: 4 waiting" in terminal.run("scheduler", "jobs")[1]
    groups = terminal.json("scheduler", "jobs")["groups"]
    assert groups["hello"] == {"waiting": 4}


class Listed(QemuCloud):
    """Lists what it is told to."""

    def list_vms(self) -> list[VmState]:
        """VMs of all phases, of this farm and of others."""
        phases: list[Phase] = ["starting", "booting", "ready", "draining", "stopping", "failed", "stopped"]
        names = [f"kiosk-worker-{n:010d}" for n in range(len(phases))]
        others = ["node-1", "kiosk-other-0000000000", "kiosk-worker-x"]
        at = datetime(2026, 11, 25, tzinfo=UTC)
        return [
            VmState("00000000", "0", name, "i@1", (), "2/1/1", phase, at)
            for name, phase in [*zip(names, phases, strict=True), *((name, "ready") for name in others)]
        ]  # type: ignore[misc]


def test_jobs_run_in_vms_of_this_farm_that_are_up(tmp_path: Path) -> None:
    types = read(tmp_path, 'system = "workload"\nfile = "jobs.toml"').node_types()
    guests = FarmGuests(Listed(tmp_path, HostCache(tmp_path)), types, "kiosk").list()
    assert [(g.name[-1], g.status) for g in guests] == [
        ("2", "open"),
        ("3", "closed"),
        ("4", "closed"),
        ("5", "silent"),
    ]
    assert {(g.slots, g.tags) for g in guests} == {(2, frozenset({"demo"}))}
