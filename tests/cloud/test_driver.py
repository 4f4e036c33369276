"""The life of a VM on this host with a real QEMU: never forgotten, never left behind, never taken for another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kiosk import files
from kiosk.cloud import ready
from kiosk.cloud.api import VmSpec, VmState
from kiosk.cloud.qemu import argv, process, record, wire
from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.errors import BusyError, CorruptError, GuestError, NotFoundError, UsageError
from kiosk.model.names import parse_ref

Spec = Callable[[str], VmSpec]


@pytest.fixture
def uefi(cloud: QemuCloud) -> QemuCloud:
    """The driver booting by firmware: the firmware runs, finds nothing to boot, and waits."""
    return QemuCloud(cloud.vms, cloud.cache, accel="tcg", boot="uefi")


def say(cloud: QemuCloud, vm: VmState, **line: Any) -> None:
    """Writes what the guest would write into its report."""
    with (cloud.folder(vm.id) / argv.REPORT).open("a") as f:
        f.write(json.dumps({"schema": "kiosk.report/1", **line}) + "\n")


def attestation(state: VmState, **more: object) -> dict[str, Any]:
    """What a guest attests that is what it should be."""
    layers = [dict(zip(("name", "version"), text.split("@"), strict=True)) for text in state.layers]
    name, version = state.image.split("@")
    image = {"name": name, "version": version, "root_hash": "0" * 64}
    return {"node": {"id": state.uuid}, "image": image, "layers": layers, **more}


def only(cloud: QemuCloud) -> VmState:
    (state,) = cloud.list_vms()
    return state


def test_a_vm_starts_boots_becomes_ready_and_stops(uefi: QemuCloud, spec: Spec) -> None:
    state = uefi.start(spec("node-1"))
    assert (state.phase, state.name, state.image, state.layers) == (
        "booting",
        "node-1",
        "worker@1",
        ("site/a/base@1",),
    )
    (pid,) = process.running()[state.uuid]
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert f"Max file size             {(2 << 30) + (2 << 24) + (256 << 20)}" in limits
    with wire.monitor(uefi.folder(state.id) / argv.MONITOR) as qmp:
        assert qmp.ask("query-status")["status"] == "running"
        disks = {d["device"] or d["qdev"]: d["inserted"] for d in qmp.ask("query-block") if d.get("inserted")}
        read_only = sorted(v["node-name"] for v in disks.values() if v["ro"])
        assert read_only == ["context", "firmware", "layer-0"]
    say(uefi, state, state="booting", stage="verify")
    assert only(uefi).stage == "verify"
    say(uefi, state, state="ready", attestation=attestation(state))
    assert only(uefi).phase == "ready"
    assert uefi.find("node-1") == uefi.find(state.id) == only(uefi)
    assert uefi.in_use() == {parse_ref("worker@1"), parse_ref("site/a/base@1")}

    uefi.stop(state.id, now=True)
    assert uefi.list_vms() == []
    assert state.uuid not in process.running()
    assert sorted(p.name for p in uefi.vms.iterdir()) == ["lock"]
    assert uefi.in_use() == set()


def test_two_vms_of_one_name_are_not_started(uefi: QemuCloud, spec: Spec) -> None:
    first = uefi.start(spec("node-1"))
    with pytest.raises(UsageError, match=first.id):
        uefi.start(spec("node-1"))
    assert only(uefi).id == first.id


def test_a_kernel_that_qemu_refuses_leaves_nothing(cloud: QemuCloud, spec: Spec) -> None:
    with pytest.raises(GuestError, match=r"did not start, it ended with status 1: .*kernel"):
        cloud.start(spec("node-1"))
    assert sorted(p.name for p in cloud.vms.iterdir()) == ["lock"]


@pytest.mark.parametrize("file", ["layer.squashfs", "manifest.json"])
def test_a_layer_that_is_not_on_this_host_leaves_nothing(cloud: QemuCloud, spec: Spec, file: str) -> None:
    (cloud.cache.root / "layers/site/a/base/1" / file).unlink()
    with pytest.raises(NotFoundError, match="kiosk sync"):
        cloud.start(spec("node-1"))
    assert [p for p in cloud.vms.iterdir() if p.name != "lock"] == []


def test_a_truncated_layer_is_refused(cloud: QemuCloud, spec: Spec) -> None:
    with (cloud.cache.root / "layers/site/a/base/1/layer.squashfs").open("r+b") as f:
        f.truncate(100)
    with pytest.raises(CorruptError, match="has 100 bytes"):
        cloud.start(spec("node-1"))
    assert cloud.list_vms() == []


def test_a_vm_that_dies_while_booting_has_failed_and_can_be_stopped(uefi: QemuCloud, spec: Spec) -> None:
    state = uefi.start(spec("node-1"))
    with process.opened(state.uuid) as descriptors:
        assert len(descriptors) == 1
        process.kill(descriptors)
    dead = only(uefi)
    assert (dead.phase, dead.reason) == ("failed", "the VM ended before its guest reported")
    assert dead.uuid == state.uuid
    uefi.stop(state.id)
    assert uefi.list_vms() == []
    with pytest.raises(NotFoundError):
        uefi.stop(state.id)


def test_a_vm_that_shut_itself_down_is_stopped_not_failed(uefi: QemuCloud, spec: Spec) -> None:
    state = uefi.start(spec("node-1"))
    say(uefi, state, state="ready", attestation=attestation(state))
    say(uefi, state, state="stopping", reason="its lifetime is over")
    assert (only(uefi).phase, only(uefi).reason) == ("stopping", "its lifetime is over")
    with wire.monitor(uefi.folder(state.id) / argv.MONITOR) as qmp:
        qmp.ask("quit")
    with process.opened(state.uuid) as descriptors:
        assert process.ended(descriptors, 10)
    assert only(uefi).phase == "stopped"


def end(cloud: QemuCloud, state: VmState) -> None:
    """The guest powers off."""
    with process.opened(state.uuid) as descriptors:
        process.kill(descriptors)


def test_a_draining_vm_shows_why_and_has_stopped_when_it_is_gone(uefi: QemuCloud, spec: Spec) -> None:
    state = uefi.start(spec("node-1"))
    with pytest.raises(GuestError, match="is booting, and only one that is ready can drain"):
        uefi.drain(state.id, "a test")
    say(uefi, state, state="ready", attestation=attestation(state))
    say(uefi, state, state="draining", reason="its age", jobs=2)
    assert (only(uefi).phase, only(uefi).reason, only(uefi).jobs) == ("draining", "its age", 2)
    uefi.drain(state.id, "again")  # drains already: the guest is not asked
    seen: list[int | None] = []

    def on_look(left: list[VmState]) -> None:
        seen.extend(s.jobs for s in left)
        if len(seen) == 1:
            say(uefi, state, state="draining", reason="its age", jobs=0)
        elif len(seen) == 2:
            say(uefi, state, state="stopping", reason="its age; 1 jobs still ran")
            end(uefi, state)

    (ended,) = ready.gone(uefi.list_vms, [state.id], timeout=30, on_look=on_look)
    assert (ended.phase, ended.reason, seen) == ("stopped", "its age; 1 jobs still ran", [2, 0])


@pytest.mark.parametrize("said", ["ready", "draining"])
def test_a_vm_that_was_killed_has_failed_and_leaves_no_secrets(
    uefi: QemuCloud, spec: Spec, said: str
) -> None:
    state = uefi.start(spec("node-1"))
    say(uefi, state, state=said, attestation=attestation(state))
    folder = uefi.folder(state.id)
    assert only(uefi).phase == said and (folder / argv.CONTEXT).exists()
    end(uefi, state)
    assert (only(uefi).phase, only(uefi).reason) == (
        "failed",
        f"the VM ended while it was {said}, without a word that it stops",
    )
    assert {p.name for p in folder.iterdir()} == {
        "vm.json", "start.lock", "console.log", "report.jsonl", "qemu.log",
    }  # fmt: skip


def test_a_look_from_before_the_start_wipes_nothing_of_a_vm_that_runs(uefi: QemuCloud, spec: Spec) -> None:
    state = uefi.start(spec("node-1"))
    uefi._look(uefi.folder(state.id), {})
    assert (uefi.folder(state.id) / argv.CONTEXT).exists()


def test_a_vm_that_goes_on_draining_is_named_at_the_limit(uefi: QemuCloud, spec: Spec) -> None:
    state = uefi.start(spec("node-1"))
    say(uefi, state, state="ready", attestation=attestation(state))
    say(uefi, state, state="draining", reason="its age")
    with pytest.raises(GuestError, match=r"1 VMs have not stopped after 0 s, and go on draining: node-1"):
        ready.gone(uefi.list_vms, [state.id], timeout=0, on_look=lambda _: None)


def test_a_lie_does_not_get_true_by_draining(cloud: QemuCloud, spec: Spec) -> None:
    state = half_started(cloud, spec("node-1"))
    say(cloud, state, state="ready", attestation=attestation(state, layers=[]))
    say(cloud, state, state="draining", reason="its age")
    assert only(cloud).phase == "failed"


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        ({"node": {"id": "another"}}, "another machine"),
        ({"node": "x"}, "another machine"),
        ({"image": {"name": "worker", "version": "2"}}, "another image"),
        ({"image": {"name": "worker", "version": "1", "root_hash": "1" * 64}}, "another root"),
        ({"layers": []}, "those asked for"),
        ({"layers": [{"name": "site/b/base", "version": "1"}]}, "those asked for"),
        ({"layers": 7}, "those asked for"),
    ],
)
def test_ready_counts_only_with_this_vms_attestation(
    cloud: QemuCloud, spec: Spec, lie: dict[str, object], why: str
) -> None:
    state = half_started(cloud, spec("node-1"))
    say(cloud, state, state="ready", attestation=attestation(state, **lie))
    assert only(cloud).phase == "failed"
    assert why in str(only(cloud).reason)


def half_started(cloud: QemuCloud, spec: VmSpec) -> VmState:
    """A VM whose kiosk was killed after it wrote down its intent."""
    with cloud._intent(spec, "tcg") as (_, made):
        assert only(cloud).phase == "starting"
        with pytest.raises(BusyError, match="just being started"):
            cloud.stop(made.id)
    return only(cloud)


def test_a_start_that_was_killed_is_shown_and_can_be_stopped(cloud: QemuCloud, spec: Spec) -> None:
    state = half_started(cloud, spec("node-1"))
    assert (state.phase, state.name) == ("failed", "node-1")
    cloud.stop(state.id)
    assert cloud.list_vms() == []


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"schema":"kiosk.vm/1"}', b"\xff" * 100])
def test_a_folder_with_a_broken_record_is_shown_and_can_be_removed(
    cloud: QemuCloud, spec: Spec, content: bytes | None
) -> None:
    half_started(cloud, spec("node-1"))
    folder = cloud.vms / "0badc0de"
    folder.mkdir()
    if content is not None:
        (folder / "vm.json").write_bytes(content)
    (cloud.vms / ".12345678.new").mkdir()
    states = {s.id: s for s in cloud.list_vms()}
    assert len(states) == 2
    assert states["0badc0de"].phase == "failed" and "vm.json" in str(states["0badc0de"].reason)
    cloud.stop("0badc0de")
    assert not folder.exists()


def test_a_running_vm_whose_record_is_lost_is_still_ended(uefi: QemuCloud, spec: Spec) -> None:
    state = uefi.start(spec("node-1"))
    (uefi.folder(state.id) / "vm.json").write_bytes(b"")
    uefi.stop(state.id, now=True)
    assert state.uuid not in process.running()
    assert not (uefi.vms / state.id).exists()


def test_a_running_vm_whose_folder_was_removed_is_shown_and_can_be_ended(uefi: QemuCloud, spec: Spec) -> None:
    state = uefi.start(spec("node-1"))
    shutil.rmtree(uefi.folder(state.id))
    assert (only(uefi).id, only(uefi).phase) == (state.id, "failed")
    assert "folder was removed" in str(only(uefi).reason)
    uefi.stop(state.id)
    assert uefi.list_vms() == []
    assert state.uuid not in process.running()


def test_a_process_that_has_the_number_of_a_vm_is_not_touched(cloud: QemuCloud, spec: Spec) -> None:
    """A number that was used again, and one that only looks alike: neither is this VM's process."""
    state = half_started(cloud, spec("node-1"))
    other = subprocess.Popen(["sleep", "60", "-uuid", state.uuid][:2])
    words = ["-uuid", state.uuid]
    alike = subprocess.Popen(["sh", "-c", "sleep 60; :", *words])
    try:
        (cloud.folder(state.id) / "qemu.pid").write_text(str(other.pid))
        assert only(cloud).phase == "failed"
        cloud.stop(state.id, now=True)
        assert other.poll() is None and alike.poll() is None
    finally:
        for one in (other, alike):
            one.kill()
            one.wait()


def test_our_own_and_vanished_processes_are_no_vms() -> None:
    assert process.uuid_of(os.getpid()) is None
    assert process.uuid_of(1 << 22) is None
    with process.opened("00000000-0000-4000-8000-000000000000") as descriptors:
        assert descriptors == []
        assert process.ended(descriptors, 0)


def test_giving_up_keeps_what_explains_it(uefi: QemuCloud, spec: Spec) -> None:
    state = uefi.start(spec("node-1"))
    uefi.give_up(state.id, stage="verify", reason="not ready after 1 s")
    after = only(uefi)
    assert (after.phase, after.stage, after.reason) == ("failed", "verify", "not ready after 1 s")
    assert state.uuid not in process.running()
    assert {p.name for p in uefi.folder(state.id).iterdir()} <= {
        "vm.json", "end.json", "start.lock", "console.log", "report.jsonl", "qemu.log",
    }  # fmt: skip


def test_giving_up_leaves_no_secrets_of_a_metadata_service(cloud: QemuCloud, spec: Spec) -> None:
    state = half_started(cloud, spec("node-1"))
    folder = cloud.folder(state.id)
    (folder / argv.METADATA_FILES).mkdir()
    (folder / argv.METADATA_FILES / "user-data").write_text("secret")
    (folder / argv.CONTEXT).write_text("secret")
    cloud.give_up(state.id, stage=None, reason="not ready")
    assert {p.name for p in folder.iterdir()} == {"vm.json", "end.json", "start.lock"}
    assert only(cloud).reason == "not ready"


def test_waiting_tells_stages_and_ends_at_the_limit(uefi: QemuCloud, spec: Spec) -> None:
    state = uefi.start(spec("node-1"))
    say(uefi, state, state="booting", stage="context")
    seen: list[str | None] = []
    with pytest.raises(ready.NotReady, match="failed in context: not ready after 1 s"):
        ready.wait(lambda: uefi.show(state.id), timeout=0.6, on_look=lambda s, _: seen.append(s.stage))
    assert set(seen) == {"context"} and len(seen) > 1
    say(uefi, state, state="failed", stage="verify", reason="the layer's digest differs")
    with pytest.raises(ready.NotReady, match="failed in verify: the layer's digest differs") as caught:
        ready.wait(lambda: uefi.show(state.id), timeout=5, on_look=lambda *_: None)
    assert (caught.value.exit_code, caught.value.stage) == (11, "verify")


def test_names_are_taken_one_after_the_other(cloud: QemuCloud, spec: Spec) -> None:
    """Another kiosk holds the list for a moment: waited for, not refused."""
    script = (
        "import sys, time; from pathlib import Path; from kiosk import files\n"
        "with files.locked(Path(sys.argv[1]), what='x'): print('held', flush=True); time.sleep(1)"
    )
    words = [sys.executable, "-c", script, str(cloud.vms / "lock")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        begin = time.monotonic()
        half_started(cloud, spec("node-1"))
        assert time.monotonic() - begin > 0.3


def test_a_record_names_what_must_not_be_removed_from_the_cache(cloud: QemuCloud, spec: Spec) -> None:
    state = half_started(cloud, spec("node-1"))
    found = record.read(cloud.folder(state.id))
    assert found.refs == (parse_ref("worker@1"), parse_ref("site/a/base@1"))
    files.write(cloud.folder(state.id) / "vm.json", b"{}")
    assert cloud.in_use() == set()


def test_deep_folders_do_not_break_sockets(kiosk: Any, spec: Spec) -> None:
    """A socket's path has 107 bytes; a folder's may be longer."""
    from kiosk.cloud.hostcache import HostCache

    cloud = QemuCloud(
        kiosk.hypervisor.home / ("x" * 120) / "vms",
        HostCache(kiosk.hypervisor.host),
        accel="tcg",
        boot="uefi",
    )
    state = cloud.start(spec("node-1"))
    cloud.stop(state.id, now=True)
    assert cloud.list_vms() == []
