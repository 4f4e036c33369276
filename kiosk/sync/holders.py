"""Who has a file: processes that hold it open or mapped, loop devices, disks of VMs that are built on it.

Files are compared by device and inode, so that another name, another mount or another namespace hides nobody. Links
and lists are looked at before any file is: a file system that does not answer is not asked about its files.
What can't be looked into makes the answer *unknown*, and unknown is never taken for unused.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from kiosk.cloud.qemu.process import uuid_of
from kiosk.errors import KioskError, StorageError
from kiosk.sync import backing

PROC, BLOCK = Path("/proc"), Path("/sys/block")
DELETED = " (deleted)"
Key = tuple[int, int]
T = TypeVar("T")


@dataclass
class Holders(Generic[T]):
    """Who holds what: for each file's owner the holders in words. `unknown` says what could not be looked into."""

    of: dict[T, set[str]] = field(default_factory=dict)
    unknown: str | None = None

    def add(self, owner: T, holder: str) -> None:
        """Notes a holder."""
        self.of.setdefault(owner, set()).add(holder)


def key_of(path: Path) -> Key:
    """A file by its device and inode."""
    found = path.lstat()
    return found.st_dev, found.st_ino


def find(files: Mapping[Path, T], disks: Iterable[Path] = ()) -> Holders[T]:
    """Who holds any of these files. `files` names each file's owner, under which its holders are listed; `disks` are
    disks of VMs, running or not, that may be built on them."""
    found: Holders[T] = Holders()
    keys: dict[Key, set[T]] = {}
    for path, owner in files.items():
        with contextlib.suppress(FileNotFoundError):
            keys.setdefault(key_of(path), set()).add(owner)
    if not keys:
        return found
    built = _built_on(keys, disks, found)
    names = {path.name for path in [*files, *(path for path, _ in built.values())]}
    watched = keys | {key: owners | keys.get(key, set()) for key, (_, owners) in built.items()}
    running = _processes(watched, names, found)
    _loops(keys, files, found)
    for key, (path, owners) in built.items():
        if key not in running:
            for owner in owners:
                found.add(owner, f"the disk {path}")
    return found


def _built_on(
    keys: Mapping[Key, set[T]], disks: Iterable[Path], found: Holders[T]
) -> dict[Key, tuple[Path, set[T]]]:
    """The disks that are built on the files, and on whose."""
    built: dict[Key, tuple[Path, set[T]]] = {}
    for disk in _all(disks, found):
        try:
            chain = [(one.st_dev, one.st_ino) for one in backing.chain(disk)]
        except StorageError as e:
            found.unknown = found.unknown or str(e)
            continue
        owners = {owner for key in chain for owner in keys.get(key, set())}
        if owners:
            built[chain[0]] = disk, owners
    return built


def _all(disks: Iterable[Path], found: Holders[T]) -> Iterator[Path]:
    """The disks, as far as who knows them can tell."""
    try:
        yield from disks
    except KioskError as e:
        found.unknown = found.unknown or f"not all disks of VMs are known: {e.what}"


def _processes(keys: Mapping[Key, set[T]], names: set[str], found: Holders[T]) -> set[Key]:
    """Notes the processes that hold the files; returns which files are held."""
    all_held: set[Key] = set()
    if not (PROC / "1").exists():
        found.unknown = f"{PROC} does not show all processes (it is mounted with hidepid)"
    for entry in PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            held = (_open(entry, names) | _mapped(entry, names)) & keys.keys()
        except PermissionError:
            found.unknown = found.unknown or f"the process {entry.name} can't be looked into (be root)"
            continue
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        for key in held:
            for owner in keys[key]:
                found.add(owner, _process(entry))
        all_held |= held
    return all_held


def _process(entry: Path) -> str:
    """A process in words; all those of one VM are one."""
    uuid = uuid_of(int(entry.name))
    if uuid is not None:
        return f"VM {uuid}"
    try:
        return f"process {entry.name} ({(entry / 'comm').read_text(errors='replace').strip()})"
    except OSError:
        return f"process {entry.name}"


def _open(entry: Path, names: set[str]) -> set[Key]:
    found = set()
    for link in (entry / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if link.readlink().name.removesuffix(DELETED) in names:
                one = link.stat()
                found.add((one.st_dev, one.st_ino))
    return found


def _mapped(entry: Path, names: set[str]) -> set[Key]:
    maps = (entry / "maps").read_text(errors="surrogateescape")
    if not any(name in maps for name in names):
        return set()
    found = set()
    for line in maps.splitlines():
        words = line.split(None, 5)
        if len(words) == 6 and words[5].removesuffix(DELETED).rpartition("/")[2] in names:
            start, _, end = words[0].partition("-")
            with contextlib.suppress(FileNotFoundError):
                one = (entry / "map_files" / f"{int(start, 16):x}-{int(end, 16):x}").stat()
                found.add((one.st_dev, one.st_ino))
    return found


def _loops(keys: Mapping[Key, set[T]], files: Mapping[Path, T], found: Holders[T]) -> None:
    for entry in BLOCK.glob("loop*/loop/backing_file"):
        try:
            path = Path(os.fsdecode(entry.read_bytes().rstrip(b"\n").removesuffix(b" (deleted)")))
        except OSError:
            continue  # it was let go
        owners = {files[path]} if path in files else set()
        if path.name in {one.name for one in files}:
            with contextlib.suppress(OSError):
                owners |= keys.get(key_of(path), set())
        for owner in owners:
            found.add(owner, f"/dev/{entry.parts[-3]}")
