"""A whole boot in a folder: the good way, and every way in which the machine must not come up."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from datetime import datetime, timezone

import pytest

from contextualize import features
from contextualize.stages.report import CONSOLE, PORT
from kiosk.cloud import report as kiosk_report
from kiosk.cloud.qemu.record import Record
from kiosk.cloud.qemu.state import contradiction
from kiosk.model.flavour import FLAVOURS
from tests.contextualize.guest import NODE, ROOT_HASH, Guest

Squashfs = Callable[[dict[str, str]], bytes]
UNIT = "[Service]\nUser=demo\nExecStart=/opt/experiment/demo/bin/hello\n"
SITE = {
    "environment": {"SITE_NAME": "EXAMPLE"},
    "files": [{"path": "/etc/kiosk/site.conf", "source": "etc/site.conf"}],
}
DEMO = {
    "environment": {"VO_DEMO_SW_DIR": "/opt/experiment/demo"},
    "users": [{"name": "demo", "uid": 50990, "home": "/home/demo", "shell": "/bin/bash"}],
    "services": ["systemd/demo-hello.service"],
}


def with_layers(guest: Guest, squashfs: Squashfs) -> Guest:
    guest.add_layer(
        "site/example/base", squashfs({"etc/site.conf": "site\n", "bin/tool": "#!/bin/sh\n"}), SITE
    )
    guest.add_layer("experiment/demo/software", squashfs({"systemd/demo-hello.service": UNIT}), DEMO)
    return guest


def test_a_bare_image_becomes_ready(guest: Guest) -> None:
    assert guest.boot() == 0
    states = [(r["state"], r.get("stage")) for r in guest.reports()]
    stages = ["context", "identity", "network", "verify", "layers", "apply", "attest"]
    assert states == [*(("booting", s) for s in stages), ("ready", None)]
    assert guest.text(CONSOLE).splitlines()[-1] == "kiosk: ready: debian-12-minimal@20260301.1 after 12.5 s"
    assert guest.machine.hostname == "node-7.example.org"
    assert "127.0.1.1 node-7.example.org node-7\n" in guest.text("/etc/hosts")


def test_two_layers_are_mounted_and_carried_out(guest: Guest, squashfs: Squashfs) -> None:
    with_layers(guest, squashfs)
    assert guest.boot() == 0
    assert guest.machine.mounts == {
        "/opt/site": ("squashfs", "ro,nosuid,nodev"),
        "/opt/experiment/demo": ("squashfs", "ro,nosuid,nodev"),
        features.JOBS: ("tmpfs", features.OPTIONS),
    }
    assert guest.text("/etc/kiosk/site.conf") == "site\n"
    assert "demo:x:50990:50990::/home/demo:/bin/bash" in guest.text("/etc/passwd").splitlines()
    assert stat.S_IMODE((guest.root / "home/demo").stat().st_mode) == 0o700
    profile = guest.text("/etc/profile.d/kiosk-layers.sh")
    assert "export SITE_NAME='EXAMPLE'\n" in profile
    assert profile.endswith('PATH="$PATH:/opt/site/bin"\n')
    assert guest.text("/run/systemd/system/demo-hello.service") == UNIT
    assert "After=kiosk-ready.target" in guest.text(
        "/run/systemd/system/demo-hello.service.d/kiosk-ready.conf"
    )
    assert guest.machine.asked[-1][:3] == ("systemctl", "start", "--no-block")
    assert guest.machine.asked[-1][-1] == "demo-hello.service"


def test_the_hypervisor_finds_its_vm_in_the_attestation_in_whatever_order_layers_were_asked_for(
    guest: Guest, squashfs: Squashfs
) -> None:
    with_layers(guest, squashfs).context["layers"].reverse()
    assert guest.boot() == 0
    report = kiosk_report.read(guest.root / PORT.lstrip("/"))
    attested = report.attestation["layers"]  # type: ignore[index]
    assert [x["name"] for x in attested] == ["site/example/base", "experiment/demo/software"]  # type: ignore
    asked = [f"{x['name']}@{x['version']}" for x in guest.context["layers"]]
    assert asked[0].startswith("experiment/")
    record = Record(
        id="0c0ffee0", uuid=NODE, name="node-7", image="debian-12-minimal@20260301.1", layers=tuple(asked),
        flavour=FLAVOURS["tiny"], boot="uefi", accel="tcg", network=False, created=datetime.now(timezone.utc),
    )  # fmt: skip
    assert contradiction(record, report, ROOT_HASH) is None
    for layers in (asked[:1], [*asked, asked[0]], [asked[0], "site/example/base@2"]):
        wrong = record.model_copy(update={"layers": tuple(layers)})
        assert "not those asked for" in str(contradiction(wrong, report, ROOT_HASH))


def test_the_attestation_says_what_was_verified_and_by_whose_key(guest: Guest, squashfs: Squashfs) -> None:
    with_layers(guest, squashfs).context["life"] = {"age": 3600}
    assert guest.boot() == 0
    attestation = json.loads(guest.text("/run/kiosk/attestation.json"))
    keys = {role: signer.public_key.keyid for role, signer in guest.repository.keys.items()}
    assert attestation["image"]["root_hash"] == ROOT_HASH
    assert attestation["image"]["keys"] == [keys["images"]]
    assert [(x["name"], x["role"], x["keys"]) for x in attestation["layers"]] == [
        ("site/example/base", "site-example", [keys["site-example"]]),
        ("experiment/demo/software", "experiment-demo", [keys["experiment-demo"]]),
    ]
    assert attestation["stops"] > attestation["drains"] > attestation["ready"]
    ends = {"kiosk-drain.timer": 3588, "kiosk-stop.timer": 3588 + 86400 + 300}
    assert set(ends) < set(guest.machine.asked[-1])
    for timer, seconds in ends.items():
        assert f"OnActiveSec={seconds}\n" in guest.text(f"/run/systemd/system/{timer}")
    assert guest.reports()[-1]["attestation"] == attestation
    assert stat.S_IMODE((guest.root / "run/kiosk/attestation.json").stat().st_mode) == 0o644
    assert stat.S_IMODE((guest.root / "run/kiosk/private").stat().st_mode) == 0o700


def test_the_context_disk_is_gone_before_anything_of_a_layer_can_run(guest: Guest) -> None:
    assert guest.boot() == 0
    assert not guest.machine.exists("/run/kiosk/private/context")


def test_without_a_context_disk_there_is_no_machine(guest: Guest) -> None:
    (guest.root / "dev/disk/by-label/CIDATA").unlink()
    assert guest.boot() == 1
    assert guest.refused().startswith("context: /dev/disk/by-label/CIDATA or ")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"colour": "blue"}, "context: context: 'colour': unknown key"),
        ({"schema": "kiosk.context/2"}, "context: context: schema: is 'kiosk.context/2'"),
        ({"node": {"id": "7", "name": "node-7"}}, "context: context: node: id"),
        ({"life": {"age": True}}, "context: context: life: age"),
        (
            {"image": {"name": "debian-12-worker", "version": "1"}},
            "identity: the context is for debian-12-worker@1",
        ),
        (
            {"layers": [{"name": "site/example/../x", "version": "1", "device": "layer-0"}]},
            "context: context: layers",
        ),
        (
            {"layers": [{"name": "site/example/gone", "version": "1", "device": "layer-0"}]},
            "verify: layers/site/",
        ),
        (
            {"scratch": {"device": "none", "mount": "/scratch"}},
            "scratch: /dev/disk/by-id/virtio-none did not appear",
        ),
        ({"scratch": {"device": "none", "mount": "/etc/x"}}, "scratch: scratch: /etc/x is in use"),
    ],
)
def test_a_context_that_does_not_hold_ends_the_machine(
    guest: Guest, change: dict[str, object], expected: str
) -> None:
    guest.context.update(change)
    assert guest.boot() == 1
    assert guest.refused().startswith(expected)


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [
        (f"roothash={'cd' * 32}", "verify: the running root file system has the hash cdcd"),
        ("root=/dev/vda2", "verify: the kernel's command line has no single roothash="),
        (
            f"roothash={ROOT_HASH} roothash={'cd' * 32}",
            "verify: the kernel's command line has no single roothash=",
        ),
    ],
)
def test_a_root_file_system_that_is_not_the_signed_one(guest: Guest, cmdline: str, expected: str) -> None:
    guest.write("/proc/cmdline", cmdline.encode())
    assert guest.boot() == 1
    assert guest.refused().startswith(expected)


def test_a_root_file_system_that_the_kernel_does_not_check(guest: Guest) -> None:
    guest.write("/sys/block/dm-0/dm/uuid", b"LVM-0123\n")
    assert guest.boot() == 1
    assert guest.refused() == "verify: the root file system is not on dm-verity"


def test_one_changed_bit_in_a_layer(guest: Guest, squashfs: Squashfs) -> None:
    with_layers(guest, squashfs)
    disk = guest.root / "dev/disk/by-id/virtio-layer-1"
    data = bytearray(disk.read_bytes())
    data[100] ^= 1
    disk.write_bytes(data)
    assert guest.boot() == 1
    assert guest.refused().startswith(
        "verify: experiment/demo/software@1 on the disk layer-1: the content has the"
    )
    assert guest.machine.asked == []


def test_a_layer_disk_that_is_too_short(guest: Guest, squashfs: Squashfs) -> None:
    with_layers(guest, squashfs)
    guest.write("/dev/disk/by-id/virtio-layer-0", b"hsqs")
    assert guest.boot() == 1
    assert "ends" in guest.refused()


def test_an_unforeseen_fault_is_reported_too_and_is_no_success(guest: Guest) -> None:
    guest.write("/proc/uptime", b"never\n")
    with pytest.raises(ValueError, match="never"):
        guest.boot()
    assert guest.refused().startswith("attest: ValueError")


def test_scratch_space_is_made_once_and_never_over_data(guest: Guest) -> None:
    disk = guest.root / "dev/disk/by-id/virtio-scratch"
    guest.context["scratch"] = {"device": "scratch", "mount": "/scratch"}
    guest.write("/dev/disk/by-id/virtio-scratch", bytes(8 << 20))
    assert guest.boot() == 0
    assert guest.machine.mounts["/scratch"] == ("ext4", "rw,nosuid,nodev,noatime")
    made = disk.read_bytes()
    assert made[1080:1082] == b"\x53\xef"  # ext4's magic number


def test_somebodys_data_on_the_scratch_disk_is_left_alone(guest: Guest) -> None:
    guest.context["scratch"] = {"device": "scratch", "mount": "/scratch"}
    guest.write("/dev/disk/by-id/virtio-scratch", bytes(8 << 20))
    disk = guest.root / "dev/disk/by-id/virtio-scratch"
    guest.machine.run(["mkfs.ext4", "-q", "-L", "thesis", str(disk)])
    before = disk.read_bytes()
    assert guest.boot() == 1
    assert "holds ext4 already" in guest.refused()
    assert disk.read_bytes() == before


def test_a_reason_from_a_hostile_document_is_one_plain_line(guest: Guest) -> None:
    guest.context["image"]["name"] = "\x1b[2J\nkiosk: ready: all is well"
    assert guest.boot() == 1
    console = guest.text(CONSOLE)
    assert "\x1b" not in console
    assert not any(line.startswith("kiosk: ready") for line in console.splitlines())
