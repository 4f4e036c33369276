"""The image's files by path, from one walk: what is where, where links lead, and small files' content."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from functools import lru_cache

from kiosk.disk.volume import Node, Volume
from kiosk.errors import CorruptError

MAX_NAMES = 4_000_000
MAX_TEXT = 1 << 30
"""Bytes of all paths and attributes together."""
MAX_PATH = 4096


class Tree:
    """A volume's nodes by path. CorruptError when it has more names than an image can have."""

    def __init__(self, volume: Volume, seen: Callable[[int], object] = lambda n: None) -> None:
        self.volume = volume
        self.nodes: dict[bytes, Node] = {}
        text = 0
        for node in volume.nodes():
            text += len(node.path) + sum(len(name) + len(value) for name, value in node.xattrs.items())
            if text > MAX_TEXT:
                raise CorruptError(f"the names and attributes of its files have more than {MAX_TEXT} bytes")
            if len(self.nodes) >= MAX_NAMES:
                raise CorruptError(f"the image has more than {MAX_NAMES} files")
            self.nodes[node.path] = node
            seen(1)
        self._real = lru_cache(maxsize=200_000)(self._resolved)

    def file(self, path: bytes) -> Node | None:
        """The regular file at a path, through symbolic links inside the image."""
        node = self.nodes.get(self.real(path))
        return node if node is not None and stat.S_ISREG(node.mode) else None

    def below(self, folder: bytes, suffix: bytes = b"") -> Iterator[Node]:
        """The regular files right in a folder, whose names end with `suffix`."""
        start = self.real(folder).rstrip(b"/") + b"/"
        for path, node in self.nodes.items():
            if (
                path.startswith(start)
                and path.endswith(suffix)
                and stat.S_ISREG(node.mode)
                and b"/" not in path[len(start) :]
            ):
                yield node

    def content(self, node: Node, limit: int) -> bytes | None:
        """The whole content of a file of at most `limit` bytes; None for a larger one."""
        if node.size > limit:
            return None
        parts: list[bytes] = []
        length = 0
        for piece in self.volume.read(node):
            length += len(piece)
            if length > limit:
                return None
            parts.append(piece)
        return b"".join(parts)

    def real(self, path: bytes) -> bytes:
        """The path with all symbolic links followed, as far as it goes; never leaves the image."""
        if len(path) > MAX_PATH:
            return path
        folder, _, name = path.rpartition(b"/")
        whole = self._real(folder).rstrip(b"/") + b"/" + name
        node = self.nodes.get(whole)
        if node is None or node.target is None:
            return whole
        return self._resolved(whole)

    def owner_path(self, path: bytes) -> bytes:
        """The path with the links of its folders followed, but not a link that it is itself: how a package's path
        is found in an image whose /lib is a link to /usr/lib."""
        folder, _, name = path.rpartition(b"/")
        return self._real(folder).rstrip(b"/") + b"/" + name

    def _resolved(self, path: bytes) -> bytes:
        todo = [p for p in reversed(path.split(b"/")) if p not in (b"", b".")]
        at: list[bytes] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == b"..":
                del at[-1:]
                continue
            at.append(part)
            node = self.nodes.get(b"/" + b"/".join(at))
            if node is None or node.target is None:
                continue
            links += 1
            if links > 40 or len(todo) > MAX_PATH:
                return path
            at = [] if node.target.startswith(b"/") else at[:-1]
            todo += [p for p in reversed(node.target.split(b"/")) if p not in (b"", b".")]
        return b"/" + b"/".join(at)
