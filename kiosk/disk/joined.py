"""Several volumes as one tree, as a machine mounts them: what stands at a mount point below is not seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from kiosk.disk.volume import Node, SparseVolume, filled
from kiosk.errors import CorruptError


class JoinedVolume:
    """`root` with other volumes at the folders `mounts` (absolute paths) of it, or of each other."""

    def __init__(self, root: SparseVolume, mounts: Mapping[bytes, SparseVolume]) -> None:
        outer = [path for path in mounts if not any(path.startswith(other + b"/") for other in mounts)]
        self._volumes: list[tuple[bytes, SparseVolume]] = [(b"", root)]
        for path in sorted(outer):
            inner = {other[len(path) :]: v for other, v in mounts.items() if other.startswith(path + b"/")}
            volume = JoinedVolume(mounts[path], inner) if inner else mounts[path]
            self._volumes.append((path, volume))

    def nodes(self) -> Iterator[Node]:
        places = {path: i for i, (path, _) in enumerate(self._volumes) if i}
        hidden: bytes | None = None
        for node in self._volumes[0][1].nodes():
            if hidden is not None and node.path.startswith(hidden):
                continue
            index = places.pop(node.path, None)
            if index is None:
                yield self._outer(0, node)
                continue
            hidden = node.path + b"/"
            for below in self._volumes[index][1].nodes():
                yield self._outer(index, below)
        if places:
            missing = next(iter(places)).decode(errors="backslashreplace")
            raise CorruptError("there is no folder to mount a file system on", where=missing)

    def read(self, node: Node) -> Iterator[bytes]:
        return filled(self.data(node), node.size)

    def data(self, node: Node) -> Iterator[tuple[int, bytes]]:
        inode, index = divmod(node.inode, len(self._volumes))
        prefix, volume = self._volumes[index]
        return volume.data(replace(node, inode=inode, path=node.path[len(prefix) :]))

    def _outer(self, index: int, node: Node) -> Node:
        """A node as it is seen in the whole tree; its number tells which volume it is from."""
        prefix = self._volumes[index][0]
        path = node.path if not prefix else prefix if node.path == b"/" else prefix + node.path
        return replace(node, path=path, inode=node.inode * len(self._volumes) + index)
