"""The scheduler without a batch system: what its configuration says, and which VMs its jobs may run in."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from kiosk.cloud.api import Phase, VmState
from kiosk.cloud.hostcache import HostCache
from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.errors import UsageError
from kiosk.scheduler.guests import FarmGuests
from kiosk.scheduler.settings import SchedulerSettings

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
