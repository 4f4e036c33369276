"""What a disk holds, as far as it can be read as data: partitions, operating system, files. Nothing is mounted.

That a disk can't be read is no fault of an image: it is kept as it is, and what is not known of it is not said. Only
what can never boot here, or was not copied to its end, is refused. The reading has a budget (kiosk.exchange.budget).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from kiosk.disk.content import ENCRYPTED
from kiosk.disk.disk import probe, root_volume
from kiosk.disk.partitions import table
from kiosk.disk.volume import Node, zeros
from kiosk.errors import (
    BuildError,
    CorruptError,
    KioskError,
    MissingToolError,
    PolicyError,
    StorageError,
)
from kiosk.exchange import budget
from kiosk.exchange.budget import Budget, Metered
from kiosk.exchange.formats import TRUNCATED
from kiosk.model.census import FileEntry, write_files, write_packages
from kiosk.model.manifest import Partition
from kiosk.packages import Installed, installed

UNKNOWN = "unknown"
OS_RELEASE = (b"/etc/os-release", b"/usr/lib/os-release")
LARGEST_OS_RELEASE = 64 << 10
_LINE = re.compile(r"""(ID|VERSION_ID|VERSION_CODENAME)=["']?([A-Za-z0-9][A-Za-z0-9._-]{0,39})["']?""")


@dataclass(frozen=True)
class Inside:
    """The system on a disk by its own words, the lists made of it (artifact by file name), and why there is none."""

    os: str | None = None
    release: str | None = None
    lists: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[Installed, ...] = ()
    unread: str | None = None


def partitions(disk: Path, shown: str) -> tuple[Partition, ...]:
    """The partitions of a disk, from its GPT or MBR; none where it has no table. CorruptError when one goes on
    behind the disk's end, as on a disk that was cut short; PolicyError when one is encrypted."""
    try:
        for part in probe(disk).parts:
            if part.kind in ENCRYPTED:
                raise PolicyError(
                    f"its partition {part.number} is encrypted ({ENCRYPTED[part.kind]})",
                    hint="Import it decrypted: kiosk keeps no secrets, and nobody could start it.",
                )
    except KioskError as e:
        e.where = shown
        raise
    with disk.open("rb") as f:
        _refuse_cut(f.read(1024), os.fstat(f.fileno()).st_size, shown)
        found = table(f.fileno(), os.fstat(f.fileno()).st_size).partitions
    return tuple(
        Partition(
            label="".join(c for c in p.name if c.isprintable())[:36] or str(p.number),
            type=p.type,
            uuid=p.uuid,
            offset=p.area.offset,
            size=p.area.size,
        )
        for p in found
    )


def _refuse_cut(head: bytes, size: int, shown: str) -> None:
    """A GPT says where its disk ends: in its header is the place of its copy, in the last sector."""
    if head[512:520] == b"EFI PART":
        end = (int.from_bytes(head[544:552], "little") + 1) * 512
        if end > size:
            raise CorruptError(f"has {size} bytes, its GPT says {end}", where=shown, hint=TRUNCATED)


def look_inside(disk: Path, staged: Path, private: Path) -> Inside:
    """Reads the system on a disk and writes the lists of its files and packages to `staged`. Whatever is wrong with it
    is said, and no fault; what is beyond the budget as well. `private` is for what comes between."""
    try:
        with root_volume(disk) as found:
            volume = Metered(found, Budget(disk.stat().st_size + budget.MOST_HOLES + budget.AGAIN))
            inside = read_tree(volume, staged)
            packages = read_packages(volume, private)
    except StorageError:
        raise
    except KioskError as e:
        (staged / "files.json").unlink(missing_ok=True)
        return Inside(unread=e.what)
    if not packages:
        return inside
    (staged / "packages.json").write_bytes(write_packages([p.row() for p in packages]))
    return replace(inside, packages=packages, lists={**inside.lists, "packages": "packages.json"})


def read_packages(volume: Metered, private: Path) -> tuple[Installed, ...]:
    """The packages of a tree; none where it has no database of them that can be read."""
    try:
        return tuple(installed(volume, private))
    except (BuildError, CorruptError, MissingToolError):
        return ()


def read_tree(volume: Metered, staged: Path) -> Inside:
    """The system of a root file system, and the list of its files."""
    releases: dict[bytes, dict[str, str]] = {}
    rows: list[FileEntry] = []
    digests: dict[int, str | None] = {}
    for node in volume.nodes():
        if node.path in OS_RELEASE and stat.S_ISREG(node.mode) and node.size <= LARGEST_OS_RELEASE:
            releases[node.path] = _release(b"".join(volume.read(node)))
        if node.path != b"/":
            rows.append(_row(volume, node, digests))
    (staged / "files.json").write_bytes(write_files(sorted(rows, key=lambda row: row.path)))
    words = next((releases[path] for path in OS_RELEASE if path in releases), {})
    return Inside(
        words.get("ID"), words.get("VERSION_CODENAME") or words.get("VERSION_ID"), {"files": "files.json"}
    )


def _release(data: bytes) -> dict[str, str]:
    lines = data.decode("utf-8", errors="replace").splitlines()
    return {m[1]: m[2] for m in (_LINE.fullmatch(line.strip()) for line in lines) if m is not None}


def _row(volume: Metered, node: Node, digests: dict[int, str | None]) -> FileEntry:
    """A file's row. `digests` are those of files that have more names, which are read once."""
    size = digest = None
    if stat.S_ISREG(node.mode):
        size = node.size
        digest = digests[node.inode] if node.inode in digests else _digest(volume, node)
        if node.links > 1:
            digests[node.inode] = digest
    return FileEntry(
        path=node.path.decode(errors="backslashreplace"),
        mode=f"{node.mode:06o}",
        owner=f"{node.uid}:{node.gid}",
        size=size,
        digest=digest,
        target=node.target.decode(errors="backslashreplace") if node.target is not None else None,
        device=f"{node.device[0]}:{node.device[1]}" if node.device is not None else None,
    )


def _digest(volume: Metered, node: Node) -> str | None:
    """The digest of a file, its holes read as zeros; None where it has more holes than the budget has left."""
    left = volume.budget
    if node.size > left.bytes:
        return None
    sum_ = hashlib.sha256()
    done = 0
    for at, piece in chain(volume.data(node), [(node.size, b"")]):
        if at - done > left.holes:
            return None
        left.holes -= at - done
        for hole in zeros(at - done):
            left.spend(len(hole))
            sum_.update(hole)
        sum_.update(piece)
        done = at + len(piece)
    return sum_.hexdigest()[:32]
