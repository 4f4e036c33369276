"""What a hypervisor gives up, and above all what it does not: what is current, needed for a roll-back, or in use."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kiosk.sync.prune as module
from kiosk.cloud.qemu.record import Record
from kiosk.errors import BusyError, StorageError
from kiosk.files import fsync_dir
from kiosk.model.flavour import Flavour
from kiosk.model.names import ImageRef, Ref
from kiosk.run import run, tool
from kiosk.store.directory import DirectoryStore
from kiosk.store.needs import needs
from kiosk.sync import holders, usage
from kiosk.sync.prune import Nobody, Pruned, prune
from kiosk.sync.retention import Held, verdicts
from tests.simulators.hypervisor import Hypervisor
from tests.simulators.published import ready

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="others' processes can be seen by root only")
START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def host(tmp_path: Path) -> Hypervisor:
    made = Hypervisor(tmp_path / "h")
    made.put("1", "2", "3", "4", "5")
    return made


def ref(text: str) -> Ref:
    return ImageRef.parse(text)


def pruned(host: Hypervisor, **more: object) -> Pruned:
    return prune(host.cache, host.settings.vms, **more)  # type: ignore[arg-type]


def removed(host: Hypervisor, **more: object) -> list[str]:
    return [str(r) for r in pruned(host, **more).removed]


# -- the rule ---------------------------------------------------------------------------------------------


def held(current: int | None, *versions: int, used: tuple[int, ...] = ()) -> list[Held]:
    return [Held(ref(f"worker@{v}"), START + timedelta(days=v), v == current, v in used) for v in versions]


def test_the_current_one_the_one_before_it_and_the_newest_stay() -> None:
    assert verdicts(held(3, 1, 2, 3, 4, 5), keep=1) == {
        ref("worker@1"): None,
        ref("worker@4"): None,
        ref("worker@2"): "before current",
        ref("worker@3"): "current",
        ref("worker@5"): "newest",
    }


def test_without_a_current_version_the_newest_are_all_that_stays() -> None:
    found = verdicts(held(None, 1, 2, 3))
    assert [str(r) for r, why in found.items() if why is None] == ["worker@1"]


@given(
    st.sets(st.integers(0, 12), min_size=1),
    st.integers(0, 12),
    st.sets(st.integers(0, 12)),
    st.sets(st.integers(0, 12)),
    st.integers(1, 5),
)
def test_whatever_is_there_nothing_that_is_needed_may_go(
    versions: set[int], current: int, used: set[int], wanted: set[int], keep: int
) -> None:
    found = verdicts(
        held(current, *versions, used=tuple(used)), keep=keep, wanted=[ref(f"worker@{w}") for w in wanted]
    )
    going = [int(str(r.version)) for r, why in found.items() if why is None]
    before = [v for v in sorted(versions) if v < current and current in versions]
    assert len(found) == len(versions)
    assert going == sorted(going)
    assert not {current, *used, *wanted, *before[-1:]} & set(going) - set(before[:-1])
    assert set(sorted(versions)[-keep:]).isdisjoint(going)


# -- pruning ----------------------------------------------------------------------------------------------


@root_only
def test_old_versions_go_oldest_first(host: Hypervisor) -> None:
    assert removed(host, keep=2) == ["worker@1", "worker@2", "worker@3"]
    assert host.versions() == ["4", "5"]
    assert removed(host, keep=2) == []


@root_only
def test_a_dry_run_says_the_same_and_removes_nothing(host: Hypervisor) -> None:
    assert removed(host, keep=2, dry_run=True) == ["worker@1", "worker@2", "worker@3"]
    assert host.versions() == ["1", "2", "3", "4", "5"]


@root_only
def test_wanted_versions_stay_and_so_does_what_a_rollback_needs(host: Hypervisor) -> None:
    host.go_back("worker@3")
    assert removed(host, keep=1, wanted=[ref("worker@1")]) == ["worker@4"]
    assert host.versions() == ["1", "2", "3", "5"]


@root_only
def test_only_as_much_goes_as_makes_the_room_that_is_asked_for(host: Hypervisor) -> None:
    before = pruned(host, dry_run=True, keep=9).free
    done = pruned(host, keep=1, free=before + 1, dry_run=True)
    assert [str(r) for r in done.removed] == ["worker@1"]
    assert done.kept[ref("worker@2")] == "there is room"
    assert removed(host, keep=1, free=1) == []


@root_only
def test_a_version_whose_manifest_is_damaged_stays_and_the_others_go(host: Hypervisor) -> None:
    (host.cache.version_folder(ref("worker@2")) / "manifest.json").write_bytes(b"{")
    done = pruned(host, keep=2)
    assert [str(r) for r in done.removed] == ["worker@1", "worker@3"]
    assert "can't be read" in done.kept[ref("worker@2")] and done.failure is None
    assert host.versions() == ["2", "4", "5"]


@root_only
def test_shared_objects_go_after_the_versions_but_not_those_of_current_ones(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    assert kiosk.sync().failure is None
    hypervisor = kiosk.hypervisor
    offered, shared = DirectoryStore(kiosk.settings.repository), DirectoryStore(hypervisor.host)
    for one in list(offered.objects()):
        shared.write(offered.read(one))
    old = shared.write(b"of a version that is gone")
    current = set(shared.objects()) - {old}
    from kiosk.sync import HostCache

    done = prune(HostCache(hypervisor.host), hypervisor.vms, free=1 << 60)
    assert done.objects >= 1 and old not in set(shared.objects())
    needed = {a.index for i in HostCache(hypervisor.host).installed() for a in i.manifest.artifacts.values()}
    assert needed - {None} <= set(shared.objects()) <= current


@root_only
def test_what_a_version_needs_is_known_by_the_index_that_its_fetch_kept(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    assert kiosk.sync().failure is None
    offered = DirectoryStore(kiosk.settings.repository)
    shared = DirectoryStore(kiosk.hypervisor.host)
    from kiosk.sync import HostCache

    cache = HostCache(kiosk.hypervisor.host)
    (one,) = [i for i in cache.installed() if str(i.ref.base) == "worker"]
    needed = set(needs(offered, one.manifest))
    indexes = {a.index for a in one.manifest.artifacts.values()}
    for wanted in needed - indexes:
        shared.write(offered.read(wanted))
    for index in indexes:
        if index is not None and shared.has(index):
            shared.remove(index.digest)
    kept = set(shared.objects())
    assert kept & needed and not kept & indexes
    prune(cache, kiosk.hypervisor.vms, free=1 << 60)
    assert needed - indexes <= set(shared.objects())


# -- in use -----------------------------------------------------------------------------------------------


def write_record(host: Hypervisor, image: str) -> Path:
    made = Record(
        id="0badcafe", uuid="0badcafe-0000-4000-8000-000000000000", name="node", image=image, layers=(),
        flavour=Flavour.parse("1/1/1"), boot="bios", accel="tcg", network=False, created=START,
    )  # fmt: skip
    folder = host.settings.vms / made.id
    folder.mkdir(parents=True)
    (folder / "vm.json").write_bytes(made.to_json())
    return folder


@root_only
def test_what_a_vm_of_kiosks_runs_stays_from_the_moment_of_its_record(host: Hypervisor) -> None:
    write_record(host, "worker@1")
    done = pruned(host)
    assert done.kept[ref("worker@1")] == "in use: VM 0badcafe (node)"
    assert host.versions() == ["1", "4", "5"]


@root_only
def test_a_vm_whose_record_cannot_be_read_may_use_anything(host: Hypervisor) -> None:
    folder = write_record(host, "worker@1")
    (folder / "vm.json").write_text("{}")
    assert removed(host) == []


@contextmanager
def opened(host: Hypervisor) -> Iterator[object]:
    with host.disk("worker@2").open("rb") as f:
        yield f


@contextmanager
def mapped(host: Hypervisor) -> Iterator[object]:
    with host.disk("worker@2").open("rb") as f:
        memory = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    # Python keeps a descriptor of its own for a mapping: a child maps it and closes every descriptor
    memory.close()
    script = (
        "import ctypes, os, sys\n"
        "c = ctypes.CDLL(None); c.mmap.restype = ctypes.c_void_p\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "c.mmap(None, ctypes.c_size_t(4096), 1, 1, fd, ctypes.c_long(0)); os.close(fd)\n"
        "print('mapped', flush=True); sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, host.disk("worker@2")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None and child.stdin is not None
    with child:
        assert child.stdout.readline() == b"mapped\n"
        yield child
        child.stdin.close()


@contextmanager
def looped(host: Hypervisor) -> Iterator[object]:
    device = run(["losetup", "-r", "-f", "--show", host.disk("worker@2")], timeout=20).strip()
    try:
        yield device
    finally:
        run(["losetup", "-d", device], timeout=20)


@contextmanager
def another_name(host: Hypervisor) -> Iterator[object]:
    """Opened by a link elsewhere."""
    link = host.cache.folder.parent / "link"
    link.symlink_to(host.disk("worker@2"))
    with link.open("rb") as f:
        yield f


@root_only
@pytest.mark.parametrize("use", [opened, mapped, looped, another_name])
def test_what_anybody_holds_stays_until_it_is_let_go(host: Hypervisor, use: object) -> None:
    with use(host):  # type: ignore[operator]
        assert removed(host) == ["worker@1", "worker@3"]
    assert removed(host) == ["worker@2"]


class Disks(Nobody):
    def __init__(self, *disks: Path) -> None:
        self.paths = disks

    def disks(self) -> tuple[Path, ...]:
        return self.paths


@root_only
def test_a_disk_of_a_vm_that_is_off_keeps_what_it_is_built_on(host: Hypervisor, tmp_path: Path) -> None:
    middle, top, other = tmp_path / "middle.qcow2", tmp_path / "top.qcow2", tmp_path / "other.qcow2"
    run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", host.disk("worker@1"), middle],
        timeout=20,
    )
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "middle.qcow2", top], timeout=20)
    described = f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{host.disk("worker@2")}"}}}}'
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", described, other], timeout=20)
    done = pruned(host, handed=Disks(top, other, tmp_path / "gone.qcow2", host.disk("worker@5")))
    assert [str(r) for r in done.removed] == ["worker@3"]
    assert done.kept[ref("worker@1")] == f"in use: the disk {top}"


def header(at: int, name: bytes, length: int | None = None) -> bytes:
    """The start of a qcow2 whose backing file's name stands at a place."""
    size = len(name) if length is None else length
    start = b"QFI\xfb" + (3).to_bytes(4, "big") + at.to_bytes(8, "big") + size.to_bytes(4, "big")
    return start.ljust(104, b"\0") + name


@root_only
def test_a_disk_whose_base_cannot_be_read_may_be_built_on_anything(host: Hypervisor, tmp_path: Path) -> None:
    for n in range(40):
        (tmp_path / f"{n}.qcow2").write_bytes(header(104, f"{n + 1}.qcow2".encode()))
    done = pruned(host, handed=Disks(tmp_path / "0.qcow2"))
    assert not done.removed
    assert "0.qcow2" in done.kept[ref("worker@1")]


@root_only
@pytest.mark.parametrize(
    "start",
    [
        header(1 << 40, b"", 9),
        header((1 << 64) - 1, b"", 1023),
        header(104, b"x" * 2000),
        header(104, b"x" * 1000),
        header(104, b"json:{"),
        header(104, b'json:{"file":"/\\ud800"}'),
        header(104, b'json:{"file":"/\\u0000"}'),
        header(104, b"\0/secret"),
    ],
    ids=["far", "farthest", "long", "no name", "no json", "no text", "zero", "empty"],
)
def test_a_guest_that_writes_a_header_nobody_can_follow_keeps_nothing(
    host: Hypervisor, tmp_path: Path, start: bytes
) -> None:
    bad = tmp_path / "raw.disk"
    bad.write_bytes(start)
    assert removed(host, handed=Disks(bad)) == ["worker@1", "worker@2", "worker@3"]


@root_only
def test_a_running_vm_and_its_disk_count_as_one_user(host: Hypervisor, tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", host.disk("worker@1"), disk],
        timeout=20,
    )
    uuid = "12345678-0000-4000-8000-000000000000"
    vm = subprocess.Popen(
        [tool("qemu-system-x86_64"), "-nodefaults", "-display", "none", "-S", "-machine", "pc,accel=tcg", "-m", "16",
         "-uuid", uuid, "-drive", f"file={disk},if=ide", "-qmp", "stdio"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with vm:
        assert vm.stdout is not None and b"QMP" in vm.stdout.readline()
        found = usage.look(host.cache, host.settings.vms, [disk])
        vm.kill()
    assert found.of(ref("worker@1")) == (f"VM {uuid}",)
    after = usage.look(host.cache, host.settings.vms, [disk])
    assert after.of(ref("worker@1")) == (f"the disk {disk}",)


@root_only
def test_who_can_neither_ask_the_kernel_nor_look_into_processes_knows_nothing(host: Hypervisor) -> None:
    for path in [*host.cache.folder.parents]:
        if path.stat().st_mode & 0o777 == 0o700:
            path.chmod(0o711)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            found = holders.find({host.disk("worker@1"): "it"})
            os.write(writer, (found.unknown or "nothing").encode())
        finally:
            os._exit(0)
    os.close(writer)
    assert b"can't be looked into" in os.read(reader, 1000)
    os.close(reader)
    os.waitpid(child, 0)


@root_only
def test_a_vm_that_begins_just_before_the_folder_goes_gets_it_back(
    host: Hypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = host.disk("worker@1")
    taken = []

    def between(path: Path) -> None:
        if not taken and path == first.parent.parent and not first.exists():
            taken.append((host.cache.folder / "partial/.worker@1.gone/disk.raw").open("rb"))
        fsync_dir(path)

    monkeypatch.setattr("kiosk.sync.prune.fsync_dir", between)
    done = pruned(host)
    assert "in use: process" in done.kept[ref("worker@1")] and done.failure is None
    taken[0].close()
    assert host.versions() == ["1", "4", "5"]


@root_only
def test_while_a_sync_runs_nothing_is_pruned(host: Hypervisor) -> None:
    with host.cache.locked(), pytest.raises(BusyError):
        pruned(host)


@root_only
def test_a_place_that_fails_keeps_the_version_and_says_so(host: Hypervisor) -> None:
    class Broken(Nobody):
        def withdraw(self, ref: Ref) -> None:
            raise StorageError("the pool is on fire")

    done = pruned(host, handed=Broken())
    assert not done.removed and isinstance(done.failure, StorageError)


@root_only
@pytest.mark.parametrize("used", [False, True])
def test_what_a_killed_prune_left_is_finished_or_put_back(host: Hypervisor, used: bool) -> None:
    child = os.fork()
    if child == 0:
        try:
            module.remove_tree = lambda path: path.exists() and os.kill(os.getpid(), signal.SIGKILL)
            pruned(host)
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert host.versions() == ["2", "3", "4", "5"]
    with (host.cache.folder / "partial/.worker@1.gone/disk.raw").open("rb") as f:
        if not used:
            f.close()
        pruned(host, keep=9)
    assert host.versions() == (["1"] if used else []) + ["2", "3", "4", "5"]
    assert not (host.cache.folder / "partial/.worker@1.gone").exists()
