"""Room on the disk: how much there is, and how much of it stays free."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class Disk:
    """Bytes of a file system: free for us, and all."""

    free: int
    size: int


def disk(folder: Path) -> Disk:
    """The file system of a folder, or of the nearest one above that is there."""
    while not folder.exists():
        folder = folder.parent
    at = os.statvfs(folder)
    return Disk(at.f_bavail * at.f_frsize, at.f_blocks * at.f_frsize)


def kept_free(text: str, size: int) -> int:
    """The bytes that `keep_free` (`5%`, `20GB`, `0`) leaves free on a file system of `size` bytes."""
    if text.endswith("%"):
        return size * int(text[:-1]) // 100
    if text[-2:] in UNITS:
        return int(text[:-2]) * UNITS[text[-2:]]
    return int(text)
