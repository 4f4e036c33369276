"""Writing into a folder that others read: only where nobody else can plant anything, and never half.

A folder is trusted when it and every folder above it belong to root or to us, and no one else may write in them
(above it, a sticky folder such as /tmp will do). In such a folder no name can become a link between a look and a write.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kiosk.errors import NotFoundError, StorageError
from kiosk.files import fsync_dir, point, storage_errors

OTHERS = stat.S_IWGRP | stat.S_IWOTH


def trusted(folder: Path) -> Path:
    """The folder itself, links on the way to it resolved. StorageError where another user could change what is in it
    or put another folder in its place; NotFoundError where there is none."""
    for path in [folder, *folder.parents]:
        _refuse_strangers(path)
    try:
        real = folder.resolve(strict=True)
    except OSError as e:
        raise NotFoundError(f"there is no such folder ({e.strerror})", where=str(folder)) from None
    for path in real.parents:
        _refuse_strangers(path)
    found = real.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise StorageError("is not a folder", where=str(real))
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & OTHERS:
        raise StorageError(
            "other users may write there, and could plant links",
            where=str(real),
            hint=f"chown root {real} && chmod go-w {real}",
        )
    return real


def _refuse_strangers(path: Path) -> None:
    """Refuses a part of a path that others could replace. A folder's own permissions are looked at elsewhere."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise NotFoundError("there is no such folder", where=str(path)) from None
    loose = stat.S_ISDIR(found.st_mode) and bool(found.st_mode & OTHERS) and not found.st_mode & stat.S_ISVTX
    if found.st_uid not in (0, os.geteuid()) or loose:
        raise StorageError(
            "belongs to another user, or others may write there",
            where=str(path),
            hint="Hand images over to a folder that only root can change.",
        )


def is_ours(path: Path) -> bool:
    """Whether a regular file stands there that we or root made. StorageError for anything else, a link above all."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()):
        raise StorageError(
            "something that kiosk did not make is in the way",
            where=str(path),
            hint="Look at it, and move it away.",
        )
    return True


@contextmanager
def placing(target: Path) -> Iterator[Path]:
    """A name for a new file beside `target`, which takes `target`'s name when the block ends well: on disk, readable
    by all, written by nobody. It vanishes when the block fails; what killed calls left is removed before."""
    is_ours(target)
    new = target.with_name(f".{target.name}.new")
    with storage_errors(target):
        try:
            new.unlink(missing_ok=True)
            yield new
            fd = os.open(new, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fchmod(fd, 0o444)
                os.fsync(fd)
            finally:
                os.close(fd)
            new.replace(target)
            fsync_dir(target.parent)
        finally:
            new.unlink(missing_ok=True)


def switch(link: Path, target: str) -> None:
    """Makes a link that is ours, or not there yet, point at `target`. StorageError where something else is."""
    try:
        found = link.lstat()
        if not stat.S_ISLNK(found.st_mode) or found.st_uid not in (0, os.geteuid()):
            raise StorageError(
                "is not a link that kiosk made", where=str(link), hint="Look at it, and move it away."
            )
        if str(link.readlink()) == target:
            return
    except FileNotFoundError:
        pass
    for left in link.parent.glob(f".{link.name}.*.new"):
        left.unlink(missing_ok=True)
    point(link, target)
