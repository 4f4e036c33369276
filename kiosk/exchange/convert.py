"""A disk image of any format made a raw disk by qemu-img, which is told the format and confined to one folder.

Whatever the bytes say, the result is a disk of at most the size that was allowed, or an error and no result.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from kiosk.errors import CorruptError, PolicyError, StorageError
from kiosk.exchange.confined import confined, hand_over, take_back
from kiosk.exchange.formats import DRIVERS, HINT_ALONE, TRUNCATED, Format, refuse_references
from kiosk.run import CommandError

SLOWEST = 2_000_000
"""Bytes a second that a conversion must reach, beside two minutes that it always has."""
LOOK = 120.0
LEAKS_ONLY, NOT_SUPPORTED = 3, 63
GIVEN, DISK = "given", "disk.raw"
FULL = re.compile(r"[Nn]o space left on device|[Dd]isk quota exceeded")


def to_raw(job: Path, format: Format, most: int, shown: str) -> Path:
    """Makes `disk.raw` in the folder `job` of the file `given` there (see `confined.prepare`). `shown` is how it is
    called in errors: CorruptError for a damaged image, PolicyError for one that is too large, encrypted or not
    alone, StorageError for a full disk."""
    given, disk = job / GIVEN, job / DISK
    refuse_references(given, shown, format)
    if format == "raw":
        size = given.stat().st_size
        _refuse_size(size, most, shown)
        given.rename(disk)
        return disk
    hand_over(given)
    driver = DRIVERS[format]
    size = _look(job, driver, most, shown)
    _check(job, driver, shown)
    disk.touch()
    hand_over(disk)
    argv = ["qemu-img", "convert", "-f", driver, "-O", "raw", GIVEN, DISK]
    try:
        confined(argv, job, timeout=LOOK + size / SLOWEST, largest=size + (1 << 20))
    except CommandError as e:
        if FULL.search(e.output):
            hint = "Free some space and run the command again; nothing was left half-written."
            raise StorageError("no space left on device", where=str(job.parent), hint=hint) from None
        raise _damaged(e, format, shown) from None
    take_back(disk)
    given.unlink()
    return disk


def _look(job: Path, driver: str, most: int, shown: str) -> int:
    """The size of the disk. Refuses what names other files: also what only qemu-img has seen."""
    try:
        said = confined(["qemu-img", "info", "--output=json", "-f", driver, GIVEN], job, timeout=LOOK)
        facts = json.loads(said)
        size, more = int(facts["virtual-size"]), facts.get("format-specific", {}).get("data", {})
    except CommandError as e:
        raise _damaged(e, driver, shown) from None
    except (ValueError, KeyError, AttributeError, RecursionError):
        raise CorruptError("qemu-img says nothing sensible about it", where=shown, hint=TRUNCATED) from None
    if (
        facts.get("backing-filename")
        or facts.get("full-backing-filename")
        or more.get("data-file")
        or _others(more)
    ):
        raise PolicyError("names other files", where=shown, hint=HINT_ALONE)
    if facts.get("encrypted"):
        raise PolicyError("is encrypted", where=shown, hint="Import it decrypted: kiosk keeps no secrets.")
    _refuse_size(size, most, shown)
    return size


def _others(more: dict[str, Any]) -> bool:
    extents = more.get("extents", [])
    return len(extents) > 1 or any(e.get("filename") != GIVEN for e in extents)


def _refuse_size(size: int, most: int, shown: str) -> None:
    if size > most:
        raise PolicyError(
            f"is a disk of {size} bytes, more than the {most} that are allowed",
            where=shown,
            hint="If that is right, allow more with --max-size.",
        )
    if not size:
        raise CorruptError("is a disk without any byte", where=shown)


def _check(job: Path, driver: str, shown: str) -> None:
    """CorruptError where the format has a consistency of its own and it does not hold."""
    if driver == "vpc":
        return  # qemu-img has no check for it; opening it has looked at its end
    try:
        confined(["qemu-img", "check", "-q", "-f", driver, GIVEN], job, timeout=LOOK * 5)
    except CommandError as e:
        if e.status not in (LEAKS_ONLY, NOT_SUPPORTED):
            raise _damaged(e, driver, shown) from None


def _damaged(error: CommandError, format: str, shown: str) -> CorruptError:
    lines = [line.strip() for line in error.output.splitlines() if line.strip()]
    said = "".join(c for c in (lines[0] if lines else "no reason given") if c.isprintable())[:200]
    said = said.removeprefix("qemu-img: ").replace(GIVEN, "it")
    return CorruptError(f"can't be read as {format}: {said}", where=shown, hint=TRUNCATED)
