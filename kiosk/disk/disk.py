"""A whole disk in a file or device, read as data: what its parts hold, and the tree of the system that is on it.

What can't be read is named: other formats than a raw disk, encryption, volume managers, unknown file systems,
disks that were cut off, file systems that are damaged or whose journal was not replayed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kiosk.disk import ext4, fstab, mounted
from kiosk.disk.content import ENCRYPTED, EXT, Content, container, identify
from kiosk.disk.ext4 import Ext4Volume
from kiosk.disk.folder import FolderVolume
from kiosk.disk.joined import JoinedVolume
from kiosk.disk.partitions import Area, Partition, table
from kiosk.disk.volume import SparseVolume
from kiosk.errors import CorruptError, KioskError, StorageError, UsageError

Root = Ext4Volume | FolderVolume
_RELEASES = (b"/etc/os-release", b"/usr/lib/os-release")
_SUBVOLUMES = ("@", "@rootfs", "root")
"""What installers call the subvolume of the root where it isn't the one that is mounted by default."""


@dataclass(frozen=True)
class Part:
    """A partition, or the whole disk as number 0: where it is and what is in it. `kind` is as in
    `kiosk.disk.content`, `partition` the identity that a GPT or MBR gives it and `name` a GPT's name."""

    number: int
    offset: int
    size: int
    content: Content
    partition: str = ""
    name: str = ""

    @property
    def kind(self) -> str:
        return self.content.kind


@dataclass(frozen=True)
class Disk:
    """`kind` is `gpt`, `mbr`, or `none`: a disk without a table has one part."""

    path: Path
    size: int
    kind: str
    parts: tuple[Part, ...]


def probe(path: Path) -> Disk:
    """What is on the raw disk in the file or device `path`.

    Raises UsageError for other formats than raw, CorruptError where partitions end behind its end.
    """
    with _opened(path) as fd:
        size = os.lseek(fd, 0, os.SEEK_END)
        if not size:
            raise UsageError("the file is empty", where=str(path))
        if (other := container(fd, size)) is not None:
            name, hint = other
            raise UsageError(f"this is {name}, and a raw disk is wanted", where=str(path), hint=hint)
        found = table(fd, size)
        for partition in found.outside:
            end = partition.area.offset + partition.area.size
            raise CorruptError(
                f"the disk is cut off: it has {size} bytes, and partition {partition.number} ends at {end}",
                where=str(path),
            )
        partitions = [Partition(0, Area(0, size))] if found.kind == "none" else found.partitions
        parts = [
            Part(
                p.number, p.area.offset, p.area.size, identify(fd, p.area.offset, p.area.size), p.uuid, p.name
            )
            for p in partitions
        ]
        return Disk(path, size, found.kind, tuple(parts))


def recover(path: Path) -> None:
    """Replays the journals of all file systems of the ext family on a private copy of a disk. Changes it."""
    for part in probe(path).parts:
        if part.kind in EXT:
            ext4.recover(path, part.offset, part.size)


def check(path: Path) -> None:
    """CorruptError with what is wrong when a file system of the ext family on a disk is damaged. Changes nothing."""
    for part in probe(path).parts:
        if part.kind in EXT:
            ext4.check(path, part.offset)


@contextlib.contextmanager
def root_volume(path: Path, *, allow_mount: bool = False) -> Iterator[SparseVolume]:
    """The tree of the system on a raw disk: the file system with /etc and an os-release, and those that its
    /etc/fstab puts below /boot, /usr, /var and the like, while the block lasts.

    ext2, ext3, and ext4 are read as data. XFS and btrfs are mounted by the kernel, read-only, where `allow_mount`
    says so: for golden nodes' own disks. Raises UsageError where no such tree can be read, and says why;
    CorruptError for damage.
    """
    with system(path, allow_mount=allow_mount) as (volume, _):
        yield volume


@contextlib.contextmanager
def system(path: Path, *, allow_mount: bool = False) -> Iterator[tuple[SparseVolume, frozenset[int]]]:
    """As `root_volume`, and the numbers of the parts that the tree is made of."""
    disk = probe(path)
    with contextlib.ExitStack() as stack:
        fd = stack.enter_context(_opened(path))
        reader = _Reader(disk, fd, stack, allow_mount)
        part, root = reader.root()
        others = reader.others(part, root)
        numbers = frozenset({part.number, *reader.joined})
        yield (JoinedVolume(root, others) if others else root), numbers


class _Reader:
    """Opens the parts of a disk; what it opened lasts as long as `stack`."""

    def __init__(self, disk: Disk, fd: int, stack: contextlib.ExitStack, allow_mount: bool) -> None:
        self._disk = disk
        self._fd = fd
        self._stack = stack
        self._allow_mount = allow_mount
        self.joined: set[int] = set()

    def root(self) -> tuple[Part, Root]:
        found: list[tuple[Part, Root]] = []
        problems: list[KioskError] = []
        for part in self._disk.parts:
            try:
                found.extend((part, volume) for volume in self._candidates(part) if _is_root(volume))
            except CorruptError as e:
                problems.append(e)
        if len(found) == 1:
            return found[0]
        if found:
            numbers = ", ".join(str(part.number) for part, _ in found)
            raise UsageError(f"there is more than one system (parts {numbers})", where=str(self._disk.path))
        raise problems[0] if problems else self._nothing()

    def others(self, part: Part, root: Root) -> dict[bytes, SparseVolume]:
        """The volumes that belong to the tree, by the folders they are mounted on."""
        node = root.find(b"/etc/fstab")
        if node is None or node.mode >> 12 != 0o10 or node.size > fstab.MAX_SIZE:
            return {}
        lines = list(fstab.entries(b"".join(root.read(node))))
        own = next((e.device for e in lines if e.folder == b"/" and e.device), None)
        found: dict[bytes, SparseVolume] = {}
        for entry in lines:
            if entry.folder == b"/":
                continue
            other = self._named(entry, own, part)
            if other is None and entry.may_be_missing:
                continue
            if other is None or other.kind not in (*EXT, *mounted.KINDS):
                folder = entry.folder.decode(errors="backslashreplace")
                raise UsageError(
                    f"{folder} is a file system of its own ({entry.source}) that isn't to be found on this disk",
                    where=str(self._disk.path),
                    hint="Move it to the root file system, or take the snapshot from the running node.",
                )
            found[entry.folder] = self._open(other, entry.subvolume)
            self.joined.add(other.number)
        return found

    def _named(self, entry: fstab.Entry, own: tuple[str, int] | None, root: Part) -> Part | None:
        tag, _, value = entry.source.partition("=")
        for part in self._disk.parts:
            names = {
                "UUID": part.content.uuid,
                "LABEL": part.content.label,
                "PARTUUID": part.partition,
                "PARTLABEL": part.name,
            }
            device = own and entry.device == (own[0], part.number) and own[1] == root.number
            if (value and names.get(tag, "").lower() == value.lower()) or device:
                return part
        return None

    def _candidates(self, part: Part) -> Iterator[Root]:
        if part.kind in EXT:
            yield self._open(part)
        elif part.kind in mounted.KINDS and self._allow_mount:
            yield (whole := self._open(part))
            if part.kind == "btrfs" and not _is_root(whole):
                for name in _SUBVOLUMES:
                    if whole.find(name.encode().join([b"/", b""])) is not None:
                        yield self._open(part, name)

    def _open(self, part: Part, subvolume: str | None = None) -> Root:
        path = self._disk.path
        if part.kind in EXT:
            return Ext4Volume(self._fd, part.offset, where=f"{path}, {_name(part)}")
        if not self._allow_mount:
            raise self._nothing()
        return self._stack.enter_context(
            mounted.volume(path, part.offset, part.size, part.kind, subvolume=subvolume)
        )

    def _nothing(self) -> UsageError:
        """Why there is no tree to be read."""
        parts, where = self._disk.parts, str(self._disk.path)
        for part in parts:
            if part.kind in ENCRYPTED:
                return UsageError(
                    f"the disk is encrypted ({ENCRYPTED[part.kind]}, {_name(part)})",
                    where=where,
                    hint="Unlock it (cryptsetup open) and give the unlocked device.",
                )
        for part in parts:
            if part.kind == "lvm":
                return UsageError(
                    f"the disk holds logical volumes (LVM, {_name(part)})",
                    where=where,
                    hint="Give the device of the logical volume with the root file system, or a snapshot of it.",
                )
        for part in parts:
            if part.kind in mounted.KINDS and not self._allow_mount:
                return UsageError(
                    f"there is {part.kind} in {_name(part)}, which only the kernel can read",
                    where=where,
                    hint="kiosk mounts it for golden nodes' own disks, never for images.",
                )
        held = ", ".join(f"{_name(part)}: {part.kind}" for part in parts) or "no partitions"
        return UsageError(f"no root file system was found ({held})", where=where)


def _is_root(volume: Root) -> bool:
    etc = volume.find(b"/etc")
    return etc is not None and any(volume.find(name) is not None for name in _RELEASES)


def _name(part: Part) -> str:
    return f"partition {part.number}" if part.number else "the whole disk"


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        f = path.open("rb", buffering=0)
    except OSError as e:
        raise StorageError(f"can't be read: {e.strerror}", where=str(path)) from None
    with f:
        yield f.fileno()
