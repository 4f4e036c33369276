"""Fixing the state of a running VM's disk and copying it, by commands of QEMU's monitor.

    guest -> copy-before-write -> disk          the guest goes on with its disk
                     |
                     v  what the guest overwrites
                  fleece  <- snapshot-access <- backup job -> target

A plain backup job would be less to set up, but the guest's own writes then fail when the target is full or broken.
Here what the guest overwrites is saved aside; when that fails or takes longer than `PATIENCE` seconds the snapshot
breaks (and the job with it), and the guest notices nothing. Everything has a name that begins with `kiosk-golden`, by
which what a killed kiosk left is found and taken down. Both files are handed to QEMU open, so that it needs no
right to kiosk's folder.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiosk.cloud import untrusted
from kiosk.cloud.qemu.wire import Wire
from kiosk.errors import GuestError, NotFoundError, StorageError, UsageError
from kiosk.files import free_bytes
from kiosk.golden.convert import FULL
from kiosk.progress import bar
from kiosk.run import run

PREFIX = "kiosk-golden"
JOB = PREFIX
FILTER, FLEECE, ACCESS, TARGET = (f"{PREFIX}-{name}" for name in ("filter", "fleece", "access", "target"))
PATIENCE = 30
LONG = 60.0
OLDEST = (7, 1)
ROOM = 64 << 20


@dataclass(frozen=True)
class Disk:
    """A disk of the VM: the node at its top, the device that the guest has it by, its size, and what it uses."""

    node: str
    device: str
    size: int
    used: int


def check_version(wire: Wire) -> None:
    """UsageError where this QEMU can't save aside what a guest overwrites."""
    found = wire.ask("query-version")["qemu"]
    if (found["major"], found["minor"]) < OLDEST:
        raise UsageError(
            f"the node's QEMU {found['major']}.{found['minor']} is too old: 7.1 is needed",
            hint='Capture a snapshot of its disk (kind = "disk"), or over ssh.',
        )


def find(wire: Wire, name: str | None) -> Disk:
    """The disk of a name (of its node, drive or device), or the only one that can be written. NotFoundError."""
    disks, names = [], []
    for block in wire.ask("query-block"):
        inserted = block.get("inserted")
        if not isinstance(inserted, dict) or inserted.get("ro") or not block.get("qdev"):
            continue
        node, qdev, drive = str(inserted["node-name"]), str(block["qdev"]), str(block.get("device", ""))
        image = inserted["image"]
        disk = Disk(node, qdev, int(image["virtual-size"]), _used(image))
        words = {node, drive, qdev, *qdev.split("/")[3:4]} - {""}
        names.append(f"{node} ({qdev})")
        if name is None or name in words:
            disks.append(disk)
    if len(disks) == 1:
        return disks[0]
    what = f"there is no disk {name!r}" if name else f"the VM has {len(disks)} disks that can be written"
    hint = f"Set `disk` in [source] to one of: {', '.join(names) or '(none)'}"
    raise NotFoundError(what, hint=untrusted.line(hint, limit=1000))


def _used(image: dict[str, Any] | None) -> int:
    """The bytes that an image and those below it take; 0 for devices, of which QEMU does not know."""
    used = 0
    while image is not None:
        used += int(image.get("actual-size", 0))
        image = image.get("backing-image")
    return used


def check_room(folder: Path, disk: Disk) -> None:
    """StorageError where the folder clearly has no room for the copy, which is made twice for a while."""
    free, needed = free_bytes(folder), 2 * disk.used + ROOM
    if free < needed:
        raise StorageError(
            f"the copy needs about {needed >> 20} MiB, and there are {free >> 20} MiB", where=str(folder)
        )


def prepare(wire: Wire, disk: Disk, folder: Path) -> None:
    """Makes the files and adds all but what sees the state; the guest is not touched yet."""
    for name, node in (("fleece", FLEECE), ("target", TARGET)):
        path = folder / f"{name}.qcow2"
        run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(disk.size)], timeout=LONG)
        with path.open("r+b") as f:
            lent = wire.ask("add-fd", {"opaque": f"{PREFIX} {disk.node}"}, lend=[f.fileno()])
        file = {"driver": "file", "filename": f"/dev/fdset/{lent['fdset-id']}"}
        wire.ask("blockdev-add", {"driver": "qcow2", "node-name": node, "backing": None, "file": file})
    wire.ask(
        "blockdev-add",
        {
            "driver": "copy-before-write",
            "node-name": FILTER,
            "file": disk.node,
            "target": FLEECE,
            "on-cbw-error": "break-snapshot",
            "cbw-timeout": PATIENCE,
        },
    )


def fix(wire: Wire, disk: Disk, *, timeout: float) -> None:
    """From here on the state is fixed, whatever the guest writes."""
    wire.ask("qom-set", {"path": disk.device, "property": "drive", "value": FILTER}, timeout=timeout)


def copy(wire: Wire, folder: Path, *, speed: int | None, timeout: float, title: str) -> None:
    """Copies the fixed state to `target.qcow2`. StorageError, GuestError."""
    until = time.monotonic() + timeout
    wire.ask("blockdev-add", {"driver": "snapshot-access", "node-name": ACCESS, "file": FILTER}, timeout=LONG)
    job = {"job-id": JOB, "device": ACCESS, "target": TARGET, "sync": "full", "auto-dismiss": False}
    wire.ask("blockdev-backup", {**job, **({"speed": speed} if speed else {})}, timeout=LONG)
    with bar(title, None) as progress:
        while True:
            state = _job(wire)
            if state is None:
                raise GuestError("the copy was ended by somebody else")
            progress.total = int(state.get("total-progress", 0)) or None
            progress.update(int(state.get("current-progress", 0)) - progress.n)
            if state.get("status") == "concluded":
                break
            if time.monotonic() > until:
                raise GuestError(
                    f"the disk was not copied after {timeout:.0f} s",
                    hint="Raise `timeout` or `speed` in [source]. Nothing was kept.",
                )
            time.sleep(0.2)
    error = state.get("error")
    if error:
        raise _failed(untrusted.line(str(error), limit=500), folder)


def _failed(error: str, folder: Path) -> Exception:
    """Why the job failed. A broken snapshot reads as a denied permission; mostly its fleece had no room."""
    if FULL.search(error) or free_bytes(folder) < 1 << 20:
        return StorageError("no space left for the copy of the disk; nothing was kept", where=str(folder))
    return GuestError(f"the disk could not be copied: {error}", hint="The node goes on; nothing was kept.")


def take_down(wire: Wire) -> bool:
    """Gives the guest its disk back and removes all that kiosk made, also what a killed kiosk left; whether
    there was anything."""
    ended = _end_job(wire)
    ours = {str(n["node-name"]) for n in wire.ask("query-named-block-nodes", {"flat": True})}
    ours &= {FILTER, FLEECE, ACCESS, TARGET}
    sets = [s for s in wire.ask("query-fdsets") if any(_lent(fd) is not None for fd in s["fds"])]
    if ACCESS in ours:
        wire.ask("blockdev-del", {"node-name": ACCESS}, timeout=LONG)
    if FILTER in ours:
        _give_back(wire, sets)
        wire.ask("blockdev-del", {"node-name": FILTER}, timeout=LONG)
    for node in (FLEECE, TARGET):
        if node in ours:
            wire.ask("blockdev-del", {"node-name": node}, timeout=LONG)
    left = {s["fdset-id"] for s in wire.ask("query-fdsets")} & {s["fdset-id"] for s in sets}
    for number in left:
        wire.ask("remove-fd", {"fdset-id": number})
    return ended or bool(ours or sets)


def _give_back(wire: Wire, sets: list[dict[str, Any]]) -> None:
    """Takes the filter out of the guest's path. The disk's own node stands beside the files that were lent."""
    for block in wire.ask("query-block"):
        inserted = block.get("inserted")
        if isinstance(inserted, dict) and inserted.get("node-name") == FILTER:
            nodes = {node for s in sets for fd in s["fds"] if (node := _lent(fd)) is not None}
            if len(nodes) != 1:
                raise GuestError(f"QEMU does not know which disk {block.get('qdev')} had")
            change = {"path": block["qdev"], "property": "drive", "value": nodes.pop()}
            wire.ask("qom-set", change, timeout=LONG)


def _lent(fd: dict[str, Any]) -> str | None:
    """The disk's node for which a file was lent, None for a file that isn't kiosk's."""
    first, _, node = str(fd.get("opaque", "")).partition(" ")
    return node if first == PREFIX and node else None


def _end_job(wire: Wire) -> bool:
    """Cancels and dismisses the job, where there is one."""
    until = time.monotonic() + LONG
    seen = False
    while (state := _job(wire)) is not None:
        if state.get("status") == "concluded":
            wire.ask("job-dismiss", {"id": JOB})
        elif not seen:
            wire.ask("block-job-cancel", {"device": JOB, "force": True})
        elif time.monotonic() > until:
            raise GuestError("the copy in QEMU does not end")
        seen = True
        time.sleep(0.05)
    return seen


def _job(wire: Wire) -> dict[str, Any] | None:
    found = [job for job in wire.ask("query-jobs") if job.get("id") == JOB]
    return dict(found[0]) if found else None
