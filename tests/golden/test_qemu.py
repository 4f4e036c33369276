"""A golden VM that goes on running: its disk at one moment, whole and clean, or an error, nothing kept, and a node
that noticed nothing."""

from __future__ import annotations

import _thread
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from kiosk import files
from kiosk.cloud.qemu import agent
from kiosk.errors import GuestError, NotFoundError, StorageError
from kiosk.golden import blocks
from kiosk.golden.capture import Answer, Capture
from kiosk.golden.qemu import QemuSource
from kiosk.run import run
from tests.golden.node import GoldenVm, golden_vm, partition
from tests.simulators.images import kept_home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SLOW = 4 << 20
LIMIT = 60.0
KILLED_WHILE_FROZEN = """
import os, signal, sys
from pathlib import Path
from kiosk.golden import blocks
from kiosk.golden.qemu import QemuSource
from kiosk.golden.settings import QemuSettings
blocks.fix = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
QemuSource(QemuSettings(kind="qemu", monitor=sys.argv[1], agent=sys.argv[2])).capture(Path(sys.argv[3]))
"""
KILLED_WHILE_COPYING = f"""
import sys
from pathlib import Path
from kiosk.golden.qemu import QemuSource
from kiosk.golden.settings import QemuSettings
settings = QemuSettings(kind="qemu", monitor=sys.argv[1], agent=sys.argv[2], speed={SLOW})
QemuSource(settings).capture(Path(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with files.scratch(kept_home() / "tests") as found:
        yield found


@pytest.fixture(scope="module")
def vm(place: Path) -> Iterator[GoldenVm]:
    with golden_vm(place / "golden") as found:
        yield found


@pytest.fixture
def folder(place: Path) -> Iterator[Path]:
    with files.scratch(place, prefix="capture-") as found:
        yield found


def writer_log(vm: GoldenVm) -> list[float]:
    return [float(line) for line in vm.run("cat", "/var/lib/writer/log").splitlines()[:-1]]


def largest_gap(times: list[float]) -> float:
    return max(b - a for a, b in itertools.pairwise(times))


@contextmanager
def unharmed(vm: GoldenVm, *, gap: float) -> Iterator[None]:
    """The node goes on through the block: the same boot, no I/O error, writes that never wait longer than `gap`
    seconds, thawed, and nothing of kiosk's in its QEMU."""
    boot = vm.run("cat", "/proc/sys/kernel/random/boot_id")
    before = len(writer_log(vm))
    yield
    assert vm.run("cat", "/proc/sys/kernel/random/boot_id") == boot
    assert agent.ask(vm.agent, "guest-fsfreeze-status", timeout=20) == "thawed"
    times = writer_log(vm)
    assert len(times) > before + 10
    assert largest_gap(times[before - 1 :]) < gap
    assert "error" not in vm.shell("journalctl -k --no-pager | grep -i 'i/o error' || true")
    assert " rw," in vm.shell("grep ' / ext4 ' /proc/mounts")
    names = {node["node-name"] for node in vm.ask("query-named-block-nodes")}
    assert not [name for name in names if name.startswith(blocks.PREFIX)]
    assert vm.ask("query-jobs") == [] and vm.ask("query-fdsets") == []
    assert vm.ask("query-block")[0]["inserted"]["node-name"] == "root"


def job_begun(vm: GoldenVm) -> None:
    """Waits until the copy is going on."""
    until = time.monotonic() + LIMIT
    while not any(job["current-progress"] > 0 for job in vm.ask("query-jobs")):
        assert time.monotonic() < until
        time.sleep(0.05)


def meanwhile(vm: GoldenVm, folder: Path, disturb: Callable[[], None], **settings: object) -> Capture:
    """Captures, and disturbs in the middle of the copy."""
    with ThreadPoolExecutor(1) as pool:
        capture = pool.submit(QemuSource(vm.settings(speed=SLOW, **settings)).capture, folder)
        try:
            job_begun(vm)
            disturb()
        finally:
            result = capture.result(timeout=300)
    return result


def alive(vm: GoldenVm) -> bool:
    """Whether the agent answers within a second."""
    try:
        agent.ask(vm.agent, "guest-ping", timeout=1)
    except GuestError:
        return False
    return True


def check(disk: Path, folder: Path) -> Path:
    """The file system of a captured disk, which is clean: no error, nothing to replay."""
    part = partition(disk, folder / "part")
    run(["e2fsck", "-f", "-n", part], timeout=120)
    assert "needs_recovery" not in run(["dumpe2fs", "-h", part], timeout=60)
    return part


def test_a_running_node_is_captured_at_one_moment_and_hardly_notices(vm: GoldenVm, folder: Path) -> None:
    source = QemuSource(vm.settings())
    begun = time.monotonic()
    with unharmed(vm, gap=1.5):
        first = float(vm.run("tail", "-n", "2", "/var/lib/writer/log").splitlines()[0])
        found = source.capture(folder)
        last = float(vm.run("tail", "-n", "2", "/var/lib/writer/log").splitlines()[0])
    print(f"captured in {time.monotonic() - begun:.1f} s, frozen for {found.frozen_seconds} s")
    assert found.disk == folder / "disk.raw" and found.warnings == ()
    assert [p.name for p in folder.iterdir()] == ["disk.raw"]
    assert found.frozen_seconds is not None and 0 < found.frozen_seconds < 1
    assert found.disk.stat().st_size == 2 << 30 and found.disk.stat().st_blocks * 512 < 700 << 20
    part = check(found.disk, folder)
    copied = [
        float(x) for x in run(["debugfs", "-R", "cat /var/lib/writer/log", part], timeout=60).splitlines()
    ]
    assert first < copied[-1] < last
    times = writer_log(vm)
    assert times[: len(copied)] == copied
    around = [t for t in times if first <= t <= last]
    print(f"largest gap {largest_gap(around):.3f} s, mean {(last - first) / len(around):.4f} s")
    assert largest_gap(around) < found.frozen_seconds + 1


def test_without_freezing_a_node_is_as_after_a_power_cut(vm: GoldenVm, folder: Path) -> None:
    with unharmed(vm, gap=1.5):
        found = QemuSource(vm.settings(freeze=False, agent=None, disk="root")).capture(folder)
    assert found.disk is not None and found.frozen_seconds is None and "not frozen" in found.method
    part = partition(found.disk, folder / "part")
    assert "needs_recovery" in run(["dumpe2fs", "-h", part], timeout=60)
    # The first replays the journal, and may say so by its status; then all is well.
    subprocess.run(["e2fsck", "-p", part], check=False, capture_output=True)
    run(["e2fsck", "-f", "-n", part], timeout=120)


def test_a_hook_runs_in_the_node(vm: GoldenVm) -> None:
    answer = QemuSource(vm.settings()).run(["sh", "-c", "hostname; exit 3"], timeout=30)
    assert answer == Answer(3, "golden\n")


def test_a_disk_that_is_not_there_is_said_with_those_that_are(vm: GoldenVm, folder: Path) -> None:
    with unharmed(vm, gap=1.5), pytest.raises(NotFoundError, match=r"root \(/machine/peripheral/disk"):
        QemuSource(vm.settings(disk="other")).capture(folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("how", ["stopped", "hung"])
def test_a_node_without_a_living_agent_is_not_captured(how: str, vm: GoldenVm, folder: Path) -> None:
    source = QemuSource(vm.settings(answer=2))
    with unharmed(vm, gap=1.5):
        stop, start = {
            "stopped": ("systemctl stop qemu-guest-agent", "systemctl start qemu-guest-agent"),
            "hung": ("pkill -STOP qemu-ga", "pkill -CONT qemu-ga"),
        }[how]
        # Not at once: the agent has yet to say how this command ended.
        vm.shell(f"systemd-run -q /bin/sh -c 'sleep 3; {stop}; sleep 15; {start}'")
        until = time.monotonic() + LIMIT
        while alive(vm):
            assert time.monotonic() < until
        begun = time.monotonic()
        with pytest.raises(GuestError, match="can't be frozen: the guest agent does not answer"):
            source.capture(folder)
        assert time.monotonic() - begun < 8
        assert list(folder.iterdir()) == []
        until = time.monotonic() + LIMIT
        while not alive(vm):
            assert time.monotonic() < until


def test_a_kiosk_that_is_killed_while_the_node_is_frozen_leaves_it_thawed(vm: GoldenVm, folder: Path) -> None:
    with unharmed(vm, gap=5):
        argv = [sys.executable, "-c", KILLED_WHILE_FROZEN, vm.monitor, vm.agent, folder]
        assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
        until = time.monotonic() + LIMIT
        while agent.ask(vm.agent, "guest-fsfreeze-status", timeout=20) != "thawed":
            assert time.monotonic() < until
        for path in folder.iterdir():
            path.unlink()
        found = QemuSource(vm.settings()).capture(folder)
    assert found.warnings == ("a copy that an earlier kiosk left was ended",)
    assert found.disk is not None
    check(found.disk, folder)


def test_what_a_kiosk_that_was_killed_left_in_qemu_is_ended_by_the_next(vm: GoldenVm, folder: Path) -> None:
    with unharmed(vm, gap=1.5):
        argv = [sys.executable, "-c", KILLED_WHILE_COPYING, vm.monitor, vm.agent, folder]
        process = subprocess.Popen(argv)
        job_begun(vm)
        process.kill()
        process.wait()
        assert vm.ask("query-block")[0]["inserted"]["node-name"] == blocks.FILTER
        for path in folder.iterdir():
            path.unlink()
        found = QemuSource(vm.settings()).capture(folder)
    assert found.warnings == ("a copy that an earlier kiosk left was ended",)
    assert found.disk is not None
    check(found.disk, folder)


def test_ctrl_c_in_the_middle_leaves_nothing(vm: GoldenVm, folder: Path) -> None:
    def interrupt() -> None:
        job_begun(vm)
        _thread.interrupt_main()

    with unharmed(vm, gap=1.5), ThreadPoolExecutor(1) as pool:
        pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            QemuSource(vm.settings(speed=SLOW)).capture(folder)
    assert list(folder.iterdir()) == []


def test_a_copy_that_takes_too_long_is_given_up(vm: GoldenVm, folder: Path) -> None:
    with unharmed(vm, gap=1.5), pytest.raises(GuestError, match="not copied after 2 s"):
        QemuSource(vm.settings(speed=SLOW, timeout=2)).capture(folder)
    assert list(folder.iterdir()) == []


def test_nothing_is_begun_where_there_is_no_room(vm: GoldenVm, folder: Path) -> None:
    with unharmed(vm, gap=1.5), tmpfs(folder, 100), pytest.raises(StorageError, match="needs about"):
        QemuSource(vm.settings()).capture(folder)


def test_a_disk_that_fills_up_ends_the_copy_and_not_the_node(vm: GoldenVm, folder: Path) -> None:
    def fill() -> None:
        with (folder / "filler").open("wb") as f, pytest.raises(OSError, match="No space"):
            while True:
                f.write(bytes(1 << 20))

    with unharmed(vm, gap=1.5), tmpfs(folder, 1200):
        with pytest.raises(StorageError, match="no space left"):
            meanwhile(vm, folder, fill)
        assert [p.name for p in folder.iterdir()] == ["filler"]


def test_a_node_that_dies_in_the_middle_is_an_error_and_nothing_is_kept(vm: GoldenVm, folder: Path) -> None:
    with pytest.raises(GuestError, match="ended or hangs in the middle"):
        meanwhile(vm, folder, vm.process.kill)
    assert list(folder.iterdir()) == []


@contextmanager
def tmpfs(folder: Path, mebibytes: int) -> Iterator[None]:
    run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0700", "tmpfs", folder], timeout=20)
    try:
        yield
    finally:
        run(["umount", folder], timeout=20)
