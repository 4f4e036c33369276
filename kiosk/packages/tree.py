"""A root tree as the readers of package databases see it: a folder, or a volume that is read as data.

Only regular files are read, links are never followed, and what is read has a bound: a tree from a stranger can
neither lead out of itself nor fill the memory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from kiosk.disk.volume import Node, Volume
from kiosk.errors import CorruptError

PIECE = 1 << 20
INTERESTING = tuple(
    f"/{p}/".encode()
    for p in ("var/lib/dpkg", "var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/doc", "usr/lib/kiosk")
)


class Tree(Protocol):
    """Paths are relative to the root, with slashes between."""

    def pieces(self, path: str) -> Iterator[bytes] | None:
        """A regular file's content; None where there is no such file."""
        ...

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none where it is no folder."""
        ...

    def link(self, path: str) -> str | None:
        """The target of a symbolic link; None where it is none."""
        ...


def content(tree: Tree, path: str, most: int) -> bytes | None:
    """A file's whole content; CorruptError when it has more than `most` bytes."""
    pieces = tree.pieces(path)
    if pieces is None:
        return None
    found = bytearray()
    for piece in pieces:
        found += piece
        if len(found) > most:
            raise CorruptError(f"has more than the {most} bytes that such a file may have", where=f"/{path}")
    return bytes(found)


class Folder:
    """A tree that lies in a folder of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def pieces(self, path: str) -> Iterator[bytes] | None:
        """See Tree."""
        with suppress(OSError):
            fd = self._open(path, os.O_RDONLY | os.O_NONBLOCK)
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return _read(os.fdopen(fd, "rb"))
            os.close(fd)
        return None

    def names(self, folder: str) -> list[str]:
        """See Tree."""
        with suppress(OSError):
            fd = self._open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                with os.scandir(fd) as found:
                    return sorted(e.name for e in found if e.name.isprintable())
            finally:
                os.close(fd)
        return []

    def link(self, path: str) -> str | None:
        """See Tree."""
        folder, _, name = path.rpartition("/")
        with suppress(OSError):
            fd = self._open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                return os.readlink(name, dir_fd=fd)
            finally:
                os.close(fd)
        return None

    def _open(self, path: str, flags: int) -> int:
        """Opens a path step by step, following no link; OSError where that can't be done."""
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        parts = path.split("/")
        for number, part in enumerate(parts, 1):
            how = flags if number == len(parts) else os.O_RDONLY | os.O_DIRECTORY
            try:
                step = os.open(part, how | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            finally:
                os.close(fd)
            fd = step
        return fd


class Opened:
    """A tree in a volume; the volume is walked once."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._nodes: dict[str, Node] = {}
        self._folders: dict[str, list[str]] = {}
        for node in volume.nodes():
            if node.path.startswith(INTERESTING):
                path = node.path.decode(errors="surrogateescape")[1:]
                self._nodes[path] = node
                self._folders.setdefault(path.rpartition("/")[0], []).append(path.rpartition("/")[2])

    def pieces(self, path: str) -> Iterator[bytes] | None:
        """See Tree."""
        node = self._nodes.get(path)
        return self._volume.read(node) if node is not None and stat.S_ISREG(node.mode) else None

    def names(self, folder: str) -> list[str]:
        """See Tree."""
        return sorted(n for n in self._folders.get(folder, []) if n.isprintable())

    def link(self, path: str) -> str | None:
        """See Tree."""
        node = self._nodes.get(path)
        return node.target.decode(errors="surrogateescape") if node is not None and node.target else None


def _read(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE):
            yield piece
