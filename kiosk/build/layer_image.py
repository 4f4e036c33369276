"""A layer's image: made from a folder, the same bytes for the same files, and opened again as data.

Permissions become 0755 or 0644, owners root, times zero, so that neither the build host's umask nor its
clock can be found in the bytes. A finished image is never mounted here: unsquashfs lists it, and its list
is read so that no name in it can pass for something else.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from contextualize.tree import Entry, squashfs_fault
from kiosk.errors import PolicyError
from kiosk.run import CommandError, run

NORMAL_MODES = "chmod(u=rwX,go=rX)@!type(l)"
TIMEOUT = 1800.0
LINE = re.compile(
    r"([-dlbcps])([-rwxsStT]{9}) ([0-9]+)/([0-9]+) +([0-9]+)(?:, *[0-9]+)? "
    r"[0-9]{4,}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2} squashfs-root(?:/(.*))?"
)
KINDS = {
    "-": stat.S_IFREG, "d": stat.S_IFDIR, "l": stat.S_IFLNK, "b": stat.S_IFBLK,
    "c": stat.S_IFCHR, "p": stat.S_IFIFO, "s": stat.S_IFSOCK,
}  # fmt: skip


def folder_entries(folder: Path) -> Iterator[Entry]:
    """The files below a folder as they will be in an image, in sorted order. Links are not followed."""
    for path in sorted(folder.iterdir()):
        yield from _entry(folder, path)


def _entry(top: Path, path: Path) -> Iterator[Entry]:
    at = path.lstat()
    kind = stat.S_IFMT(at.st_mode)
    yield Entry(
        str(path.relative_to(top)),
        at.st_mode,
        size=at.st_size if kind == stat.S_IFREG else 0,
        target=str(path.readlink()) if kind == stat.S_IFLNK else "",
    )
    if kind == stat.S_IFDIR:
        for child in sorted(path.iterdir()):
            yield from _entry(top, child)


def make(folder: Path, image: Path) -> None:
    """Makes the SquashFS image of a folder. `image` must not be there yet."""
    run(
        [
            "mksquashfs", folder, image, "-noappend", "-reproducible", "-all-root", "-no-xattrs", "-no-exports",
            "-comp", "zstd", "-Xcompression-level", "15", "-b", "128K", "-action", NORMAL_MODES,
            "-no-progress", "-quiet",
        ],
        timeout=TIMEOUT,
        env={"SOURCE_DATE_EPOCH": "0"},
    )  # fmt: skip


def image_entries(image: Path) -> dict[str, Entry]:
    """The files of a finished image by path; PolicyError when it is no plain SquashFS image."""
    with image.open("rb") as f:
        fault = squashfs_fault(f.read(96), os.fstat(f.fileno()).st_size)
    if fault:
        raise PolicyError(fault, where=str(image))
    try:
        listing = run(["unsquashfs", "-UTC", "-lln", image], timeout=TIMEOUT)
    except CommandError as e:
        raise PolicyError(
            f"is not a readable SquashFS image: {e.output.strip()[-200:]}", where=str(image)
        ) from e
    entries: dict[str, Entry] = {}
    for line in listing.split("\n"):
        entry = _listed(line, image) if line else None
        if entry is not None:
            if entry.path in entries:
                raise PolicyError(f"lists {entry.path!r} twice", where=str(image))
            entries[entry.path] = entry
    return entries


def _listed(line: str, image: Path) -> Entry | None:
    """One line of the list; None for the top folder. A name with a line break or an arrow in it makes a line
    that is not of this form, or a second entry with a name of its own: neither hides the first."""
    found = LINE.fullmatch(line)
    if found is None:
        raise PolicyError(f"has a file whose name can't be read: {line!r:.200}", where=str(image))
    kind, bits, uid, gid, size, name = found.groups()
    mode = KINDS[kind] | _mode(bits)
    if name is None:
        name = "."
    target = ""
    if kind == "l":
        if name.count(" -> ") != 1:
            raise PolicyError(f"has a link that can't be read: {name!r:.200}", where=str(image))
        name, target = name.split(" -> ")
    if name == ".":
        return None
    return Entry(name, mode, int(uid), int(gid), int(size) if kind == "-" else 0, target)


def _mode(bits: str) -> int:
    mode = 0
    for i, bit in enumerate(bits):
        if bit not in "-ST":
            mode |= 1 << (8 - i)
    special = ((2, "sS", stat.S_ISUID), (5, "sS", stat.S_ISGID), (8, "tT", stat.S_ISVTX))
    for place, letters, flag in special:
        if bits[place] in letters:
            mode |= flag
    return mode


def content(image: Path, path: str) -> bytes:
    """The content of one file of an image, whose size the caller has looked at."""
    return run(["unsquashfs", "-no-wildcards", "-cat", image, path], timeout=60).encode()
