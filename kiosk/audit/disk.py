"""A finished disk image, opened read-only and never mounted: its root file system for the audit, and a look at what
stands beside it. Partitions that nobody could look into are findings."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from kiosk import clock
from kiosk.audit.audit import Progress, audit
from kiosk.audit.model import Facts, Hit, Report
from kiosk.disk.ext4 import Ext4Volume
from kiosk.disk.partitions import Area, Partition, table
from kiosk.disk.volume import Volume
from kiosk.errors import CorruptError, MissingToolError, NotFoundError
from kiosk.run import CommandError, run

_BOOT_FILES = re.compile(
    r"::/(?:EFI/(?:[^/]+/)*(?:[^/]+\.(?:efi|csv|mui|ttf|pf2|mod)|grub\.cfg|BOOTX64\.CSV)|loader/(?:entries/[^/]+\.conf"
    r"|loader\.conf|entries\.srel)|[^/]+\.efi|startup\.nsh)",
    re.I,
)
"""What belongs on an EFI system partition."""
_SECONDS = 60


def audit_disk(
    path: Path, facts: Facts, *, progress: Progress = lambda n: None, now: clock.Clock = clock.now
) -> Report:
    """Audits the disk image in the file `path`. Raises NotFoundError, and CorruptError when there is no file system
    in it that can be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError("there is no such disk image", where=str(path)) from None
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
        volume, beside = _open(fd, size, path)
        return audit(volume, facts, beside=beside, progress=progress, now=now)
    finally:
        os.close(fd)


def _open(fd: int, size: int, path: Path) -> tuple[Volume, list[Hit]]:
    """The root's volume: the first file system that has an /etc; and what was seen beside it."""
    found = table(fd, size)
    partitions = found.partitions or (Partition(0, Area(0, size)),)
    root: Volume | None = None
    beside: list[Hit] = []
    fault: CorruptError | None = None
    for one in partitions:
        if root is None:
            try:
                root = Ext4Volume(fd, one.area.offset, where=str(path))
                continue
            except CorruptError as e:
                fault = e
        beside += _beside(fd, path, one)
    if root is None:
        assert fault is not None
        raise fault
    return root, beside


def _beside(fd: int, path: Path, one: Partition) -> Iterator[Hit]:
    """What a partition other than the root's holds, as far as it can be told."""
    where = f"/dev/{one.name or one.number}".encode()
    head = os.pread(fd, min(one.area.size, 8192), one.area.offset)
    if head.startswith(b"verity\0\0") or not any(head):
        return
    if head[510:512] == b"\x55\xaa" and (b"FAT" in head[54:62] or b"FAT" in head[82:90]):
        yield from _efi(path, one.area, where)
        return
    kinds = ((4086, b"SWAPSPACE2", "swap space"), (0, b"LUKS\xba\xbe", "an encrypted container"), (0, b"XFSB", "XFS"),
             (536, b"LVM2 001", "an LVM volume"), (1080, b"\x53\xef", "another ext file system"))  # fmt: skip
    kind = next((k for at, magic, k in kinds if head[at : at + len(magic)] == magic), "something unknown")
    yield Hit("unexamined", where, f"partition {one.number} holds {kind}")


def _efi(path: Path, area: Area, where: bytes) -> Iterator[Hit]:
    """The names on an EFI system partition; only what boots belongs there."""
    try:
        listed = run(["mdir", "-/", "-b", "-i", f"{path}@@{area.offset}", "::"], timeout=_SECONDS)
    except (CommandError, MissingToolError) as e:
        yield Hit("unexamined", where, f"the EFI system partition can't be listed: {e.what}")
        return
    for name in listed.splitlines():
        if name and not name.endswith("/") and not _BOOT_FILES.fullmatch(name):
            file = b"/boot/efi" + name.removeprefix("::").encode()
            check = "random-seed" if name.lower().endswith("random-seed") else "unexamined"
            yield Hit(check, file, "a file on the EFI system partition that is not for booting")
