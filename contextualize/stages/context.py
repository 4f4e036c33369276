"""Stage `context`: finds the context disk and reads what this machine shall be.

The disk is mounted read-only in a place that only root can look into. It stays there until `verify` has
read the signed metadata, and is gone before anything of a layer can run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from contextualize import context
from contextualize.machine import PRIVATE, Machine

LABELS = ("/dev/disk/by-label/CIDATA", "/dev/disk/by-label/cidata")
MOUNT = f"{PRIVATE}/context"
PATIENCE = 60.0
"""Seconds to wait for the disk."""


@dataclass(frozen=True)
class Found:
    """The context, the digest of its document, which source it came from, and the folder of signed metadata/ and
    targets/ that came with it, if one did."""

    context: context.Context
    digest: str
    source: str
    bundle: Optional[Path] = None


def run(machine: Machine) -> Found:
    """Mounts the context disk and reads its document."""
    machine.folder("/run/kiosk")
    machine.folder(PRIVATE, 0o700)
    machine.folder(MOUNT, 0o700)
    device = machine.appears(LABELS, PATIENCE)
    machine.mount(device, MOUNT, "vfat,iso9660", "ro,nosuid,nodev,noexec")
    data = machine.read(f"{MOUNT}/user-data", context.LIMIT)
    bundle = machine.path(f"{MOUNT}/kiosk")
    return Found(
        context.parse(data),
        f"sha256:{hashlib.sha256(data).hexdigest()}",
        f"nocloud:{device}",
        bundle if bundle.is_dir() else None,
    )


def release(machine: Machine) -> None:
    """Takes the context disk away."""
    machine.unmount(MOUNT)
