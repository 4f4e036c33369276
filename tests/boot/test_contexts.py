"""The same image is the same machine whatever it was told by: disks of three clouds, and EC2's metadata service."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kiosk.cli.vm_start import make_bundle
from kiosk.cloud import context_disk
from kiosk.cloud.api import VmSpec
from kiosk.cloud.context import Source
from kiosk.cloud.qemu import driver
from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.model.flavour import FLAVOURS
from tests.boot.farm import Farm, inside, settled

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TIMES = ("ready", "drains", "stops", "boot_seconds", "stage_seconds")
SITE = "site/example/base"
ID = uuid.UUID("0c0ffee0-0000-4000-8000-00000000000c")
MORE = {
    "time_servers": ["ntp.example.org"],
    "scratch": {"swap": 64},
    "life": {"age": 7200, "jitter": 600},
    "network": {
        "address": "10.0.2.77/24",
        "gateway": "10.0.2.2",
        "dns": ["10.0.2.3"],
        "search": ["example.org"],
    },
}


@pytest.fixture
def cloud(farm: Farm, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[QemuCloud]:
    """The driver, giving every VM the same id, so that each is told the same document."""
    monkeypatch.setattr(driver.uuid, "uuid4", lambda: ID)
    found = farm.cloud(folder / "vms")
    yield found
    for state in found.list_vms():
        found.stop(state.id, now=True)


def spec(farm: Farm, folder: Path, source: Source, more: dict[str, Any]) -> VmSpec:
    bundle = folder / f"bundle-{source}"
    image, site = farm.image(), farm.layer(SITE)
    make_bundle(farm.cache, farm.settings.host / "metadata", (image, site), bundle)
    return VmSpec(
        name="node-1", image=image, layers=(site,), flavour=FLAVOURS["tiny"], bundle=bundle, source=source,
        context=more,
    )  # fmt: skip


def test_three_clouds_boot_the_same_image_to_the_same_attestation_but_for_the_source(
    farm: Farm, folder: Path, cloud: QemuCloud
) -> None:
    attested = {}
    for source, label in context_disk.LABELS.items():
        started = cloud.start(spec(farm, folder, source, MORE))
        state = settled(cloud, started.id)
        assert state.phase == "ready", (
            source,
            state,
            (cloud.folder(started.id) / "console.log").read_text()[-2000:],
        )
        found = json.loads(inside(cloud, started.id, "cat", "/run/kiosk/attestation.json").stdout)
        assert found["context"].pop("source") == f"{source}:/dev/disk/by-label/{label}"
        attested[source] = {key: value for key, value in found.items() if key not in TIMES}
        print(source, found["boot_seconds"], found["stage_seconds"])
        if source == "opennebula":
            the_machine_is_set_up(cloud, started.id)
        cloud.stop(started.id, now=True)
    assert attested["nocloud"] == attested["configdrive"] == attested["opennebula"]


def the_machine_is_set_up(cloud: QemuCloud, id: str) -> None:
    def shell(text: str) -> str:
        return inside(cloud, id, "sh", "-c", text).stdout.decode().strip()

    assert shell("swapon --show=NAME,SIZE --noheadings --raw") == "/scratch/.kiosk-swap 64M"
    assert shell("stat -c %a /scratch/.kiosk-swap") == "600"
    assert shell("systemctl is-active systemd-timesyncd") == "active"
    assert "ntp.example.org" in shell("cat /run/systemd/timesyncd.conf.d/kiosk.conf")
    assert shell("ls /run/kiosk/private/context") == ""
    rules = shell("ip rule; ip -6 rule")
    assert rules.count("uidrange 1-4294967294 prohibit") == 2, rules
    connect = (
        "python3 -c 'import socket; socket.create_connection((\"169.254.169.254\", 80), 2)' 2>&1 | tail -n 1"
    )
    assert "Permission denied" in shell(f"setpriv --reuid 65534 --regid 65534 --clear-groups {connect}")
    assert "Permission denied" not in shell(connect)
    shell("/usr/lib/systemd/systemd-networkd-wait-online --any --timeout=30")
    assert [line.split()[2] for line in shell("ip -4 -br address show scope global").splitlines()] == [
        "10.0.2.77/24"
    ]
    assert "default via 10.0.2.2" in shell("ip route")
    assert "nameserver 10.0.2.3" in shell("cat /etc/resolv.conf")
    assert shell("systemctl --failed --no-legend") == ""


def test_a_guest_asks_the_metadata_service_of_ec2_by_its_second_version(
    farm: Farm, folder: Path, cloud: QemuCloud
) -> None:
    """The way to the repository is its own matter: here the guest must have read its context from the service."""
    more = {"repository": {"url": "http://169.254.0.2:9/"}}
    started = cloud.start(spec(farm, folder, "ec2", more))
    settled(cloud, started.id)
    report = cloud.report(started.id)
    assert report.stages[:4] == ("context", "identity", "network", "verify"), report
    assert not (cloud.folder(started.id) / "context.img").exists()
    cloud.stop(started.id, now=True)
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if b"kiosk.cloud.metadata" in read(p)]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
