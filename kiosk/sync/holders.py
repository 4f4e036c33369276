"""Who has a file: processes that hold it open or mapped, loop devices, disks of VMs that are built on it.

* Whether anybody at all has a file open or mapped, in whatever namespace and the kernel itself included, the kernel
  says: it gives a write lease (fcntl(2)) on a file only to one who is alone with it. Who that is, /proc tells as far
  as it may be looked into.
* Where no lease can be had (a network file system, another's file), /proc alone decides, and all of it must be seen.
  What can't be looked into makes the answer *unknown*, and unknown is never taken for unused.
* Files are compared by device and inode: another name or another mount hides nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
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
    asked = {path: alone(path) for path in files}
    held = [path for path, answer in asked.items() if answer is False]
    unsure = next((path for path, answer in asked.items() if answer is None), None)
    running: set[Key] = set()
    if held or built or unsure is not None:
        names = {path.name for path in [*files, *(path for path, _ in built.values())]}
        watched = keys | {key: owners | keys.get(key, set()) for key, (_, owners) in built.items()}
        running, hidden = _processes(watched, names, found)
        _loops(keys, files, found)
        if unsure is not None and hidden:
            found.unknown = found.unknown or f"{unsure}: {hidden}"
    for path in held:
        if files[path] not in found.of:
            found.add(files[path], "a process that can't be looked into")
    for key, (path, owners) in built.items():
        if key not in running:
            for owner in owners:
                found.add(owner, f"the disk {path}")
    return found


def alone(path: Path) -> bool | None:
    """Whether nobody has a file open or mapped; None where that can't be found out so. It is held for no longer than
    the question takes: one who opens it at that moment waits as long."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return None
    try:
        fcntl.fcntl(
            fd, fcntl.F_SETSIG, signal.SIGURG
        )  # SIGIO, which would tell of one who waits, ends a process
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return False
    except OSError:
        return None
    else:
        return True
    finally:
        os.close(fd)


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


def _processes(keys: Mapping[Key, set[T]], names: set[str], found: Holders[T]) -> tuple[set[Key], str | None]:
    """Notes the processes that hold the files; returns which files are held, and what could not be looked into."""
    all_held: set[Key] = set()
    hidden = None if (PROC / "1").exists() else f"{PROC} does not show all processes"
    for entry in PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            held = (_open(entry, names) | _mapped(entry, names)) & keys.keys()
        except PermissionError:
            hidden = hidden or f"the process {entry.name} can't be looked into"
            continue
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        for key in held:
            for owner in keys[key]:
                found.add(owner, _process(entry))
        all_held |= held
    return all_held, hidden


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
