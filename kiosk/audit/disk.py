"""A finished disk image, opened read-only and never mounted: its root file system for the audit, and a look at what
stands beside it. Partitions that nobody could look into are findings."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kiosk import clock, files
from kiosk.audit.audit import Progress, audit
from kiosk.audit.model import Facts, Hit, Report
from kiosk.disk.disk import Disk, Part, probe, system
from kiosk.errors import CorruptError, MissingToolError, NotFoundError
from kiosk.pipe import told

_BOOT_FILES = re.compile(
    r"::/(?:EFI/(?:[^/]+/)*(?:[^/]+\.(?:efi|csv|mui|ttf|pf2|mod)|grub\.cfg)|loader/(?:entries/[^/]+\.conf"
    r"|loader\.conf|entries\.srel)|[^/]+\.efi|startup\.nsh)",
    re.IGNORECASE,
)
"""What belongs on an EFI system partition."""
_SILENT = ("empty", "verity")
_SECONDS = 60
_MOST_LISTED = 1 << 20


def audit_disk(
    path: Path, facts: Facts, *, progress: Progress = lambda n: None, now: clock.Clock = clock.now
) -> Report:
    """Audits the raw disk image in the file `path`; the report names the digest of the bytes that were read.

    The file is hashed first, and must be the same file, not written to, renamed or replaced, when all is read. Raises
    NotFoundError when there is none, UsageError when it is of another format or encrypted, CorruptError when it is
    damaged, when its digest is not the one that `facts` say, and when it was changed meanwhile.
    """
    try:
        source = path.open("rb")
    except FileNotFoundError:
        raise NotFoundError("there is no such disk image", where=str(path)) from None
    with source:
        before = _state(os.fstat(source.fileno()))
        disk = probe(path)
        digest = files.sha256(source)
        if facts.disk not in ("", digest):
            raise CorruptError(
                f"has the digest {digest}, the manifest says {facts.disk}",
                where=str(path),
                hint="The built files were changed; build the version again.",
            )
        with system(path) as (volume, joined):
            beside = [hit for part in disk.parts if part.number not in joined for hit in _beside(disk, part)]
            report = audit(volume, replace(facts, disk=digest), beside=beside, progress=progress, now=now)
        if not path.exists() or _state(path.stat()) != before or _state(os.fstat(source.fileno())) != before:
            raise CorruptError("was changed while it was audited", where=str(path), hint="Audit it again.")
        return report


def _state(found: os.stat_result) -> tuple[int, ...]:
    """What is another one after a file was written to, renamed or replaced."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _beside(disk: Disk, part: Part) -> Iterator[Hit]:
    """What a part that is not in the tree holds, as far as it can be told."""
    where = f"/dev/{part.name or part.number}".encode()
    if part.kind in _SILENT:
        return
    if part.kind == "vfat":
        yield from _efi(disk.path, part, where)
        return
    yield Hit("unexamined", where, f"partition {part.number} holds {part.kind}, and nobody looked into it")


def _efi(path: Path, part: Part, where: bytes) -> Iterator[Hit]:
    """The names on an EFI system partition; only what boots belongs there."""
    try:
        argv = ["mdir", "-/", "-b", "-i", f"{path}@@{part.offset}", "::"]
        listed = told(argv, timeout=_SECONDS, most=_MOST_LISTED)
    except MissingToolError as e:
        yield Hit("unexamined", where, f"the EFI system partition can't be listed: {e.what}")
        return
    if listed.status or listed.late or listed.cut:
        why = "its list has no end" if listed.late or listed.cut else listed.error.strip()[:300]
        yield Hit("unexamined", where, f"the EFI system partition can't be listed: {why}")
        return
    for name in listed.text.splitlines():
        if name and not name.endswith("/") and not _BOOT_FILES.fullmatch(name):
            file = b"/boot/efi" + name.removeprefix("::").encode()
            check = "random-seed" if name.lower().endswith("random-seed") else "unexamined"
            yield Hit(check, file, "a file on the EFI system partition that is not for booting")
