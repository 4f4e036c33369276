"""Where file systems begin on a disk: a GPT's partitions (UEFI specification 2.10, 5.3), or the whole disk."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

SECTOR = 512
MAX_ENTRIES = 1024
_SIGNATURE = b"EFI PART"


@dataclass(frozen=True)
class Area:
    """A stretch of the disk in bytes."""

    offset: int
    size: int


def areas(fd: int, size: int) -> list[Area]:
    """The partitions of the disk open as `fd`, in the order of the table; the whole disk when it has no GPT."""
    head = os.pread(fd, 92, SECTOR)
    if len(head) < 92 or head[:8] != _SIGNATURE:
        return [Area(0, size)]
    (table,) = struct.unpack_from("<Q", head, 72)
    entries, length = struct.unpack_from("<II", head, 80)
    if not 128 <= length <= 4096:
        return []
    data = os.pread(fd, min(entries, MAX_ENTRIES) * length, min(table * SECTOR, size))
    found = []
    for at in range(0, len(data) - 127, length):
        first, last = struct.unpack_from("<QQ", data, at + 32)
        if any(data[at : at + 16]) and first <= last and (last + 1) * SECTOR <= size:
            found.append(Area(first * SECTOR, (last + 1 - first) * SECTOR))
    return found
