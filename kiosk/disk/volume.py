"""What a file system holds, as data: the one way in which audits and snapshots look at disks and at folders.

Whoever implements `Volume` reads hostile bytes: names never contain a slash or NUL and are never `.` or `..`,
a walk ends, what is read stays within bounds, and damage is a CorruptError, never anything else. Folders that are
nested deeper than MAX_DEPTH are a UsageError.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

MAX_DEPTH = 400
"""Folders in each other (the limit keeps the number of open folders small)."""
PIECE = 1 << 20
"""The largest piece in which content is read."""


@dataclass(frozen=True)
class Node:
    """One name in a file system. `path` is absolute (`b"/etc/passwd"`; the root is `b"/"`), `mode` is st_mode,
    `mtime` in whole seconds, `inode` the same for all names of one file and for no other, `links` how many names
    the file system says it has. Symbolic links have a target, device nodes a number (major, minor)."""

    path: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    inode: int
    links: int = 1
    target: bytes | None = None
    device: tuple[int, int] | None = None
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


class Volume(Protocol):
    """A file system that can be read."""

    def nodes(self) -> Iterator[Node]:
        """Every name, each folder before its content, the root first, names in byte order."""
        ...

    def read(self, node: Node) -> Iterator[bytes]:
        """The content of a regular file of this volume, in pieces of at most a megabyte; holes as zeros."""
        ...


@runtime_checkable
class SparseVolume(Volume, Protocol):
    """A volume that tells content from holes: the way to read files that claim terabytes."""

    def data(self, node: Node) -> Iterator[tuple[int, bytes]]:
        """What is not a hole in a regular file: (offset, piece), ascending, all below the node's size."""
        ...


def filled(data: Iterator[tuple[int, bytes]], size: int) -> Iterator[bytes]:
    """A file's whole content, its holes filled with zeros."""
    done = 0
    for at, piece in data:
        yield from zeros(at - done)
        yield piece
        done = at + len(piece)
    yield from zeros(size - done)


def zeros(count: int) -> Iterator[bytes]:
    """That many zeros, in pieces."""
    for _ in range(count // PIECE):
        yield _ZEROS
    if count % PIECE:
        yield bytes(count % PIECE)


_ZEROS = bytes(PIECE)
