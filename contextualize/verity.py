"""dm-verity for layers: the kernel checks every block of a layer against the signed root hash, whenever it is read.

All parameters come from the signed manifest, none from the disk. What a hypervisor changes in a layer's disk, before
the boot or at any time after it, is an I/O error for whoever reads it; it is never read as if it were the layer's.
Every guest's kernel has dm-verity, for its root; an image without the program `dmsetup` goes without it for layers.
"""

from __future__ import annotations

from typing import List

from contextualize.errors import Refused
from contextualize.machine import Machine
from contextualize.manifest import BLOCK, Verity
from contextualize.rules import squashfs_fault

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
    machine.run(["dmsetup", "create", "--readonly", name, "--table", table])
    device = f"/dev/mapper/{name}"
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
    found = []
    for file in sorted(machine.path("/sys/block").glob("dm-*/dm/name")):
        name = file.read_text(encoding="ascii").strip()
        if name.startswith(PREFIX) and " verity C" in machine.run(["dmsetup", "status", name]):
            found.append(name[len(PREFIX) :])
    return found
