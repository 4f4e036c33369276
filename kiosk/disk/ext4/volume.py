"""The whole tree of an ext2, ext3, or ext4 file system as a Volume.

Stricter than a kernel: a name of an inode that isn't in use, two equal names in a folder, a folder with two
parents, blocks outside the file system, files that share blocks, or more names of a file than it has links are
all a CorruptError, so that what one reader sees another can't miss. Checksums are not looked at.
"""

from __future__ import annotations

import stat
from array import array
from collections.abc import Iterator

from kiosk.disk.descent import shown, too_deep
from kiosk.disk.ext4.attributes import INLINE_DATA, attributes
from kiosk.disk.ext4.inodes import ENCRYPTED, EXTENTS, INLINE, Inode, Inodes
from kiosk.disk.ext4.layout import ROOT, Layout
from kiosk.disk.ext4.ledger import Ledger
from kiosk.disk.ext4.maps import Run, block_map, extents
from kiosk.disk.ext4.names import entries
from kiosk.disk.volume import MAX_DEPTH, PIECE, Node, filled
from kiosk.errors import CorruptError

MAX_NAMES = 10_000_000
MAX_TEXT = 1 << 30
"""Bytes of all paths together."""
MAX_FOLDER = 1 << 30
"""Bytes of one folder's blocks."""
_INLINE_FOLDER = 4
"""Where the entries of a folder begin that stands in its inode; before them the inode of its parent."""


class UnrecoveredError(CorruptError):
    """The newest changes stand in the journal only: the file system was in use when its disk was copied."""


class Ext4Volume:
    """The file system that begins at byte `offset` of the open file or device `fd`; `where` names it in errors.

    Raises UnrecoveredError where the journal must be replayed first (kiosk.disk.ext4.recover does, on a copy).
    """

    def __init__(self, fd: int, offset: int = 0, *, where: str | None = None) -> None:
        self._fd = fd
        self._layout = Layout(fd, offset, where=where)
        if self._layout.needs_recovery:
            raise UnrecoveredError(
                "the file system was not unmounted: its newest changes stand in the journal only",
                where=where,
                hint="Shut the machine down first, or run e2fsck on a copy of the disk.",
            )
        self._where = where
        self._inodes = Inodes(self._layout)
        self._ledger = Ledger(self._layout)

    @property
    def uuid(self) -> str:
        return self._layout.uuid

    @property
    def label(self) -> str:
        return self._layout.label

    def nodes(self) -> Iterator[Node]:
        names = array("I", bytes(4 * (self._layout.inodes + 1)))
        left, text = MAX_NAMES, MAX_TEXT
        waiting: list[tuple[bytes, int, int]] = [(b"/", ROOT, 0)]
        while waiting:
            path, number, depth = waiting.pop()
            with _naming(path, self._where):
                inode = self._inodes.get(number)
                node = self._node(path, inode)
                is_folder = stat.S_ISDIR(inode.mode)
                names[number] += 1
                if names[number] > (1 if is_folder else inode.links):
                    raise self._layout.damage("it has more names than it can have")
                if depth == 0 and not is_folder:
                    raise self._layout.damage("it is no folder")
            yield node
            if is_folder:
                with _naming(path, self._where):
                    children = self._children(inode)
                    left -= len(children)
                    text -= sum(len(path) + 1 + len(name) for name, _ in children)
                    if left < 0 or text < 0:
                        raise self._layout.damage("there are more or longer names than can be")
                    if children and depth == MAX_DEPTH:
                        raise too_deep(path, MAX_DEPTH, self._where)
                below = path if path.endswith(b"/") else path + b"/"
                waiting.extend((below + name, child, depth + 1) for name, child in children)

    def find(self, path: bytes) -> Node | None:
        """What an absolute path names, if anything; links on the way are not followed."""
        with _naming(path, self._where):
            inode = self._inodes.get(ROOT)
            for name in path.split(b"/"):
                if name:
                    number = dict(self._children(inode)).get(name) if stat.S_ISDIR(inode.mode) else None
                    if number is None:
                        return None
                    inode = self._inodes.get(number)
            return self._node(path, inode)

    def read(self, node: Node) -> Iterator[bytes]:
        return filled(self.data(node), node.size)

    def data(self, node: Node) -> Iterator[tuple[int, bytes]]:
        with _naming(node.path, self._where):
            inode = self._inodes.get(node.inode)
            if not stat.S_ISREG(inode.mode) or inode.size != node.size:
                raise self._layout.damage("it is not the file that was asked for")
            yield from self._content(inode)

    def _node(self, path: bytes, inode: Inode) -> Node:
        kind = stat.S_IFMT(inode.mode)
        if inode.flags & ENCRYPTED:
            raise self._layout.damage("it is encrypted by the file system")
        found = attributes(self._layout, inode.extra, inode.acl)
        target = self._target(inode, found) if kind == stat.S_IFLNK else None
        found.pop(INLINE_DATA, None)
        return Node(
            path=path,
            mode=inode.mode,
            uid=inode.uid,
            gid=inode.gid,
            size=inode.size if kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK) else 0,
            mtime=inode.mtime,
            inode=inode.number,
            links=inode.links,
            target=target,
            device=inode.device if kind in (stat.S_IFCHR, stat.S_IFBLK) else None,
            xattrs=found,
        )

    def _target(self, inode: Inode, xattrs: dict[str, bytes]) -> bytes:
        if inode.size >= PIECE:
            raise self._layout.damage("a symbolic link is longer than can be")
        if inode.flags & INLINE:
            target = (inode.node + xattrs.get(INLINE_DATA, b""))[: inode.size]
        elif inode.size < len(inode.node) and not inode.flags & EXTENTS:
            target = inode.node[: inode.size]
        else:
            target = b"".join(filled(self._content(inode), inode.size))
        if not target or b"\0" in target or len(target) != inode.size or len(target) >= 4096:
            raise self._layout.damage("a symbolic link is damaged")
        return target

    def _children(self, folder: Inode) -> list[tuple[bytes, int]]:
        """The entries of a folder, last name first."""
        if folder.size > MAX_FOLDER or (folder.size % self._layout.block and not folder.flags & INLINE):
            raise self._layout.damage("a folder has a size that can't be")
        found: list[tuple[bytes, int]] = []
        for at, piece in self._content(folder):
            if folder.flags & INLINE:
                begin = _INLINE_FOLDER if at == 0 else 0
                found.extend(entries(self._layout, piece[begin:]))
                continue
            for begin in range(0, len(piece), self._layout.block):
                found.extend(entries(self._layout, piece[begin : begin + self._layout.block]))
            if len(found) > MAX_NAMES:
                raise self._layout.damage("a folder holds more names than can be")
        found.sort(reverse=True)
        if any(found[i][0] == found[i + 1][0] for i in range(len(found) - 1)):
            raise self._layout.damage("a folder holds a name twice")
        return found

    def _content(self, inode: Inode) -> Iterator[tuple[int, bytes]]:
        """All that is no hole, in pieces of whole blocks, the last cut where the file ends."""
        if inode.flags & INLINE:
            yield from self._inline(inode)
            return
        layout = self._layout
        most = PIECE // layout.block
        for first, start, count in self._runs(inode):
            for done in range(0, count, most):
                at = (first + done) * layout.block
                if at >= inode.size:
                    return
                need = min(most, count - done, -(-(inode.size - at) // layout.block))
                data = layout.read(start + done, need)
                yield at, data if at + len(data) <= inode.size else data[: inode.size - at]

    def _inline(self, inode: Inode) -> Iterator[tuple[int, bytes]]:
        more = attributes(self._layout, inode.extra, 0).get(INLINE_DATA, b"")
        if inode.size > len(inode.node) + len(more):
            raise self._layout.damage("the content in an inode is shorter than it says")
        first = inode.node[: inode.size]
        if first:
            yield 0, first
        if len(inode.node) < inode.size:
            yield len(inode.node), more[: inode.size - len(inode.node)]

    def _runs(self, inode: Inode) -> Iterator[Run]:
        layout, blocks = self._layout, -(-inode.size // self._layout.block)
        if blocks > 1 << 32:
            raise layout.damage("a file is larger than can be")
        spend = self._ledger.reader(inode.number)
        if inode.flags & EXTENTS:
            return extents(layout, inode.node, spend)
        return block_map(layout, inode.node, blocks, spend)


class _naming:
    """Names the path in a CorruptError that has been raised on the way to it."""

    def __init__(self, path: bytes, where: str | None) -> None:
        self._path = path
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, CorruptError):
            error.where = f"{self._where}: {shown(self._path)}" if self._where else shown(self._path)
