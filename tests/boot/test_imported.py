"""An image of other makers boots: imported as qcow2, published, synced, and started by the firmware it is for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kiosk import order
from kiosk.cli import vm_start
from kiosk.cloud.hostcache import HostCache
from kiosk.cloud.qemu import argv
from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.exchange.imported import Wanted, import_file
from kiosk.files import sha256
from kiosk.publish import publish
from kiosk.run import run
from tests.publish.test_commands import Terminal, terminal
from tests.simulators.images import built_image, kept_home
from tests.simulators.published import ask, ready

__all__ = ["terminal"]
PATIENCE = 300.0
REACHED = b"kiosk: failed in identity"
"""What a service of this very disk writes when systemd starts it: under another name it is not the machine that was
specified, so that kiosk's agent, which only knows its own images, ends it."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_imported_image_boots_to_its_init(terminal: Terminal, tmp_path: Path) -> None:
    built = built_image(kept_home())
    argv_: list[str | Path] = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", built / "disk.raw"]
    run([*argv_, tmp_path / "foreign.qcow2"], timeout=600)
    kiosk = ready(tmp_path / "farm")
    done = import_file(kiosk.settings, tmp_path / "foreign.qcow2", Wanted("foreign"))
    assert (done.manifest.os, done.manifest.release, done.unread) == ("debian", "bookworm", None)
    assert done.manifest.artifacts["disk"].digest == sha256(built / "disk.raw")
    publish(kiosk.settings, done.folder, ask)
    assert kiosk.sync("foreign").failure is None

    cloud = QemuCloud(kiosk.hypervisor.vms, HostCache(kiosk.hypervisor.host))
    planned = order.plan(cloud.cache, order.Order("foreign", (), "tiny", "foreign-1", None, True))
    state, _ = vm_start.launch(cloud, kiosk.hypervisor.host / "metadata", planned, 60)
    try:
        assert state.phase == "running"
        terminal.set("KIOSK_HOME", kiosk.hypervisor.home)
        code, out, _ = terminal.run("vm", "list")
        assert code == 0 and "running" in out and "no report of its guest is expected" in out
        console = cloud.folder(state.id) / argv.CONSOLE_LOG
        until = time.monotonic() + PATIENCE
        while REACHED not in (said := console.read_bytes()):
            assert time.monotonic() < until, said[-2000:].decode(errors="replace")
            time.sleep(1)
        assert b"BdsDxe: starting" in said  # by UEFI
    finally:
        cloud.stop(state.id, now=True)
