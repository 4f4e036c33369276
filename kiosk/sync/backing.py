"""Which files a VM's disk is built on: the backing files of a qcow2, read from its header, without a program.

A disk is a VM's to write, so its header is read as a stranger's. One that QEMU opens nothing by (a raw disk whose
guest wrote the magic number, say) names nothing: it must not keep every version of a host for ever.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kiosk.errors import StorageError

MAGIC = b"QFI\xfb"
HEADER = struct.Struct(">4sIQI")
LONGEST = 1023
"""Bytes of a backing file's name, as QEMU has it."""
PART = 255
"""Bytes of a name between two slashes: no file has a longer one."""
DEEPEST = 32


def chain(disk: Path) -> Iterator[os.stat_result]:
    """The disk and every file below it, as they are now; nothing for one that is gone. StorageError where a disk is
    there and what it is built on can't be read."""
    left, seen = [disk], set[tuple[int, int]]()
    while left:
        path = left.pop()
        read = _read(path)
        if read is None or (key := (read[0].st_dev, read[0].st_ino)) in seen:
            continue
        seen.add(key)
        if len(seen) > DEEPEST:
            raise StorageError(f"is built on more than {DEEPEST} files", where=str(disk))
        yield read[0]
        left += [path.parent / name for name in read[1]]


def names(disk: Path) -> list[Path]:
    """The files that a disk itself names as those below it, links not followed. StorageError as above."""
    read = _read(disk)
    return [disk.parent / name for name in read[1]] if read else []


def _read(path: Path) -> tuple[os.stat_result, list[str]] | None:
    """A file's status, and the names of the files that it is built on."""
    try:
        if not stat.S_ISREG((found := path.stat()).st_mode):
            return found, []
        with path.open("rb") as f:
            return os.fstat(f.fileno()), _backing(f.fileno())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as e:
        raise StorageError(f"can't be read: {e}", where=str(path)) from None


def _backing(fd: int) -> list[str]:
    start = os.pread(fd, HEADER.size, 0)
    if len(start) < HEADER.size or not start.startswith(MAGIC):
        return []
    _, _, at, length = HEADER.unpack(start)
    if at == 0 or not 0 < length <= LONGEST or at + length > os.fstat(fd).st_size:
        return []
    name = os.fsdecode(os.pread(fd, length, at).partition(b"\0")[0])
    if not name.startswith("json:"):
        return list(filter(_possible, [name.removeprefix("file:")]))
    try:
        return list(filter(_possible, _paths(json.loads(name.removeprefix("json:")))))
    except (ValueError, RecursionError):
        return []


def _possible(name: str) -> bool:
    """Whether a file can have this name."""
    try:
        return "\0" not in name and all(len(part) <= PART for part in os.fsencode(name).split(b"/"))
    except UnicodeEncodeError:
        return False


def _paths(value: Any) -> Iterator[str]:
    """Every text in a description of a block device that may be a file's name."""
    if isinstance(value, dict):
        for one in value.values():
            yield from _paths(one)
    elif isinstance(value, list):
        for one in value:
            yield from _paths(one)
    elif isinstance(value, str) and "/" in value:
        yield value
