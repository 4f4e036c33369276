"""The same image is the same machine whatever it was told by: disks of three clouds, and EC2's metadata service."""

from __future__ import annotations

import functools
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from contextualize.stages.network import METADATA
from kiosk.cloud import context_disk
from kiosk.cloud.api import VmSpec
from kiosk.cloud.context import SOURCES
from kiosk.cloud.qemu import argv, driver
from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.model.flavour import FLAVOURS
from kiosk.model.names import LayerRef
from kiosk.order import make_bundle
from tests.boot import trial
from tests.boot.farm import Farm, inside, settled

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TIMES = ("ready", "drains", "stops", "boot_seconds", "stage_seconds")
ID = uuid.UUID("0c0ffee0-0000-4000-8000-00000000000c")
HOST = "169.254.0.2"
"""The host in the network that QEMU makes where there is a metadata service. The three disks' machines, whose network
is another, fetch nothing."""
TRACE = "/run/kiosk-trace"
MORE = {
    "time_servers": ["ntp.example.org"],
    "scratch": {"swap": 64},
    "life": {"age": 7200, "jitter": 600},
    "network": {
        "address": "169.254.0.77/16",
        "gateway": HOST,
        "dns": ["169.254.0.3"],
        "search": ["example.org"],
    },
    "hooks": {"prolog": f"echo prolog >>{TRACE}\n", "epilog": f"#!/bin/bash -e\necho epilog >>{TRACE}\n"},
    "user_data": f"#!/bin/sh\necho data for $KIOSK_NODE_NAME >>{TRACE}\n",
}


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, and keeps what was asked for."""

    asked: list[str]

    def log_message(self, format: str, *args: Any) -> None:
        self.asked.append(self.path)


@contextmanager
def served(repository: Path) -> Iterator[tuple[int, list[str]]]:
    """The port on which a repository is served while the block lasts, and the paths that are asked for."""
    asked: list[str] = []
    handler = type("Handler", (Quiet,), {"asked": asked})
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(repository))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], asked
        server.shutdown()


@pytest.fixture
def cloud(farm: Farm, folder: Path, monkeypatch: pytest.MonkeyPatch) -> QemuCloud:
    """The driver, giving every VM the same id, so that each is told the same document."""
    monkeypatch.setattr(driver.uuid, "uuid4", lambda: ID)
    return farm.cloud(folder / "vms")


def test_four_clouds_boot_the_same_image_to_the_same_attestation_but_for_the_source(
    farm: Farm, folder: Path, cloud: QemuCloud
) -> None:
    site, image, attested = trial.published(farm, folder), farm.image(), {}
    make_bundle(farm.cache, farm.settings.host / "metadata", (image, site), folder / "bundle")
    with served(farm.home / "kiosk-host/repository") as (port, asked):
        for source in SOURCES:
            more = {**MORE, "repository": {"url": f"http://{HOST}:{port}/"}}
            spec = VmSpec(
                name="node-1", image=image, layers=(site,), flavour=FLAVOURS["tiny"], bundle=folder / "bundle",
                source=source, context=more,
            )  # fmt: skip
            asked.clear()
            started = cloud.start(spec)
            state = settled(cloud, started.id)
            console = (cloud.folder(started.id) / argv.CONSOLE_LOG).read_text(errors="replace")
            assert state.phase == "ready", (source, state, console[-2000:])
            found = json.loads(inside(cloud, started.id, "cat", "/run/kiosk/attestation.json").stdout)
            where = (
                f"/dev/disk/by-label/{context_disk.LABELS[source]}"
                if source != "ec2"
                else "http://169.254.169.254"
            )
            assert found["context"].pop("source") == f"{source}:{where}"
            attested[source] = {key: value for key, value in found.items() if key not in TIMES}
            print(source, found["boot_seconds"], found["stage_seconds"])
            trace = inside(cloud, started.id, "cat", TRACE).stdout.decode().splitlines()
            assert trace == ["prolog", "data for node-1", "epilog"]
            assert (f"/{manifest(site)}" in "".join(asked)) == (source == "ec2"), asked
            assert (cloud.folder(started.id) / argv.CONTEXT).exists() == (source != "ec2")
            if source == "opennebula":
                the_machine_is_set_up(cloud, started.id)
            cloud.stop(started.id, now=True)
    assert attested["nocloud"]["switched_on"] == ["hooks", "user-data"]
    assert attested["nocloud"]["context"]["scripts"] == {}
    assert attested["nocloud"] == attested["configdrive"] == attested["opennebula"] == attested["ec2"]
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if b"kiosk.cloud.metadata" in read(p)]


def manifest(layer: LayerRef) -> str:
    """Where a repository has the manifests of a layer."""
    return f"targets/layers/{layer.base}/"


def the_machine_is_set_up(cloud: QemuCloud, id: str) -> None:
    def shell(text: str) -> str:
        return inside(cloud, id, "sh", "-c", text).stdout.decode().strip()

    assert shell("swapon --show=NAME,SIZE --noheadings --raw") == "/scratch/.kiosk-swap 64M"
    assert shell("stat -c %a /scratch/.kiosk-swap") == "600"
    assert shell("systemctl is-active systemd-timesyncd") == "active"
    assert "ntp.example.org" in shell("cat /run/systemd/timesyncd.conf.d/kiosk.conf")
    assert shell("ls /run/kiosk/private/context") == ""
    rules = shell("ip rule; ip -6 rule")
    assert rules.count("uidrange 1-4294967294 prohibit") == len(METADATA), rules
    connect = (
        "python3 -c 'import socket; socket.create_connection((\"169.254.169.254\", 80), 2)' 2>&1 | tail -n 1"
    )
    assert "Permission denied" in shell(f"setpriv --reuid 65534 --regid 65534 --clear-groups {connect}")
    assert "Permission denied" not in shell(connect)
    shell("/usr/lib/systemd/systemd-networkd-wait-online --any --timeout=30")
    addresses = shell("ip -4 -br address show dev $(ls /sys/class/net | grep -v lo)").split()[2:]
    assert addresses == [MORE["network"]["address"]]  # type: ignore[index]
    assert f"default via {HOST}" in shell("ip route")
    assert "nameserver 169.254.0.3" in shell("cat /etc/resolv.conf")
    assert shell("systemctl --failed --no-legend") == ""


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
