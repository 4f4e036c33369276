"""A folder tree as a Volume: what the kernel shows of it, itself and all below, without following any link.

What is mounted somewhere below the folder shows as the folder it is mounted on and is not entered.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from kiosk.disk.descent import Descent, beside, shown, split
from kiosk.disk.volume import PIECE, Node, filled
from kiosk.errors import StorageError

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TWICE = {"trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT"}
"""What XFS shows of access control lists besides their real names."""


class FolderVolume:
    """The tree at `root`, which must not change while it is read; `where` names it in errors.

    What the kernel refuses is a StorageError.
    """

    def __init__(self, root: Path, *, where: str | None = None) -> None:
        self._root = root
        self._name = str(root) if where is None else f"{where}: "
        self._devices: dict[int, int] = {}
        with self._errors(b"/"):
            found = root.stat()
            if not stat.S_ISDIR(found.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(root))
        self._device = found.st_dev
        self._number(found)

    def nodes(self) -> Iterator[Node]:
        with self._errors(b"/"), Descent(self._root) as descent:
            waiting = [(b"", b"", os.fstat(descent.folder(b"/")))]
            while waiting:
                parent, name, found = waiting.pop()
                path = parent + b"/" + name if name else b"/"
                with self._errors(path):
                    node = self._node(descent.folder(parent), path, name, found)
                yield node
                if not stat.S_ISDIR(found.st_mode) or found.st_dev != self._device:
                    continue
                with self._errors(path):
                    below = path.rstrip(b"/")
                    children = _children(descent.folder(path))
                    waiting.extend((below, child, of) for child, of in children)

    def find(self, path: bytes) -> Node | None:
        """What an absolute path names, if anything; links on the way are not followed."""
        folder, name = split(path if path != b"/" else b"")
        with self._errors(path), Descent(self._root) as descent:
            try:
                parent = descent.folder(folder)
                found = os.stat(name, dir_fd=parent, follow_symlinks=False) if name else os.fstat(parent)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as e:
                if e.errno == errno.ELOOP:
                    return None
                raise
            return self._node(parent, path, name, found)

    def read(self, node: Node) -> Iterator[bytes]:
        return filled(self.data(node), node.size)

    def data(self, node: Node) -> Iterator[tuple[int, bytes]]:
        with self._errors(node.path), Descent(self._root) as descent:
            folder, name = split(node.path)
            fd = os.open(name, _READ, dir_fd=descent.folder(folder))
            try:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode) or self._number(found) != node.inode:
                    raise StorageError("changed while it was read", where=self._where(node.path))
                yield from _data(fd, node.size)
            finally:
                os.close(fd)

    def _node(self, folder: int, path: bytes, name: bytes, found: os.stat_result) -> Node:
        here = beside(folder, name)
        is_device = stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)
        return Node(
            path=path,
            mode=found.st_mode,
            uid=found.st_uid,
            gid=found.st_gid,
            size=found.st_size,
            mtime=found.st_mtime_ns // 10**9,
            inode=self._number(found),
            links=found.st_nlink,
            target=os.readlink(name, dir_fd=folder) if stat.S_ISLNK(found.st_mode) else None,
            device=(os.major(found.st_rdev), os.minor(found.st_rdev)) if is_device else None,
            xattrs=_xattrs(here),
        )

    def _number(self, found: os.stat_result) -> int:
        """The inode's number; on another file system than the root's (overlays) moved out of the way."""
        return found.st_ino + (self._devices.setdefault(found.st_dev, len(self._devices)) << 64)

    def _where(self, path: bytes) -> str:
        return self._name + shown(path).rstrip("/")

    @contextlib.contextmanager
    def _errors(self, path: bytes) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise StorageError(
                f"can't be read: {e.strerror}",
                where=self._where(path),
                hint="Run the command as root." if e.errno in (errno.EACCES, errno.EPERM) else None,
            ) from e


def _children(folder: int) -> list[tuple[bytes, os.stat_result]]:
    """What is in an open folder, last name first."""
    with os.scandir(folder) as entries:
        found = [(os.fsencode(entry.name), entry.stat(follow_symlinks=False)) for entry in entries]
    return sorted(found, key=lambda child: child[0], reverse=True)


def _xattrs(path: bytes) -> dict[str, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as e:
        if e.errno == errno.ENOTSUP:
            return {}
        raise
    wanted = sorted(set(names) - _TWICE)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in wanted}


def _data(fd: int, size: int) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
            end = min(os.lseek(fd, at, os.SEEK_HOLE), size)
        except OSError as e:
            if e.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        while at < end:
            piece = os.pread(fd, min(PIECE, end - at), at)
            if not piece:
                return
            yield at, piece
            at += len(piece)
