"""A cloud that tells its VMs what kiosk would never tell them, and looks at what a failed boot leaves in the guest.

The look is a program of the test's own that the guest's systemd runs once its boot has failed, before it powers off.
It comes by an addition to the initrd, so that the image under test is the published one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from typing_extensions import override

from kiosk.cloud import context, context_disk
from kiosk.cloud.api import VmSpec, VmState
from kiosk.cloud.qemu import argv, process
from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.cloud.qemu.record import Record
from kiosk.model.manifest import ImageManifest
from kiosk.run import run

DAEMONS = "cat /proc/[0-9]*/comm | grep -cxE 'lim|res|sbatchd|slurmd|munged|condor_master'"
"""A shell's words that count the daemons of farms."""
ADDED = {
    "etc/systemd/system/add-look.service": """
[Unit]
DefaultDependencies=no
After=initrd-root-fs.target systemd-volatile-root.service
Before=initrd.target initrd-parse-etc.service
[Service]
Type=oneshot
ExecStart=/usr/bin/cp -r /added/. /sysroot/
""",
    "added/etc/systemd/system/kiosk-contextualize.service.d/look.conf": """
[Service]
ExecStopPost=/bin/sh /etc/look
""",
    "added/etc/look": f"""
test "$SERVICE_RESULT" = success && exit
attestation=gone; test -e /run/kiosk/attestation.json && attestation=there
daemons=$({DAEMONS})
ready=$(systemctl is-active kiosk-ready.target)
echo "look: attestation $attestation, ready $ready, $daemons daemons" >/dev/console
""",
}
NOTHING_LEFT = "look: attestation gone, ready inactive, 0 daemons"


def unchanged(document: dict[str, Any]) -> None:
    """Tells a VM what kiosk tells it."""


def looking(initrd: Path, folder: Path) -> Path:
    """The initrd with the addition, made in a folder."""
    for name, text in ADDED.items():
        file = folder / "tree" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    wants = folder / "tree/etc/systemd/system/initrd.target.wants"
    wants.mkdir()
    (wants / "add-look.service").symlink_to("../add-look.service")
    made = folder / "initrd"
    run(["bsdtar", "--format=newc", "-cf", made, "-C", folder / "tree", "etc", "added"], timeout=30)
    with made.open("ab") as f:
        f.write(bytes(-made.stat().st_size % 512))
        with initrd.open("rb") as whole:
            shutil.copyfileobj(whole, f)
    return made


@dataclass(frozen=True)
class CraftedCloud(QemuCloud):
    """The driver, but with a changed document, more disks, and an initrd of ours."""

    change: Callable[[dict[str, Any]], None] = unchanged
    more_disks: tuple[Path, ...] = ()
    initrd: Path | None = None

    @override
    def _make(self, folder: Path, made: Record, spec: VmSpec, manifest: ImageManifest) -> argv.Disks:
        disks = super()._make(folder, made, spec, manifest)
        told = context.document(
            uuid=made.uuid,
            name=made.name,
            image=spec.image,
            layers=spec.layers,
            lifetime=None,
            more=spec.context,
        )
        self.change(told)
        context_disk.make_disk(folder / argv.CONTEXT, told, spec.bundle, made.source)
        assert disks.kernel is not None
        kernel = replace(disks.kernel, initrd=self.initrd or disks.kernel.initrd)
        return replace(disks, layers=(*disks.layers, *self.more_disks), kernel=kernel)


def powered_off(state: VmState, limit: float = 120) -> bool:
    """Whether a VM ends itself within a time."""
    until = time.monotonic() + limit
    while state.uuid in process.running() and time.monotonic() < until:
        time.sleep(0.5)
    return state.uuid not in process.running()
