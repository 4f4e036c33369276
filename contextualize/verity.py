"""dm-verity for layers: the kernel checks every block of a layer against the signed root hash, whenever it is read.

All parameters come from the signed manifest, none from the disk. What a hypervisor changes in a layer's disk, before
the boot or at any time after it, is an I/O error for whoever reads it; it is never read as if it were the layer's.
Every guest's kernel has dm-verity, for its root; an image without the program `dmsetup` goes without it for layers.
"""

from __future__ import annotations

from typing import List, Tuple

from contextualize.errors import Refused
from contextualize.machine import Machine
from contextualize.manifest import BLOCK, Verity
from contextualize.tree import squashfs_fault

DMSETUP = ("/usr/sbin/dmsetup", "/sbin/dmsetup")
PREFIX = "kiosk-"


def available(machine: Machine) -> bool:
    """Whether this image can have the kernel check layers. The answer is part of the verified root."""
    return any(machine.exists(path) for path in DMSETUP)


def opened(machine: Machine, serial: str, verity: Verity, what: str) -> str:
    """The device through which a layer's disk is read from now on; it begins with a SquashFS superblock that holds."""
    disk, name = machine.appears([machine.disk(serial)], 30), f"{PREFIX}{serial}"
    table = (
        f"0 {verity.data_blocks * (BLOCK // 512)} verity 1 {disk} {disk} {BLOCK} {BLOCK} "
        f"{verity.data_blocks} {verity.hash_start} sha256 {verity.root_hash} {verity.salt}"
    )
    # The kernel makes the node at once; waiting for udev's link to it would take five times as long.
    machine.run(["dmsetup", "create", "--readonly", "--noudevsync", "--noudevrules", name, "--table", table])
    device = next((f"/dev/{node}" for node, found in _mapped(machine) if found == name), None)
    if device is None:
        raise Refused(f"{what}: the kernel has no device {name}, which dmsetup has just made")
    try:
        with machine.path(device).open("rb", buffering=0) as f:
            head = f.read(96)
    except OSError as e:
        raise Refused(f"{what}: {e.strerror}: its first block is not what was signed") from None
    fault = squashfs_fault(head, verity.data_blocks * BLOCK)
    if fault:
        raise Refused(f"{what}: {fault}")
    return device


def corrupted(machine: Machine) -> List[str]:
    """The layers' disks in which the kernel has found something that is not as signed, since they were opened."""
    names = [name for _, name in _mapped(machine) if name.startswith(PREFIX)]
    return [n[len(PREFIX) :] for n in names if " verity C" in machine.run(["dmsetup", "status", n])]


def _mapped(machine: Machine) -> List[Tuple[str, str]]:
    """The device-mapper's devices: the kernel's name (dm-1) and the one that was given."""
    files = sorted(machine.path("/sys/block").glob("dm-*/dm/name"))
    return [(file.parts[-3], file.read_text(encoding="ascii").strip()) for file in files]
