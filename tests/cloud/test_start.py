"""`kiosk vm start`: only what is signed is started, and a VM that does not come up is explained and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kiosk import order as order_
from kiosk.cli import vm_start
from kiosk.cli.vm_common import age, seconds
from kiosk.cloud.api import Cloud, VmSpec
from kiosk.cloud.qemu import argv, process, record
from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.cloud.qemu.make import boot_of
from kiosk.errors import CorruptError, GuestError, NotFoundError, PolicyError, UsageError, VerificationError
from kiosk.model.names import ImageRef, Version, manifest_path
from kiosk.publish.revoke import revoke
from kiosk.trust.client import TrustedRepository
from tests.simulators.disks import raw_disk
from tests.simulators.published import Kiosk, ask


def order(*layers: str, image: str = "worker", name: str | None = "node-1") -> order_.Order:
    return order_.Order(image, layers, "tiny", name, None, True)


def launch(kiosk: Kiosk, cloud: QemuCloud, *layers: str, timeout: float | None = 1) -> str:
    planned = order_.plan(cloud.cache, order(*layers))
    state, _ = vm_start.launch(cloud, kiosk.hypervisor.host / "metadata", planned, timeout)
    return state.id


def kiosk_words(kiosk: Kiosk, *words: str) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-m", "kiosk", "vm", *words], {
        "KIOSK_HOME": str(kiosk.hypervisor.home),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }


def command(kiosk: Kiosk, *words: str) -> subprocess.CompletedProcess[str]:
    argv, env = kiosk_words(kiosk, *words)
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_driver_is_a_cloud(cloud: QemuCloud) -> None:
    found: Cloud = cloud
    assert found.name == "qemu" and found.capabilities.layers


def test_a_plan_takes_current_versions_from_the_host_cache(cloud: QemuCloud) -> None:
    planned = order_.plan(cloud.cache, order("site/a/base"))
    assert (str(planned.image), [*map(str, planned.layers)]) == ("worker@1", ["site/a/base@1"])
    assert order_.plan(cloud.cache, order("site/a/base", name=None)).name.startswith("worker-")


@pytest.mark.parametrize(
    ("image", "layers", "error", "words"),
    [
        ("nothing", (), NotFoundError, "kiosk sync"),
        ("worker@2", (), NotFoundError, "worker@2 is not on this host"),
        ("worker", ("site/a/more",), NotFoundError, "kiosk sync"),
        ("worker", ("site/a/base@9",), NotFoundError, "site/a/base@9"),
        ("worker", ("site/a/base", "site/a/base@1"), UsageError, "twice"),
        ("../worker", (), UsageError, "not an image name"),
        ("worker", ("site/../base",), UsageError, "not a layer name"),
    ],
)
def test_what_is_not_there_is_told_with_what_to_do(
    cloud: QemuCloud, image: str, layers: tuple[str, ...], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        order_.plan(cloud.cache, order(*layers, image=image))
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["", "-a", "a b", "a" * 64, "a_b", "node\n"])
def test_names_that_are_no_host_names_are_refused(cloud: QemuCloud, name: str) -> None:
    if name == "":
        assert order_.plan(cloud.cache, order(name=name)).name.startswith("worker-")
        return
    with pytest.raises(UsageError, match="host name"):
        order_.plan(cloud.cache, order(name=name))


def test_a_layer_made_for_another_image_is_refused(kiosk: Kiosk, cloud: QemuCloud) -> None:
    kiosk.image("other")
    assert kiosk.sync().failure is None
    with pytest.raises(PolicyError, match="made for worker, not for other"):
        order_.plan(cloud.cache, order("site/a/base", image="other"))


def test_two_layers_for_one_folder_are_refused(kiosk: Kiosk, cloud: QemuCloud) -> None:
    kiosk.layer("site/b")
    kiosk.sync()
    with pytest.raises(PolicyError, match="site/a/base and site/b/base would both be mounted at /opt/site"):
        order_.plan(cloud.cache, order("site/a/base", "site/b/base"))


def test_current_that_points_out_of_the_cache_is_refused(cloud: QemuCloud) -> None:
    current = cloud.cache.root / "images/worker/current"
    current.unlink()
    current.symlink_to("../../../../etc")
    with pytest.raises(CorruptError):
        order_.plan(cloud.cache, order())


def test_a_manifest_changed_in_the_cache_is_refused(kiosk: Kiosk, cloud: QemuCloud) -> None:
    path = cloud.cache.root / "images/worker/1/manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"cmdline":"', b'"cmdline":"init=/bin/sh '))
    with pytest.raises(VerificationError, match="not what is signed"):
        launch(kiosk, cloud)
    assert cloud.list_vms() == []


def test_without_verified_metadata_nothing_is_started(kiosk: Kiosk, cloud: QemuCloud) -> None:
    (kiosk.hypervisor.host / "metadata" / "good").unlink()
    with pytest.raises(NotFoundError, match="kiosk sync"):
        launch(kiosk, cloud)
    assert cloud.list_vms() == []


def test_the_bundle_verifies_from_the_root_of_trust_alone(
    kiosk: Kiosk, cloud: QemuCloud, tmp_path: Path
) -> None:
    planned = order_.plan(cloud.cache, order("site/a/base"))
    refs = (planned.image, *planned.layers)
    order_.make_bundle(cloud.cache, kiosk.hypervisor.host / "metadata", refs, tmp_path / "bundle")
    reader = TrustedRepository(tmp_path / "guest", tmp_path / "bundle", kiosk.root.read_bytes())
    reader.refresh()
    for ref in refs:
        assert reader.manifest(ref) == cloud.cache.manifest(ref), manifest_path(ref)


def test_a_vm_that_is_not_ready_in_time_is_ended_and_explained(kiosk: Kiosk, cloud: QemuCloud) -> None:
    uefi = QemuCloud(cloud.vms, cloud.cache, accel="tcg", boot="uefi")
    with pytest.raises(GuestError, match="not ready after 1 s") as caught:
        launch(kiosk, uefi, "site/a/base")
    (state,) = cloud.list_vms()
    assert state.phase == "failed" and state.uuid not in process.running()
    assert str(cloud.folder(state.id) / argv.CONSOLE_LOG) in str(caught.value)
    assert f"kiosk vm stop {state.id}" in str(caught.value)
    assert caught.value.exit_code == 11


def test_ctrl_c_while_waiting_leaves_nothing(kiosk: Kiosk, cloud: QemuCloud) -> None:
    words, env = kiosk_words(kiosk, "start", "worker", "--name", "node-1", "--uefi", "--accel", "tcg")
    with subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True) as starting:
        until = time.monotonic() + 40
        while not (states := cloud.list_vms()) or states[0].phase != "booting":
            assert time.monotonic() < until and starting.poll() is None
            time.sleep(0.1)
        time.sleep(0.3)
        starting.send_signal(signal.SIGINT)
        assert starting.stderr is not None and "interrupted" in starting.stderr.read()
        assert starting.wait(30) == 130
    assert cloud.list_vms() == []
    assert states[0].uuid not in process.running()


def test_the_commands_on_a_vm(kiosk: Kiosk, cloud: QemuCloud) -> None:
    dry = command(kiosk, "start", "worker", "--layer", "site/a/base", "--name", "node-1", "--dry-run")
    assert dry.stdout == "would start node-1: worker@1 + site/a/base@1, flavour 1/1/2\n"
    assert command(kiosk, "list", "--json").stdout == "[]\n"

    started = command(
        kiosk, "start", "worker", "--name", "node-1", "--uefi", "--accel", "tcg", "--no-wait", "--json"
    )
    made = json.loads(started.stdout)
    assert (made["name"], made["state"], made["seconds_to_ready"]) == ("node-1", "booting", None)
    assert [vm["id"] for vm in json.loads(command(kiosk, "list", "--json").stdout)] == [made["id"]]
    assert "worker@1" in command(kiosk, "list").stdout
    assert json.loads(command(kiosk, "show", "node-1", "--json").stdout)["uuid"] == made["uuid"]
    assert json.loads(command(kiosk, "report", "node-1", "--json").stdout)["attestation"] is None

    (cloud.folder(made["id"]) / argv.CONSOLE_LOG).write_bytes("\x1b[2Jfirmware\r\n\x9b5mdone\n".encode())
    assert command(kiosk, "console", "node-1", "--log").stdout.startswith("firmware\ndone\n")
    refused = command(kiosk, "console", "node-1")
    assert (refused.returncode, "--log" in refused.stderr) == (2, True)
    assert command(kiosk, "stop").returncode == 2
    assert command(kiosk, "stop", "node-2").returncode == 6

    assert command(kiosk, "stop", "--all", "--now").stdout == f"stopped {made['id']} node-1\n"
    assert cloud.list_vms() == []


@pytest.mark.parametrize(("text", "length"), [("24h", 86400), ("90m", 5400), ("3600", 3600), ("2d", 172800)])
def test_lengths_of_time(text: str, length: int) -> None:
    assert seconds(text) == length


@pytest.mark.parametrize("text", ["", "0", "h", "1w", "-1h", "1.5h", "1 h", "99999999999h"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(UsageError, match="length of time"):
        seconds(text)


def test_ages_are_short() -> None:
    assert [age(s) for s in (5, 150, 7300, 200000)] == ["5s", "2m", "2h", "2d"]


# -- imported images: no kernel beside the disk, no agent inside ---------------------------------------


@pytest.fixture
def foreign(kiosk: Kiosk, tmp_path: Path) -> Kiosk:
    """The same farm with an imported image, whose disk is for a BIOS."""
    from kiosk.exchange.imported import Wanted, import_file
    from kiosk.publish import publish

    given = raw_disk(tmp_path / "disk", "label: dos\nstart=2048, type=83, bootable\n")
    publish(kiosk.settings, import_file(kiosk.settings, given, Wanted("foreign")).folder, ask)
    assert kiosk.sync("foreign").failure is None
    return kiosk


def test_an_imported_image_runs_by_its_firmware_and_is_waited_for_no_longer(
    foreign: Kiosk, cloud: QemuCloud
) -> None:
    planned = order_.plan(cloud.cache, order(image="foreign", name="legacy-1"))
    state, _ = vm_start.launch(cloud, foreign.hypervisor.host / "metadata", planned, 30)
    assert state.phase == "running" and state.reason is None
    assert record.read(cloud.folder(state.id)).boot == "bios"
    report = cloud.folder(state.id) / argv.REPORT
    report.write_bytes(
        b'{"schema":"kiosk.report/1","state":"ready"}\n'
    )  # what such a guest says counts for nothing
    assert cloud.show(state.id).phase == "running"
    process.kill([os.pidfd_open(pid) for pid in process.running()[state.uuid]])
    assert cloud.show(state.id).phase == "stopped"
    cloud.stop(state.id)


def test_a_disk_with_a_partition_for_uefi_is_started_by_uefi(foreign: Kiosk, cloud: QemuCloud) -> None:
    manifest = cloud.cache.image(cloud.cache.resolve(ImageRef.parse("foreign")))  # type: ignore[arg-type]
    assert boot_of(manifest, None) == "bios"
    efi = manifest.partitions[0].model_copy(update={"type": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"})
    assert boot_of(manifest.model_copy(update={"partitions": (efi,)}), None) == "uefi"


def test_what_needs_kiosks_own_images_is_refused_for_an_imported_one(
    foreign: Kiosk, cloud: QemuCloud, spec: Callable[[str], VmSpec]
) -> None:
    ref = cloud.cache.resolve(ImageRef.parse("foreign"))
    assert isinstance(ref, ImageRef)
    with pytest.raises(PolicyError, match="kiosk's agent, which mounts layers, is not in it"):
        cloud.start(replace(spec("legacy-1"), image=ref))
    with pytest.raises(PolicyError, match="kiosk's agent, which reads contexts, is not in it"):
        cloud.start(replace(spec("legacy-1"), image=ref, layers=(), context={"life": {"age": 60}}))
    done = command(foreign, "start", "foreign", "--direct-kernel", "--accel", "tcg")
    assert done.returncode == 2 and "no kernel beside its disk" in done.stderr
    assert not cloud.list_vms()


@pytest.fixture
def tap() -> Iterator[str]:
    name = f"kt{os.getpid() % 10**9}"
    subprocess.run(["ip", "tuntap", "add", "dev", name, "mode", "tap"], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    yield name
    subprocess.run(["ip", "tuntap", "del", "dev", name, "mode", "tap"], check=True)


def test_a_vm_is_in_the_network_of_a_tap_interface_that_is_there(
    tap: str, kiosk: Kiosk, cloud: QemuCloud
) -> None:
    uefi = QemuCloud(cloud.vms, cloud.cache, accel="tcg", boot="uefi")
    planned = order_.plan(cloud.cache, replace(order(), tap=tap))
    vm_start.launch(uefi, kiosk.hypervisor.host / "metadata", planned, None)
    assert Path("/sys/class/net", tap, "carrier").read_text() == "1\n"


@pytest.mark.parametrize(
    ("tap", "error"), [("lo", NotFoundError), ("nosuch0", NotFoundError), ("a,b=c", UsageError)]
)
def test_what_is_no_tap_interface_is_refused(cloud: QemuCloud, tap: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        order_.plan(cloud.cache, replace(order(), tap=tap))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"source": "ec2", "context": {"repository": {"url": "http://k"}}},
            "metadata service is in a network",
        ),
        ({"network": False}, "a tap interface is a network"),
    ],
)
def test_a_tap_interface_that_contradicts_the_rest_is_refused(
    cloud: QemuCloud, spec: Callable[[str], VmSpec], more: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        cloud.start(replace(spec("node-1"), tap="tap0", **more))
    assert not cloud.vms.exists()


def test_a_dry_run_refuses_what_a_start_refuses(kiosk: Kiosk, cloud: QemuCloud) -> None:
    ec2 = command(kiosk, "start", "worker", "--dry-run", "--context-source", "ec2", "--no-network")
    assert (ec2.returncode, "needs a network" in ec2.stderr) == (2, True)
    revoke(kiosk.settings, ImageRef.parse("worker"), Version.parse("2"), "a hole", ask, force=True)
    kiosk.sync()
    old = command(kiosk, "start", "worker", "--dry-run")
    assert (old.returncode, "worker@1 was revoked" in old.stderr) == (10, True)
    assert not cloud.vms.exists()
