"""A golden node in a real libvirt, whose QEMU may not write where kiosk does."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kiosk import files
from kiosk.errors import GuestError, NetworkError, NotFoundError, StorageError
from kiosk.golden.capture import Answer
from kiosk.golden.libvirt import LibvirtSource
from kiosk.run import CommandError, run
from tests.golden.libvirtd import GoldenDomain, golden_domain
from tests.golden.node import partition
from tests.simulators.images import kept_home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LIMIT = 60.0
KILLED = """
import os, signal, sys
from pathlib import Path
from kiosk.golden.libvirt import LibvirtSource
from kiosk.golden.settings import LibvirtSettings
where = sys.argv[4]
real = LibvirtSource._virsh
def virsh(self, command, *words, **more):
    if command == "backup-begin" and where == "frozen":
        os.kill(os.getpid(), signal.SIGKILL)
    text = real(self, command, *words, **more)
    if command == "backup-begin":
        os.kill(os.getpid(), signal.SIGKILL)
    return text
LibvirtSource._virsh = virsh
settings = LibvirtSettings(kind="libvirt", uri=sys.argv[1], domain="golden", folder=sys.argv[2])
LibvirtSource(settings).capture(Path(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def domain() -> Iterator[GoldenDomain]:
    with golden_domain() as found:
        yield found


@pytest.fixture
def folder() -> Iterator[Path]:
    with files.scratch(kept_home() / "tests") as found:
        yield found


def writer_log(domain: GoldenDomain) -> list[float]:
    return [float(line) for line in domain.shell("cat /var/lib/writer/log").splitlines()[:-1]]


@contextmanager
def unharmed(domain: GoldenDomain, *, gap: float) -> Iterator[None]:
    """The node goes on through the block, thawed, with no job in libvirt and no copy left."""
    boot = domain.shell("cat /proc/sys/kernel/random/boot_id")
    before = len(writer_log(domain))
    yield
    assert domain.shell("cat /proc/sys/kernel/random/boot_id") == boot
    times = writer_log(domain)
    largest = max(b - a for a, b in itertools.pairwise(times[before - 1 :]))
    print(f"largest gap {largest:.3f} s")
    assert len(times) > before + 10 and largest < gap
    assert domain.virsh("domjobinfo", "golden").split() == ["Job", "type:", "None"]
    assert list(domain.copies.iterdir()) == []
    status = '{"execute": "guest-fsfreeze-status"}'
    assert '"thawed"' in domain.virsh("qemu-agent-command", "golden", status)


def check(disk: Path, folder: Path) -> Path:
    part = partition(disk, folder / "part")
    run(["e2fsck", "-f", "-n", part], timeout=120)
    assert "needs_recovery" not in run(["dumpe2fs", "-h", part], timeout=60)
    return part


def test_a_running_domain_is_captured_at_one_moment(domain: GoldenDomain, folder: Path) -> None:
    with unharmed(domain, gap=1.5):
        begun = time.monotonic()
        found = LibvirtSource(domain.settings()).capture(folder)
    print(f"captured in {time.monotonic() - begun:.1f} s, frozen for {found.frozen_seconds} s")
    assert found.disk is not None and found.warnings == () and "libvirt" in found.method
    assert [p.name for p in folder.iterdir()] == ["disk.raw"]
    assert found.frozen_seconds is not None and 0 < found.frozen_seconds < 1.5
    assert found.disk.stat().st_blocks * 512 < 700 << 20
    part = check(found.disk, folder)
    copied = [
        float(x) for x in run(["debugfs", "-R", "cat /var/lib/writer/log", part], timeout=60).splitlines()
    ]
    assert writer_log(domain)[: len(copied)] == copied


def test_without_freezing_a_domain_is_as_after_a_power_cut(domain: GoldenDomain, folder: Path) -> None:
    with unharmed(domain, gap=1.5):
        found = LibvirtSource(domain.settings(freeze=False, disk="vda")).capture(folder)
    assert found.disk is not None and found.frozen_seconds is None
    part = partition(found.disk, folder / "part")
    subprocess.run(["e2fsck", "-p", part], check=False, capture_output=True)
    run(["e2fsck", "-f", "-n", part], timeout=120)


def test_a_hook_runs_in_the_node(domain: GoldenDomain) -> None:
    source = LibvirtSource(domain.settings())
    assert source.run(["sh", "-c", "hostname; exit 3"], timeout=30) == Answer(3, "golden\n")
    with pytest.raises(GuestError, match="not done after 1 s"):
        source.run(["sleep", "20"], timeout=1)


@pytest.mark.parametrize("where", ["frozen", "copying"])
def test_a_kiosk_that_is_killed_leaves_the_node_thawed_and_the_next_goes_on(
    where: str, domain: GoldenDomain, folder: Path
) -> None:
    with unharmed(domain, gap=5):
        argv = [sys.executable, "-c", KILLED, domain.uri, domain.copies, folder, where]
        assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
        until = time.monotonic() + LIMIT
        while not thawed(domain):
            assert time.monotonic() < until
        found = LibvirtSource(domain.settings()).capture(folder)
    assert found.disk is not None
    check(found.disk, folder)


def thawed(domain: GoldenDomain) -> bool:
    return '"thawed"' in domain.virsh("qemu-agent-command", "golden", '{"execute": "guest-fsfreeze-status"}')


def test_a_hung_agent_is_an_error_within_the_time(domain: GoldenDomain, folder: Path) -> None:
    with unharmed(domain, gap=1.5):
        # Not at once: the agent has yet to say how this command ended.
        domain.shell(
            "systemd-run -q /bin/sh -c 'sleep 3; pkill -STOP qemu-ga; sleep 20; pkill -CONT qemu-ga'"
        )
        until = time.monotonic() + LIMIT
        while answers(domain):
            assert time.monotonic() < until
        begun = time.monotonic()
        with pytest.raises(GuestError, match="can't be frozen"):
            LibvirtSource(domain.settings(answer=2)).capture(folder)
        print(f"said after {time.monotonic() - begun:.1f} s")
        assert time.monotonic() - begun < 30 and list(folder.iterdir()) == []
        until = time.monotonic() + 90
        while not answers(domain):
            assert time.monotonic() < until


def answers(domain: GoldenDomain) -> bool:
    try:
        domain.virsh("qemu-agent-command", "golden", "--timeout", "1", '{"execute": "guest-ping"}')
    except CommandError:
        return False
    return True


def test_nothing_is_begun_where_there_is_no_room(domain: GoldenDomain, folder: Path) -> None:
    run(["mount", "-t", "tmpfs", "-o", "size=100m,mode=0777", "tmpfs", domain.copies], timeout=20)
    try:
        with unharmed(domain, gap=1.5), pytest.raises(StorageError, match="needs about"):
            LibvirtSource(domain.settings()).capture(folder)
    finally:
        run(["umount", domain.copies], timeout=20)


def test_what_is_not_there_is_said(domain: GoldenDomain, folder: Path) -> None:
    with pytest.raises(NotFoundError, match="no disk vdb"):
        LibvirtSource(domain.settings(disk="vdb")).capture(folder)
    with pytest.raises(NotFoundError, match="failed to get domain"):
        LibvirtSource(domain.settings(domain="other")).capture(folder)
    with pytest.raises(NetworkError, match="failed to connect"):
        LibvirtSource(domain.settings(uri="qemu+unix:///session?socket=/nowhere")).capture(folder)


def test_a_domain_that_dies_in_the_middle_is_an_error_and_nothing_is_kept(
    domain: GoldenDomain, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LibvirtSource._wait

    def dying(self: LibvirtSource, where: Path) -> None:
        domain.virsh("destroy", "golden")
        real(self, where)

    monkeypatch.setattr(LibvirtSource, "_wait", dying)
    with pytest.raises(GuestError):
        LibvirtSource(domain.settings()).capture(folder)
    assert list(folder.iterdir()) == [] and list(domain.copies.iterdir()) == []
    with pytest.raises(GuestError, match="not running"):
        LibvirtSource(domain.settings()).capture(folder)
    assert list(folder.iterdir()) == []
