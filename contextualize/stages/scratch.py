"""Stage `scratch`: gives the machine its scratch space, from a disk that the launcher added.

A disk with nothing recognisable on it gets a file system; one that was made here before is used again; one
with anything else is refused, because somebody's data may be on it. Scratch space lives as long as the
machine, so the file system has no journal. A part of it becomes swap space where the context says so, in a file
that only root reads.
"""

from __future__ import annotations

from contextualize.context import Scratch
from contextualize.errors import Refused
from contextualize.machine import Machine

LABEL = "kiosk-scratch"
SWAP = ".kiosk-swap"
CLOSED = ("/boot", "/dev", "/etc", "/opt", "/proc", "/root", "/run", "/sys", "/usr", "/bin", "/sbin", "/lib", "/lib32",
          "/lib64", "/libx32", "/cvmfs", "/afs", "/nix", "/snap")  # fmt: skip
"""What the base has, and where jobs take software from."""


def run(machine: Machine, scratch: Scratch) -> None:
    """Makes a file system where there is none, and mounts it for everybody."""
    if any(f"{scratch.mount}/".startswith(f"{folder}/") for folder in CLOSED) or machine.filled(
        scratch.mount
    ):
        raise Refused(f"scratch: {scratch.mount} is in use by the base")
    disk = machine.appears([machine.disk(scratch.device)], 30)
    device = str(machine.path(disk))
    found = _recognise(machine, device)
    if found == {}:
        machine.run(
            ["mkfs.ext4", "-q", "-F", "-m", "0", "-L", LABEL, "-O", "^has_journal",
             "-E", "lazy_itable_init=1,root_owner=0:0", device],
            timeout=300,
        )  # fmt: skip
    elif (found.get("TYPE"), found.get("LABEL")) != ("ext4", LABEL):
        raise Refused(
            f"scratch: the disk {scratch.device} holds {found.get('TYPE', 'a partition table')} already"
        )
    machine.folder(scratch.mount)
    machine.mount(disk, scratch.mount, "ext4", "rw,nosuid,nodev,noatime")
    machine.path(scratch.mount).chmod(0o1777)
    if scratch.swap:
        _swap(machine, f"{scratch.mount}/{SWAP}", scratch.swap)


def _swap(machine: Machine, file: str, mebibytes: int) -> None:
    """Makes the file anew: its old content is of another life of this disk. Refused where it does not fit."""
    machine.path(file).unlink(missing_ok=True)
    machine.create(file, b"", 0o600)
    path = str(machine.path(file))
    machine.run(["fallocate", "--length", f"{mebibytes}MiB", path])
    machine.run(["mkswap", path])
    machine.run(["swapon", path])


def _recognise(machine: Machine, device: str) -> dict[str, str]:
    """What blkid sees on a disk: nothing, or a file system, a partition table, several of them."""
    text = machine.run(["sh", "-c", 'blkid -p -o export "$1" || [ $? = 2 ]', "sh", device])
    return dict(
        line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("DEVNAME=")
    )
