"""Files that are never half-written: atomic replacement, locks, digests, sparse copies.

Everything here that replaces a file guarantees that a reader, a crash, or a full disk meets the old
content or the new one, never a part of it (rename(2) is atomic; the data is on disk before the rename).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from kiosk.errors import BusyError, KioskError, StorageError
from kiosk.log import logger

log = logger(__name__)

CHUNK = 1 << 20
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def storage_errors(where: Path) -> Iterator[None]:
    """Turns an OSError about space, permission or a read-only disk into a StorageError naming `where`."""
    try:
        yield
    except OSError as e:
        hints = {
            errno.ENOSPC: "Free some space and run the command again; nothing was left half-written.",
            errno.EDQUOT: "The disk quota is used up; free some space and run the command again.",
            errno.EACCES: "Run the command as a user who may write there (or with sudo).",
            errno.EPERM: "Run the command as a user who may write there (or with sudo).",
            errno.EROFS: "The file system is read-only; choose another folder.",
        }
        if e.errno in hints:
            raise StorageError(
                os.strerror(e.errno), where=str(e.filename or where), hint=hints[e.errno]
            ) from e
        raise


def fsync_dir(path: Path) -> None:
    """Makes renames and removals in `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Opens a new file that takes `path`'s place when the block ends well, and vanishes when it does not."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.new")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as f:
                yield f
                f.flush()
                os.fchmod(f.fileno(), mode)
                os.fsync(f.fileno())
            temporary.replace(path)
            fsync_dir(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Removes what killed writers of `path` left beside it. Only for who knows that no other writes it now."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.new"):
        left.unlink(missing_ok=True)


def write(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Writes `data` to `path` atomically and durably."""
    with replacing(path, mode=mode) as f:
        f.write(data)


def point(link: Path, target: str) -> None:
    """Makes the symbolic link `link` point at `target`, atomically, whatever it pointed at before."""
    temporary = link.with_name(f".{link.name}.{secrets.token_hex(6)}.new")
    with storage_errors(link):
        temporary.symlink_to(target)
        try:
            temporary.replace(link)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_dir(link.parent)


@contextlib.contextmanager
def locked(path: Path, *, what: str) -> Iterator[None]:
    """Holds an exclusive lock (flock) on `path`; BusyError at once when another process has it.

    The kernel drops the lock when its holder dies, so a lock is never stale.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        f = path.open("ab")
    with f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"another kiosk is already working on {what}",
                where=str(path),
                hint="Wait until it has finished and run the command again.",
            ) from None
        yield


@contextlib.contextmanager
def waiting(path: Path, *, what: str, seconds: float) -> Iterator[None]:
    """As `locked`, but waits for another process that holds the lock; BusyError when it still does after `seconds`."""
    until = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(path, what=what))
                break
            except BusyError:
                if time.monotonic() >= until:
                    raise
                time.sleep(1)
        yield


@contextlib.contextmanager
def scratch(parent: Path, *, prefix: str = "scratch-") -> Iterator[Path]:
    """A private folder below `parent`, removed with all it holds when the block ends, however it ends.

    Folders that a killed process left behind are removed as well: each holds a lock while it is in use. One that
    can't be removed stays, with a warning, and keeps nobody from working.
    """
    with storage_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        for old in parent.glob(f"{prefix}*.lock"):
            with contextlib.suppress(BusyError), locked(old, what=str(old)):
                if discard(old.with_suffix("")):
                    old.unlink(missing_ok=True)
        folder = parent / f"{prefix}{secrets.token_hex(6)}"
        lock = folder.with_suffix(".lock")
    # it is locked before others can find it: one who finds it unlocked takes the folder for a leftover
    with locked(lock.with_suffix(".new"), what=str(folder)):
        lock.with_suffix(".new").rename(lock)
        try:
            folder.mkdir(mode=0o700)
            yield folder
        finally:
            remove_tree(folder)
            lock.unlink(missing_ok=True)


def discard(path: Path) -> bool:
    """Removes what nobody needs any more and nobody waits for; a warning (and False) where that can't be."""
    try:
        remove_tree(path)
    except (OSError, KioskError) as e:
        log.warning("%s is of no use any more and can't be removed: %s", path, e)
        return False
    return True


def remove_tree(path: Path) -> None:
    """Removes `path` and what is below it; refuses where anything is still mounted below it."""
    if not path.exists():
        return
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    below = [m for m in (line.split(" ")[1] for line in mounts.splitlines()) if Path(m).is_relative_to(path)]
    if below:
        raise KioskError(f"{below[0]} is still mounted, so {path} is not removed", hint=f"umount {below[0]}")
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        remove_below(parent, path.name)
    finally:
        os.close(parent)


def remove_below(parent: int, name: str) -> None:
    """Removes the folder `name` in the open folder `parent` and all that it holds, following no link. Folders further
    below are first moved up into it: any depth takes two open folders and no recursion, and what a killed process
    leaves is all in that folder."""
    top = os.open(name, FOLDER, dir_fd=parent)
    try:
        while folders := _without_files(top):
            for folder in folders:
                fd = os.open(folder, FOLDER, dir_fd=top)
                try:
                    for below in _without_files(fd):
                        os.rename(below, f".kiosk-{secrets.token_hex(12)}", src_dir_fd=fd, dst_dir_fd=top)
                finally:
                    os.close(fd)
                os.rmdir(folder, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _without_files(folder: int) -> list[str]:
    """Removes all from an open folder but the folders in it, and returns their names."""
    with os.scandir(folder) as found:
        entries = [(e.name, e.is_dir(follow_symlinks=False)) for e in found]
    for name, is_dir in entries:
        if not is_dir:
            os.unlink(name, dir_fd=folder)
    return [name for name, is_dir in entries if is_dir]


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written on the folder's file system, by users as well as by root."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def sha256(source: Path | IO[bytes]) -> str:
    """The digest `sha256:HEX` of a file's content, streamed."""
    if isinstance(source, Path):
        with source.open("rb") as f:
            return "sha256:" + hashlib.file_digest(f, "sha256").hexdigest()
    return "sha256:" + hashlib.file_digest(source, "sha256").hexdigest()  # type: ignore[arg-type]


def copy_sparse(source: Path, target: Path) -> None:
    """Copies a file, keeping its holes, sharing blocks where the file system can (FICLONE, then SEEK_DATA)."""
    ficlone = 0x40049409
    with storage_errors(target), source.open("rb") as src, target.open("wb") as dst:
        with contextlib.suppress(OSError):
            fcntl.ioctl(dst.fileno(), ficlone, src.fileno())
            return
        size = os.fstat(src.fileno()).st_size
        os.ftruncate(dst.fileno(), size)
        at = 0
        while at < size:
            try:
                at = os.lseek(src.fileno(), at, os.SEEK_DATA)
            except OSError as e:
                if e.errno == errno.ENXIO:
                    return
                raise
            end = os.lseek(src.fileno(), at, os.SEEK_HOLE)
            os.lseek(dst.fileno(), at, os.SEEK_SET)
            os.lseek(src.fileno(), at, os.SEEK_SET)
            while at < end:
                at += os.sendfile(dst.fileno(), src.fileno(), None, min(CHUNK * 16, end - at))
