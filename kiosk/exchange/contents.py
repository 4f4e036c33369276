"""What a disk holds, as far as it can be read as data: partitions, operating system. Nothing is mounted."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from kiosk.disk.volume import Volume
from kiosk.errors import CorruptError
from kiosk.exchange.confined import confined, hand_over, take_back
from kiosk.exchange.formats import TRUNCATED
from kiosk.model.manifest import Partition
from kiosk.run import CommandError

UNKNOWN = "unknown"
OS_RELEASE = (b"/etc/os-release", b"/usr/lib/os-release")
LARGEST_OS_RELEASE = 64 << 10
MOST_PARTITIONS = 128
_LINE = re.compile(r"""(ID|VERSION_ID|VERSION_CODENAME)=["']?([A-Za-z0-9][A-Za-z0-9._-]{0,39})["']?""")
_GPT = b"EFI PART"


@dataclass(frozen=True)
class System:
    """An operating system by the names that its own os-release has; `unknown` where it can't be read."""

    os: str = UNKNOWN
    release: str = UNKNOWN


def partitions(job: Path, disk: Path, shown: str) -> tuple[Partition, ...]:
    """The partitions of a disk, from its GPT or MBR; none where it has no table. CorruptError when one goes on
    behind the disk's end, as on a disk that was cut short."""
    size = disk.stat().st_size
    with disk.open("rb") as f:
        head = f.read(1024)
    _refuse_cut(head, size, shown)
    if head[510:512] != b"\x55\xaa":
        return ()
    hand_over(disk)
    try:
        said = confined(["sfdisk", "--json", disk.name], job, timeout=60)
    except CommandError:
        return ()  # a boot sector without a table
    finally:
        take_back(disk)
    try:
        table = json.loads(said)["partitiontable"]
        rows, sector = table.get("partitions", [])[:MOST_PARTITIONS], int(table.get("sectorsize", 512))
        found = tuple(_partition(row, number, sector) for number, row in enumerate(rows, 1))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CorruptError("has a table of partitions that can't be read", where=shown) from None
    for one in found:
        if one.offset + one.size > size:
            raise CorruptError(
                f"has {size} bytes, and its partition {one.label} ends at {one.offset + one.size}",
                where=shown,
                hint=TRUNCATED,
            )
    return found


def _refuse_cut(head: bytes, size: int, shown: str) -> None:
    """A GPT says where its disk ends: in its header is the place of its copy, in the last sector."""
    if head[512:520] == _GPT:
        (copy,) = struct.unpack_from("<Q", head, 512 + 32)
        if (copy + 1) * 512 > size:
            raise CorruptError(
                f"has {size} bytes, its GPT says {(copy + 1) * 512}", where=shown, hint=TRUNCATED
            )


def _partition(row: dict[str, object], number: int, sector: int) -> Partition:
    label = "".join(c for c in str(row.get("name", "")) if c.isprintable())[:36]
    return Partition(
        label=label or str(number),
        type=str(row["type"])[:36],
        uuid=str(row.get("uuid", ""))[:36],
        offset=int(str(row["start"])) * sector,
        size=int(str(row["size"])) * sector,
    )


def system(volume: Volume) -> System:
    """The operating system of a root file system, by its os-release."""
    found: dict[bytes, dict[str, str]] = {}
    for node in volume.nodes():
        if node.path in OS_RELEASE and node.mode & 0o170000 == 0o100000 and node.size <= LARGEST_OS_RELEASE:
            text = b"".join(volume.read(node)).decode("utf-8", errors="replace")
            matches = (_LINE.fullmatch(line.strip()) for line in text.splitlines())
            found[node.path] = {m[1]: m[2] for m in matches if m is not None}
    words = next((found[path] for path in OS_RELEASE if path in found), {})
    release = words.get("VERSION_CODENAME") or words.get("VERSION_ID") or UNKNOWN
    return System(words.get("ID", UNKNOWN), release)
