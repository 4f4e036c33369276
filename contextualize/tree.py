"""What a layer may contain. Pure: the guest and `kiosk layer` decide with this very code.

    tree_faults      the files of the layer's image
    squashfs_fault   the image itself

What nosuid, nodev and a prefix of its own already make harmless at boot is refused all the same, so that a layer that
is published is also clean.
"""

from __future__ import annotations

import posixpath
import stat
import struct
from typing import Iterable, Iterator, NamedTuple, Optional

MOST_ENTRIES = 500_000
MOST_BYTES = 1 << 40
LINK_ROOTS = ("/usr", "/opt", "/etc")
"""Where a layer's absolute links may point: what is verified or declared. /run, /tmp, /home, /var, /proc
and /dev hold what somebody wrote since, so a link there would let that somebody fill the layer."""


class Entry(NamedTuple):
    """A file of a layer; `path` is relative to the prefix, `mode` as stat(2) gives it, `target` a link's."""

    path: str
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    target: str = ""


def tree_faults(prefix: str, entries: Iterable[Entry]) -> Iterator[str]:
    """What is wrong with the files of a layer."""
    total = 0
    for count, entry in enumerate(entries, 1):
        total += entry.size
        if count > MOST_ENTRIES:
            yield f"more than {MOST_ENTRIES} files"
            return
        if total > MOST_BYTES:
            yield f"files of more than {MOST_BYTES >> 40} TiB altogether"
            return
        yield from _entry_faults(prefix, entry)


def _entry_faults(prefix: str, entry: Entry) -> Iterator[str]:
    name = repr(entry.path)[:200]
    if not clean(entry.path):
        yield f"{name}: not a plain relative path"
        return
    kind = stat.S_IFMT(entry.mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        what = {stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a pipe"}
        yield f"{name}: is {what.get(kind, 'a socket')}; a layer has files, folders and links only"
    if kind != stat.S_IFLNK and entry.mode & (stat.S_ISUID | stat.S_ISGID):
        yield f"{name}: is set-user-ID or set-group-ID"
    if entry.uid or entry.gid:
        yield f"{name}: belongs to {entry.uid}:{entry.gid}, not to root"
    if kind == stat.S_IFLNK:
        fault = link_fault(prefix, entry.path, entry.target)
        if fault:
            yield f"{name}: {fault}"


def clean(path: str) -> bool:
    """Whether a relative path has only plain names: no `..`, no empty part, no control character, bounded."""
    parts = path.split("/")
    return (
        0 < len(path) <= 1024
        and all(0 < len(p.encode("utf-8", "surrogateescape")) <= 255 and p not in (".", "..") for p in parts)
        and not any(ord(c) < 32 or ord(c) == 127 for c in path)
    )


def link_fault(prefix: str, path: str, target: str) -> Optional[str]:
    """What is wrong with a symbolic link, or None.

    A target stays inside the prefix or lies below LINK_ROOTS. `..` may stand only at its beginning: there it
    is taken from the link's own folder, a real one, so that no other link can bend what it means.
    """
    parts = [p for p in target.split("/") if p not in ("", ".")]
    ups = 0
    while ups < len(parts) and parts[ups] == "..":
        ups += 1
    if not target or ".." in parts[ups:] or any(ord(c) < 32 for c in target):
        return f"links to {target!r:.120}, which can't be followed safely"
    full = posixpath.normpath(posixpath.join(prefix, posixpath.dirname(path), target))
    if below(full, prefix) or full == prefix or any(below(full, root) for root in LINK_ROOTS):
        return None
    return f"links to {full!r:.120}, outside {prefix} and {', '.join(LINK_ROOTS)}"


def below(path: str, folder: str) -> bool:
    """Whether an absolute path lies below a folder."""
    return path.startswith(folder.rstrip("/") + "/")


def squashfs_fault(head: bytes, size: int) -> Optional[str]:
    """What is wrong with a SquashFS superblock in an image of `size` bytes, or None.

    The file system must end within the bytes that the digest covers, and have no extended attributes:
    they could carry file capabilities.
    """
    if len(head) < 96 or head[:4] != b"hsqs":
        return "is not a SquashFS image"
    inodes = struct.unpack_from("<I", head, 4)[0]
    used = struct.unpack_from("<Q", head, 40)[0]
    xattrs = struct.unpack_from("<Q", head, 56)[0]
    if used > size:
        return f"says that it has {used} bytes, but its signed size is {size}"
    if xattrs != 0xFFFF_FFFF_FFFF_FFFF:
        return "has extended attributes (they could carry file capabilities)"
    if inodes > MOST_ENTRIES:
        return f"has more than {MOST_ENTRIES} files"
    return None
