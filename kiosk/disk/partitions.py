"""Where file systems begin on a disk: a GPT's partitions (UEFI specification 2.10, 5.3), an MBR's with the logical
ones in its extended partition, or the whole disk. Whatever the bytes say, areas lie inside the disk and end.
"""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

SECTOR = 512
MAX_ENTRIES = 1024
MAX_LOGICAL = 128
_SIGNATURE = b"EFI PART"
_BOOT = b"\x55\xaa"
_MBR_ENTRY = struct.Struct("<B3xB3xII")
_MBR_ENTRIES = 446
_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE


@dataclass(frozen=True)
class Area:
    """A stretch of the disk in bytes."""

    offset: int
    size: int


@dataclass(frozen=True)
class Partition:
    """An entry of a table: its number, as Linux counts; on a GPT its own identity and its name. `type` is what it is
    said to be for: a GPT's UUID in upper case, an MBR's byte in hexadecimal."""

    number: int
    area: Area
    uuid: str = ""
    name: str = ""
    type: str = ""


@dataclass(frozen=True)
class Table:
    """What a disk's table says. `outside` are partitions that end behind the end of the disk."""

    kind: str
    """`gpt`, `mbr`, or `none`."""
    partitions: tuple[Partition, ...]
    outside: tuple[Partition, ...] = ()


def areas(fd: int, size: int) -> list[Area]:
    """The partitions of the disk open as `fd`, in the order of the table; the whole disk when it has no table."""
    found = table(fd, size)
    return [Area(0, size)] if found.kind == "none" else [p.area for p in found.partitions]


def table(fd: int, size: int) -> Table:
    """The partition table of a disk of `size` bytes open as `fd`."""
    for sector in (SECTOR, 4096):
        if os.pread(fd, 8, sector) == _SIGNATURE:
            return _sorted("gpt", _gpt(fd, size, sector), size)
    entries = list(_mbr(fd, size))
    return _sorted("mbr", entries, size) if entries else Table("none", ())


def _sorted(kind: str, entries: list[Partition], size: int) -> Table:
    inside = tuple(p for p in entries if p.area.offset + p.area.size <= size)
    return Table(kind, inside, tuple(p for p in entries if p not in inside))


def _gpt(fd: int, size: int, sector: int) -> list[Partition]:
    head = os.pread(fd, 92, sector)
    if len(head) < 92:
        return []
    (at,) = struct.unpack_from("<Q", head, 72)
    entries, length = struct.unpack_from("<II", head, 80)
    if not 128 <= length <= 4096:
        return []
    data = os.pread(fd, min(entries, MAX_ENTRIES) * length, min(at * sector, size))
    found = []
    for number, begin in enumerate(range(0, len(data) - 127, length), start=1):
        first, last = struct.unpack_from("<QQ", data, begin + 32)
        if not any(data[begin : begin + 16]) or first > last:
            continue
        own = str(uuid.UUID(bytes_le=data[begin + 16 : begin + 32]))
        name = data[begin + 56 : begin + 128].decode("utf-16-le", errors="replace").split("\0")[0]
        kind = str(uuid.UUID(bytes_le=data[begin : begin + 16])).upper()
        found.append(Partition(number, Area(first * sector, (last + 1 - first) * sector), own, name, kind))
    return found


def _mbr(fd: int, size: int) -> Iterator[Partition]:
    """The partitions of an MBR; none where the sector is the beginning of a file system, as FAT's looks alike."""
    sector = os.pread(fd, SECTOR, 0)
    entries = _entries(sector)
    if not any(kind for _, kind, _, _ in entries) or any(status & 0x7F for status, _, _, _ in entries):
        return
    if any(kind and not start for _, kind, start, _ in entries):
        return
    disk = struct.unpack_from("<I", sector, 440)[0]
    for number, (_, kind, start, count) in enumerate(entries, start=1):
        if kind in _EXTENDED and count:
            yield from _logical(fd, size, start, disk)
        elif kind and kind != _PROTECTIVE and count:
            yield _partition(number, start, count, disk, kind)


def _logical(fd: int, size: int, extended: int, disk: int) -> Iterator[Partition]:
    """The chain of tables in an extended partition, each naming one partition and the next table."""
    at, seen = extended, set[int]()
    while at not in seen and len(seen) < MAX_LOGICAL and at * SECTOR < size:
        seen.add(at)
        entries = _entries(os.pread(fd, SECTOR, at * SECTOR))
        following = 0
        for _, kind, start, count in entries[:2]:
            if kind in _EXTENDED and start:
                following = following or extended + start
            elif kind and start and count:
                yield _partition(4 + len(seen), at + start, count, disk, kind)
        if not following:
            return
        at = following


def _entries(sector: bytes) -> list[tuple[int, int, int, int]]:
    """(status, kind, first sector, sectors) of the four entries of a table; none where there is no table."""
    if len(sector) < SECTOR or sector[510:] != _BOOT:
        return []
    return [_MBR_ENTRY.unpack_from(sector, _MBR_ENTRIES + 16 * i) for i in range(4)]


def _partition(number: int, start: int, count: int, disk: int, kind: int) -> Partition:
    area = Area(start * SECTOR, count * SECTOR)
    return Partition(number, area, f"{disk:08x}-{number:02x}", type=f"{kind:02X}")
