"""kill -9 of a hand-over or a prune at every step: what VMs use stays whole, and the next call gets to the same end."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from kiosk.files import sha256
from kiosk.handover import Handover, lvm
from kiosk.handover.settings import AnyTable, FilesTable, LvmTable, OpenNebulaTable
from kiosk.handover.state import read
from kiosk.model.names import ImageRef
from kiosk.sync.prune import prune
from tests.failures.interrupted import killed_at
from tests.handover.volumes import volumes
from tests.simulators.hypervisor import Hypervisor

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="hands over as root")


def tables(home: Path) -> list[AnyTable]:
    for name in ("copies", "overlays", "one"):
        (home / name).mkdir(parents=True)
    return [
        FilesTable(kind="files", folder=home / "copies"),
        FilesTable(kind="files", folder=home / "overlays", mode="overlay"),
        OpenNebulaTable(kind="opennebula", datastores=home / "one"),
    ]


def whole(host: Hypervisor) -> list[str]:
    """The versions in the cache, every byte as its manifest says."""
    for installed in host.cache.installed():
        host.cache.check(installed)
    return host.versions()


def usable(home: Path, host: Hypervisor, *versions: str) -> None:
    """What new VMs get is one of these versions, whole."""
    link = home / "copies/worker.raw"
    version = link.readlink().name.removeprefix("worker@").removesuffix(".raw")
    assert version in versions
    assert sha256(link) == host.version(f"worker@{version}").manifest.artifacts["disk"].digest
    overlay = home / "overlays/worker.current"
    assert overlay.exists() and host.disk(overlay.readlink().name.removesuffix(".qcow2")).exists()


def leftovers(home: Path) -> list[str]:
    return [str(p) for p in home.rglob("*") if p.name.endswith((".new", ".gone", ".partial"))]


def test_a_hand_over_killed_at_any_step(tmp_path: Path) -> None:
    for step in itertools.count(1):
        home = tmp_path / str(step)
        host = Hypervisor(home / "h")
        handover = Handover(host.cache, tables(home))
        host.put("1")
        handover.offer_current()
        host.put("2")
        killed = killed_at(step, handover.offer_current, removals=True)
        assert whole(host) == ["1", "2"]
        usable(home, host, "1", "2")
        assert {o.state for o in handover.offer_current()} <= {"handed over", "stands"}
        usable(home, host, "2")
        assert leftovers(home) == []
        assert {o.state for o in handover.offer_current()} == {"stands"}
        if not killed:
            break
        shutil.rmtree(home)
    assert step > 10


def test_a_prune_killed_at_any_step(tmp_path: Path) -> None:
    for step in itertools.count(1):
        home = tmp_path / str(step)
        host = Hypervisor(home / "h")
        handover = Handover(host.cache, tables(home))
        for version in ("1", "2", "3"):
            host.put(version)
            handover.offer_current()

        def work(host: Hypervisor = host, handover: Handover = handover) -> None:
            prune(host.cache, host.settings.vms, handed=handover)

        killed = killed_at(step, work, removals=True)
        assert whole(host)[-2:] == ["2", "3"]
        usable(home, host, "3")
        work()
        handover.settle()
        assert whole(host) == ["2", "3"]
        assert {str(r) for r in handover.held()} == {"worker@2", "worker@3"}
        assert {e.ref for e in read(handover.record).entries} == {"worker@2", "worker@3"}
        assert leftovers(home) == []
        if not killed:
            break
        shutil.rmtree(home)
    assert step > 10


def die_at(step: int, real: Callable[..., str]) -> Callable[..., str]:
    left = [step]

    def run(argv: list[str], **more: float) -> str:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(argv, **more)

    return run


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("lvm", path="/usr/sbin:/sbin") is None, reason="needs lvm2")
def test_a_hand_over_to_lvm_killed_before_any_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = os.environ["PATH"], lvm.run
    for step in itertools.count(1):
        host = Hypervisor(tmp_path / f"h{step}")
        host.put("1")
        with volumes(tmp_path / f"lvm{step}") as group:
            monkeypatch.setenv("PATH", f"{group.bin}:{path}")
            monkeypatch.setattr(lvm, "DEVICES", group.devices)
            handover = Handover(host.cache, [LvmTable(kind="lvm", group=group.group)])
            handover.offer_current()
            host.put("2")

            def work(handover: Handover = handover, step: int = step) -> None:
                lvm.run = die_at(step, real)  # type: ignore[assignment]
                handover.offer_current()

            killed = killed_at(10_000, work)
            name = "worker" if "worker" in group.listed() else "worker_1"
            with group.device(name).open("rb") as f:
                data = f.read(host.disk("worker@1").stat().st_size)
            assert data in [host.disk(f"worker@{v}").read_bytes() for v in ("1", "2")]
            assert {o.state for o in handover.offer_current()} <= {"handed over", "stands"}
            assert sorted(group.listed()) == ["worker", "worker_1"]
            with group.device("worker").open("rb") as f:
                assert f.read(len(data)) == host.disk("worker@2").read_bytes()
            assert handover.held() == {ImageRef.parse("worker@1"), ImageRef.parse("worker@2")}
        if not killed:
            break
    assert step > 6
