"""Stage `context`: finds the context disk and reads what this machine shall be.

The disk is mounted read-only in a place that only root can look into. It stays there until `verify` has
read the signed metadata, and is gone before anything of a layer can run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from contextualize import context
from contextualize.machine import PRIVATE, Machine

LABELS = ("/dev/disk/by-label/CIDATA", "/dev/disk/by-label/cidata")
MOUNT = f"{PRIVATE}/context"
PATIENCE = 60.0
"""Seconds to wait for the disk."""


@dataclass(frozen=True)
class Found:
    """The context, the digest of its document, and which source it came from."""

    context: context.Context
    digest: str
    source: str


def run(machine: Machine) -> Found:
    """Mounts the context disk and reads its document."""
    machine.folder("/run/kiosk")
    machine.folder(PRIVATE, 0o700)
    machine.folder(MOUNT, 0o700)
    device = machine.appears(LABELS, PATIENCE)
    machine.mount(device, MOUNT, "vfat,iso9660", "ro,nosuid,nodev,noexec")
    data = machine.read(f"{MOUNT}/user-data", context.LIMIT)
    return Found(context.parse(data), f"sha256:{hashlib.sha256(data).hexdigest()}", f"nocloud:{device}")


def release(machine: Machine) -> None:
    """Takes the context disk away."""
    machine.unmount(MOUNT)
