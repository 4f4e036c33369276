"""Open folders on the way down a tree, name by name: no symbolic link is ever followed, and no path is too long."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from kiosk.disk.volume import MAX_DEPTH
from kiosk.errors import CorruptError, UsageError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BEGIN = 100
"""So much of a path that is too deep is shown, in bytes."""


class Descent:
    """The folders from `root` down to the one asked for last stay open, so that a walk opens each only once.

    Use it as a context manager. Symbolic links lead up to `root`, never on from there.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._names: list[bytes] = []
        self._open: list[int] = []

    def __enter__(self) -> Descent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rise(0)
        os.close(self._root)

    def folder(self, path: bytes) -> int:
        """The descriptor of the folder at the absolute `path`, good until the next call.

        Raises OSError where a name on the way is missing or is no folder, UsageError below MAX_DEPTH folders,
        CorruptError for names like `..`.
        """
        if not possible(path):
            raise CorruptError("a name that can't be", where=shown(path))
        names = [name for name in path.split(b"/") if name]
        if len(names) > MAX_DEPTH:
            raise too_deep(path, MAX_DEPTH)
        same = 0
        for mine, other in zip(self._names, names, strict=False):
            if mine != other:
                break
            same += 1
        self._rise(same)
        for name in names[same:]:
            self._open.append(os.open(name, _FOLDER, dir_fd=self._open[-1] if self._open else self._root))
            self._names.append(name)
        return self._open[-1] if self._open else self._root

    def _rise(self, depth: int) -> None:
        while len(self._open) > depth:
            os.close(self._open.pop())
            self._names.pop()


def too_deep(path: bytes, most: int, where: str | None = None) -> UsageError:
    """The error to raise where folders are nested deeper than kiosk goes, which is no damage; it shows where the path
    begins. `where` names the file system."""
    begin = shown(path[:_BEGIN]) + ("..." if len(path) > _BEGIN else "")
    return UsageError(
        f"folders are nested more than {most} deep",
        where=f"{where}: {begin}" if where else begin,
        hint="kiosk reads no deeper trees. Remove these folders, or pack them into an archive.",
    )


def split(path: bytes) -> tuple[bytes, bytes]:
    """The folder a path is in and its name there: /a, b for /a/b and an empty folder and name for the root."""
    folder, _, name = path.rpartition(b"/")
    return folder, name


def possible(path: bytes) -> bool:
    """Whether a path leads down from the root (which may be empty as well) and nowhere else."""
    return path[:1] in (b"/", b"") and b"\0" not in path and not {b".", b".."} & set(path.split(b"/"))


def beside(folder: int, name: bytes) -> bytes:
    """A path for calls that take no folder descriptor: `name` in the open folder, not to be followed further."""
    return b"/proc/self/fd/%d/%s" % (folder, name) if name else b"/proc/self/fd/%d/." % folder


def shown(path: bytes) -> str:
    """A path for people; bytes that are no UTF-8 as \\xNN."""
    return path.decode(errors="backslashreplace")
