"""A root tree, read and changed as the system in it sees it: a link leads to where it leads inside the root.

Whatever the tree holds, nothing outside of its root is read or changed: every folder on the way to a name is opened
below the one before it and refused if it is a link; links are resolved by name, as after a chroot. Nothing here
recurses or holds more than a few folders open, so that depth is no danger either. What changes in a folder or in a
file's content leaves times, owners, modes and attributes of that folder or file as they were.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from kiosk.errors import PolicyError
from kiosk.files import remove_below
from kiosk.sanitise.patterns import name_regex

Parts = tuple[str, ...]
"""A path below the root by its names; surrogates stand for bytes that are not UTF-8. `()` is the root."""

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV)
HOPS = 40
EDITED = 16 << 20
"""The largest file that is edited, in bytes."""


class Tree:
    """The tree below `root`; a context manager."""

    def __init__(self, root: Path) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._root)

    @contextlib.contextmanager
    def folder(self, parts: Parts) -> Iterator[int]:
        """Opens a folder; OSError where a name on the way is a link or no folder."""
        fd = os.dup(self._root)
        try:
            for name in parts:
                below = os.open(name, FOLDER, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def stat(self, parts: Parts) -> os.stat_result | None:
        """What is at `parts` (a link is itself), or None where there is nothing."""
        if not parts:
            return os.fstat(self._root)
        try:
            with self.folder(parts[:-1]) as fd:
                return os.stat(parts[-1], dir_fd=fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def is_folder(self, parts: Parts) -> bool:
        """Whether a folder is there, not a link to one."""
        found = self.stat(parts)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def is_file(self, parts: Parts) -> bool:
        """Whether a regular file is there, not a link to one."""
        found = self.stat(parts)
        return found is not None and stat.S_ISREG(found.st_mode)

    def names(self, parts: Parts) -> list[str]:
        """The names in a folder, in byte order."""
        with self.folder(parts) as fd, os.scandir(fd) as found:
            return sorted((e.name for e in found), key=os.fsencode)

    def resolve(self, parts: Iterable[str]) -> Parts | None:
        """Where `parts` leads, all links resolved inside the root, or None where that is nowhere."""
        done: list[str] = []
        todo = list(parts)[::-1]
        hops = 0
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                del done[-1:]
                continue
            here = (*done, name)
            found = self.stat(here)
            if found is None:
                return None
            if not stat.S_ISLNK(found.st_mode):
                done.append(name)
                continue
            hops += 1
            if hops > HOPS:
                return None
            with self.folder(tuple(done)) as fd:
                target = os.readlink(name, dir_fd=fd)
            if target.startswith("/"):
                done.clear()
            todo += target.split("/")[::-1]
        return tuple(done)

    def glob(self, pattern: str, start: Parts = (), *, follow: bool = True) -> list[Parts]:
        """What matches a pattern (see kiosk.sanitise.patterns) below `start`. The last name is not resolved and
        `**` does not enter links; whether folders on the way may be links, `follow` says."""
        names = pattern.split("/")
        bases = [start] if self.is_folder(start) else []
        for name in names[:-1]:
            if name == "**":
                bases = [b for base in bases for b in (base, *(p for p, is_dir in self.walk(base) if is_dir))]
            else:
                found = [parts for base in bases for parts in self._named(base, name)]
                led = [self.resolve(parts) for parts in found] if follow else found
                bases = [real for real in dict.fromkeys(led) if real is not None and self.is_folder(real)]
        if names[-1] == "**":
            return list(dict.fromkeys(p for base in bases for p, _ in self.walk(base)))
        return list(dict.fromkeys(parts for base in bases for parts in self._named(base, names[-1])))

    def _named(self, base: Parts, name: str) -> list[Parts]:
        if not any(c in name for c in "*?["):
            return [(*base, name)] if self.stat((*base, name)) else []
        fits = re.compile(name_regex(name), re.DOTALL)
        return [(*base, n) for n in self.names(base) if fits.fullmatch(n)]

    def walk(self, top: Parts) -> Iterator[tuple[Parts, bool]]:
        """All that is below a folder, each folder before its content, and whether it is a folder."""
        todo = [top]
        while todo:
            here = todo.pop()
            with self.folder(here) as fd, os.scandir(fd) as found:
                entries = sorted(
                    ((e.name, e.is_dir(follow_symlinks=False)) for e in found),
                    key=lambda entry: os.fsencode(entry[0]),
                )
            for name, is_dir in entries:
                yield (*here, name), is_dir
            todo += [(*here, name) for name, is_dir in reversed(entries) if is_dir]

    def read(self, parts: Parts, limit: int) -> bytes | None:
        """The first `limit` bytes of a regular file; None for anything else."""
        try:
            with self.folder(parts[:-1]) as fd:
                file = os.open(parts[-1], os.O_RDONLY | FILE, dir_fd=fd)
        except OSError as e:
            if e.errno in NO_FILE:
                return None
            raise
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                return None
            data = bytearray()
            while len(data) < limit and (piece := os.read(file, min(limit - len(data), 1 << 20))):
                data += piece
            return bytes(data)
        finally:
            os.close(file)

    def read_all(self, parts: Parts) -> bytes | None:
        """The content of a file that is going to be edited; PolicyError where it is larger than 16 MiB."""
        data = self.read(parts, EDITED + 1)
        if data is not None and len(data) > EDITED:
            raise PolicyError("is too large to be edited", where=shown(parts), hint="The limit is 16 MiB.")
        return data

    def write(self, parts: Parts, data: bytes) -> None:
        """Replaces the content of a regular file, under all its names."""
        with self.folder(parts[:-1]) as fd:
            file = os.open(parts[-1], os.O_WRONLY | FILE, dir_fd=fd)
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise PolicyError("is not a regular file any more", where=shown(parts))
            os.ftruncate(file, 0)
            _write(file, data)
            os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(file)

    def create(self, parts: Parts, data: bytes, mode: int) -> None:
        """Makes a new file, and the folders that it needs; its time is that of the folder it is in."""
        for n in range(1, len(parts)):
            found = self.stat(parts[:n])
            if found is not None and not stat.S_ISDIR(found.st_mode):
                raise PolicyError("is no folder, nor a link to one in the tree", where=shown(parts[:n]))
            if found is None:
                with self._unaltered(parts[: n - 1]) as fd:
                    os.mkdir(parts[n - 1], 0o755, dir_fd=fd)
                with self.folder(parts[:n]) as fd:
                    os.fchmod(fd, 0o755)
        with self._unaltered(parts[:-1]) as fd:
            file = os.open(parts[-1], os.O_WRONLY | os.O_CREAT | os.O_EXCL | FILE, 0o600, dir_fd=fd)
            try:
                _write(file, data)
                os.fchmod(file, mode)
                above = os.fstat(fd)
                os.utime(file, ns=(above.st_atime_ns, above.st_mtime_ns))
            finally:
                os.close(file)

    def put(self, parts: Parts, data: bytes, mode: int) -> None:
        """Makes a new file in the place of whatever has its name, a link or a folder, too."""
        self.clear(parts)
        self.create(parts, data, mode)

    def link(self, parts: Parts, target: str) -> None:
        """Makes a symbolic link in the place of whatever has its name."""
        self.clear(parts)
        with self._unaltered(parts[:-1]) as fd:
            os.symlink(target, parts[-1], dir_fd=fd)

    def clear(self, parts: Parts) -> None:
        """Removes what is at `parts`, if anything is."""
        if self.stat(parts) is not None:
            self.remove(parts)

    def real_folder(self, parts: Parts, mode: int) -> None:
        """Makes sure that a folder is there, with this mode, in the place of a link or file of its name."""
        if not self.is_folder(parts):
            self.clear(parts)
            with self._unaltered(parts[:-1]) as fd:
                os.mkdir(parts[-1], 0o700, dir_fd=fd)
        with self.folder(parts) as fd:
            os.fchmod(fd, mode)

    def chmod(self, parts: Parts, mode: int) -> bool:
        """Sets a regular file's mode; whether that was a change."""
        with self.folder(parts[:-1]) as fd:
            file = os.open(parts[-1], os.O_RDONLY | FILE, dir_fd=fd)
        try:
            changed = stat.S_IMODE(os.fstat(file).st_mode) != mode
            os.fchmod(file, mode)
            return changed
        finally:
            os.close(file)

    def remove(self, parts: Parts) -> None:
        """Removes a name and, of a folder, all that is below it."""
        with self._unaltered(parts[:-1]) as fd:
            if self.is_folder(parts):
                remove_below(fd, parts[-1])
            else:
                os.unlink(parts[-1], dir_fd=fd)

    def remove_empty(self, parts: Parts) -> bool:
        """Removes a folder if it is empty; whether it was."""
        if self.names(parts):
            return False
        with self._unaltered(parts[:-1]) as fd:
            os.rmdir(parts[-1], dir_fd=fd)
        return True

    @contextlib.contextmanager
    def _unaltered(self, parts: Parts) -> Iterator[int]:
        """A folder whose times are, after the block, what they were before."""
        with self.folder(parts) as fd:
            found = os.fstat(fd)
            yield fd
            os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def shown(parts: Parts) -> str:
    """A path as text that is safe to print: what is not printable or not UTF-8 as escapes."""
    text = "/" + os.fsencode("/".join(parts)).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
