"""Images as logical volumes: written whole and read again before they take the name, whatever happens between."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiosk.errors import BusyError, CorruptError, StorageError
from kiosk.handover import Handover, lvm
from kiosk.handover.settings import LvmTable
from kiosk.model.names import ImageRef
from kiosk.run import CommandError
from kiosk.sync.prune import prune
from tests.handover.volumes import Volumes, volumes
from tests.simulators.hypervisor import Hypervisor

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root"),
    pytest.mark.skipif(shutil.which("lvm", path="/usr/sbin:/sbin") is None, reason="needs lvm2"),
]


@pytest.fixture
def host(tmp_path: Path) -> Hypervisor:
    made = Hypervisor(tmp_path / "h")
    made.put("1")
    return made


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Volumes]:
    with volumes(tmp_path / "lvm") as made:
        monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
        monkeypatch.setattr(lvm, "DEVICES", made.devices)
        yield made


def place(host: Hypervisor, group: Volumes) -> Handover:
    return Handover(host.cache, [LvmTable(kind="lvm", group=group.group)])


def content(group: Volumes, host: Hypervisor, name: str, version: str) -> bool:
    wanted = host.disk(version).read_bytes()
    with group.device(name).open("rb") as f:
        return f.read(len(wanted)) == wanted


def test_a_volume_is_written_made_read_only_and_then_takes_the_name(host: Hypervisor, group: Volumes) -> None:
    handover = place(host, group)
    assert [o.state for o in handover.offer_current()] == ["handed over"]
    size, vg = host.disk("worker@1").stat().st_size, group.group
    assert group.calls() == [
        [
            "lvcreate", "--type", "linear", "--size", f"{size}b", "--yes", "--wipesignatures", "n",
            "--addtag", "kiosk", "--addtag", "kiosk.version.1", "--name", "worker_1.new", vg,
        ],
        ["lvchange", "--permission", "r", f"{vg}/worker_1.new"],
        ["lvrename", vg, "worker_1.new", "worker_1"],
        ["lvrename", vg, "worker_1", "worker"],
    ]  # fmt: skip
    assert group.listed() == {"worker": "r"}
    assert content(group, host, "worker", "worker@1")
    assert [o.state for o in handover.offer_current()] == ["stands"]
    assert {str(r) for r in handover.held()} == {"worker@1"}


def test_the_version_before_keeps_a_name_of_its_own_and_a_rollback_needs_no_writing(
    host: Hypervisor, group: Volumes
) -> None:
    handover = place(host, group)
    handover.offer_current()
    host.put("2")
    handover.offer_current()
    assert group.listed() == {"worker": "r", "worker_1": "r"}
    assert content(group, host, "worker", "worker@2") and content(group, host, "worker_1", "worker@1")
    host.go_back("worker@1")
    group.calls()
    handover.offer_current()
    assert {call[0] for call in group.calls()} == {"lvrename"}
    assert content(group, host, "worker", "worker@1") and content(group, host, "worker_2", "worker@2")


def test_a_volume_goes_with_its_version(host: Hypervisor, group: Volumes) -> None:
    handover = place(host, group)
    for version in ("2", "3", "4"):
        host.put(version)
        handover.offer_current()
    prune(host.cache, host.settings.vms, handed=handover)
    assert sorted(group.listed()) == ["worker", "worker_3"]
    with pytest.raises(BusyError):
        handover.withdraw(ImageRef.parse("worker@4"))


@pytest.mark.parametrize("command", ["lvcreate", "lvchange", "lvrename"])
def test_where_a_command_fails_the_version_before_stays_and_the_next_call_gets_there(
    host: Hypervisor, group: Volumes, command: str
) -> None:
    handover = place(host, group)
    handover.offer_current()
    host.put("2")
    (group.folder / f"fail-{command}").touch()
    (outcome,) = handover.offer_current()
    assert isinstance(outcome.error, StorageError) and "the disk is on fire" in str(outcome.error)
    assert content(group, host, "worker", "worker@1")
    (group.folder / f"fail-{command}").unlink()
    assert [o.state for o in handover.offer_current()] == ["handed over"]
    assert sorted(group.listed()) == ["worker", "worker_1"]
    assert content(group, host, "worker", "worker@2")


def test_what_is_not_read_as_it_was_written_never_takes_the_name(
    host: Hypervisor, group: Volumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rot(fd: int) -> None:
        os.pwrite(fd, b"rot", 5000)

    monkeypatch.setattr(lvm, "_drop_cache", rot)
    (outcome,) = place(host, group).offer_current()
    assert isinstance(outcome.error, CorruptError)
    assert list(group.listed()) == ["worker_1.new"]
    monkeypatch.undo()


def test_a_volume_of_somebody_else_is_not_touched(host: Hypervisor, group: Volumes) -> None:
    group.lvm("lvcreate", "-an", "-Zn", "-Wn", "-L", "4M", "-n", "worker", group.group)
    (outcome,) = place(host, group).offer_current()
    assert "did not make" in str(outcome.error)
    assert group.listed() == {"worker": "w"}
    assert group.calls() == []


def test_a_volume_in_use_is_not_written(host: Hypervisor, group: Volumes) -> None:
    handover = place(host, group)
    (group.folder / "fail-lvchange").touch()
    handover.offer_current()
    (group.folder / "fail-lvchange").unlink()
    fd = os.open(group.device("worker_1.new"), os.O_RDWR | os.O_EXCL)
    try:
        (outcome,) = handover.offer_current()
        assert isinstance(outcome.error, BusyError)
    finally:
        os.close(fd)
    assert [o.state for o in handover.offer_current()] == ["handed over"]


def test_a_thin_volume_is_asked_for_as_the_manual_says(
    host: Hypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    def run(argv: list[str], **more: object) -> str:
        calls.append(argv)
        if argv[0] == "lvs":
            return '{"report": [{"lv": []}]}'
        raise CommandError(argv, 5, "no thin pool here")

    monkeypatch.setattr(lvm, "run", run)
    table = LvmTable(kind="lvm", group="vg0", thin_pool="pool")
    (outcome,) = Handover(host.cache, [table]).offer_current()
    assert isinstance(outcome.error, StorageError)
    size = host.disk("worker@1").stat().st_size
    assert calls[-1] == [
        "lvcreate", "--type", "thin", "--virtualsize", f"{size}b", "--yes", "--wipesignatures", "n",
        "--addtag", "kiosk", "--addtag", "kiosk.version.1", "--name", "worker_1.new", "--thinpool", "vg0/pool",
    ]  # fmt: skip
