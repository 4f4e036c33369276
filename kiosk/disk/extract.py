"""Writes a volume into a fresh folder exactly: owners, modes, times, attributes, links, devices, holes.

Nothing is written outside the folder, whatever the volume says: everything is made anew (never opened over), by
its name in a folder that was opened name by name, and no link is followed. Until all is there only the owner can
enter the folder, as it may hold setuid programs and device nodes; keep it in a private one. After an error what
was written stays, for the caller to remove (`kiosk.files.scratch` does).
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kiosk.disk.descent import Descent, beside, possible, shown, split
from kiosk.disk.volume import Node, SparseVolume, Volume
from kiosk.errors import CorruptError, StorageError, UsageError

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_INHERITED = ("system.posix_acl_access", "system.posix_acl_default")


@dataclass
class Extracted:
    """How many names and bytes were written, and which names were left out as they are sockets."""

    names: int = 0
    bytes: int = 0
    sockets: int = 0


def extract(
    volume: Volume,
    target: Path,
    *,
    skip: Callable[[bytes], bool] = lambda _path: False,
    progress: Callable[[int], object] = lambda _bytes: None,
) -> Extracted:
    """Writes all of `volume` into the new folder `target` but for paths that `skip` names and what is below them.

    Sockets are left out; what runs makes them anew. `progress` is told of bytes as they are written.
    Raises StorageError when the disk is full or may not be written, UsageError when `target` holds anything,
    and what the volume raises.
    """
    with _errors(b"/", target):
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise UsageError("the folder is not empty", where=str(target))
        for name in set(os.listxattr(target)) & set(_INHERITED):
            os.removexattr(target, name)
    with Descent(target) as here, Descent(target) as there:
        return _Writer(volume, target, here, there, progress).run(skip)


class _Writer:
    def __init__(
        self, volume: Volume, target: Path, here: Descent, there: Descent, progress: Callable[[int], object]
    ) -> None:
        self._volume = volume
        self._target = target
        self._here = here
        self._there = there
        self._progress = progress
        self._first: dict[int, bytes] = {}
        self._folders: list[Node] = []
        self._done = Extracted()

    def run(self, skip: Callable[[bytes], bool]) -> Extracted:
        skipped: bytes | None = None
        for node in self._volume.nodes():
            if skipped is not None and node.path.startswith(skipped):
                continue
            skipped = None
            if node.path != b"/" and skip(node.path):
                skipped = node.path + b"/"
                continue
            if not possible(node.path):
                raise CorruptError("the volume holds a name that can't be", where=shown(node.path))
            self._finish(above=node.path)
            with _errors(node.path, self._target):
                self._write(node)
        self._finish(above=None)
        return self._done

    def _write(self, node: Node) -> None:
        folder, name = split(node.path)
        if stat.S_ISDIR(node.mode):
            if name:
                os.mkdir(name, 0o700, dir_fd=self._here.folder(folder))
            self._folders.append(node)
        elif stat.S_ISSOCK(node.mode):
            self._done.sockets += 1
            return
        elif (first := self._first.get(node.inode)) is not None:
            before, old = split(first)
            os.link(
                old,
                name,
                src_dir_fd=self._there.folder(before),
                dst_dir_fd=self._here.folder(folder),
                follow_symlinks=False,
            )
        else:
            if node.links > 1:
                self._first[node.inode] = node.path
            self._make(node, self._here.folder(folder), name)
        self._done.names += 1

    def _make(self, node: Node, folder: int, name: bytes) -> None:
        if stat.S_ISREG(node.mode):
            fd = os.open(name, _NEW, 0o600, dir_fd=folder)
            try:
                self._fill(node, fd)
                os.fchown(fd, node.uid, node.gid)
                os.fchmod(fd, stat.S_IMODE(node.mode))
                for key, value in node.xattrs.items():
                    os.setxattr(fd, key, value)
                os.utime(fd, (node.mtime, node.mtime))
            finally:
                os.close(fd)
            return
        if stat.S_ISLNK(node.mode):
            os.symlink(node.target or b"", name, dir_fd=folder)
        else:
            device = os.makedev(*node.device) if node.device else 0
            os.mknod(name, stat.S_IFMT(node.mode) | 0o600, device, dir_fd=folder)
        _dress(node, folder, name)

    def _fill(self, node: Node, fd: int) -> None:
        end = 0
        for at, piece in _data(self._volume, node):
            view = memoryview(piece)
            while view:
                written = os.pwrite(fd, view, at)
                view = view[written:]
                at += written
            end = at
            self._done.bytes += len(piece)
            self._progress(len(piece))
        if end < node.size:
            os.ftruncate(fd, node.size)

    def _finish(self, *, above: bytes | None) -> None:
        """Gives folders that `above` is not in, all of whose content is there, what they are to have."""
        while self._folders:
            node = self._folders[-1]
            if above is not None and above.startswith(node.path.rstrip(b"/") + b"/"):
                return
            self._folders.pop()
            folder, name = split(node.path)
            with _errors(node.path, self._target):
                _dress(node, self._here.folder(folder), name)


def _dress(node: Node, folder: int, name: bytes) -> None:
    """Owner, mode, attributes, and time of what `name` is in the open folder; an empty name is the folder."""
    here = beside(folder, name)
    follow = not name
    os.chown(here, node.uid, node.gid, follow_symlinks=follow)
    if not stat.S_ISLNK(node.mode):
        Path(os.fsdecode(here)).chmod(stat.S_IMODE(node.mode))
    for key, value in node.xattrs.items():
        os.setxattr(here, key, value, follow_symlinks=follow)
    os.utime(here, (node.mtime, node.mtime), follow_symlinks=follow)


def _data(volume: Volume, node: Node) -> Iterator[tuple[int, bytes]]:
    if isinstance(volume, SparseVolume):
        yield from volume.data(node)
        return
    at = 0
    for piece in volume.read(node):
        if any(piece):
            yield at, piece
        at += len(piece)


@contextlib.contextmanager
def _errors(path: bytes, target: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as e:
        raise CorruptError("the volume holds a name twice", where=shown(path)) from e
    except OSError as e:
        hint = "Run the command as root." if e.errno in (1, 13) else "What was written is not complete."
        where = f"{target}{shown(path).rstrip('/')}"
        raise StorageError(f"can't be written: {e.strerror}", where=where, hint=hint) from e
