"""The unfinished file beside its target: sparse, locked by one fetch at a time, and never trusted.

What a killed fetch left in it is used region by region, where a region's digest holds; all the rest is made
a hole again. It takes the target's name only when it is complete and on disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from kiosk import files
from kiosk.errors import BusyError
from kiosk.log import logger
from kiosk.store.index import BLOCK, REGION, Index, digest_of

STEP = 1 << 18
"""Bytes in one write: four times as fast as 1 MiB was on ext4 (Linux 6), where those take large folios."""
FICLONERANGE = 0x4020940D
SYNC_FILE_RANGE_WRITE = 2
PUNCH_HOLE = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
ZERO_DIGEST = digest_of(bytes(REGION))
log = logger(__name__)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def index_file(target: Path) -> Path:
    """Where a fetch keeps the index of the file that it made, for the next version's use."""
    return target.with_name(f".{target.name}.index")


class Partial:
    """The file `.NAME.partial` beside the target `NAME`, of the size that the index says."""

    keeps_index = True
    """Whether the index is kept beside the target."""
    itself: BinaryIO | None = None
    """The target as a file that may hold blocks of an older version in their places, where it is written in place."""

    def __init__(self, target: Path, size: int) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.partial")
        self.size = size

    def __enter__(self) -> Self:
        with files.storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                self._lock()
                self.found = os.fstat(self.fd).st_blocks > 0
                os.ftruncate(self.fd, self.size)
            except BaseException:
                os.close(self.fd)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)

    def _lock(self) -> None:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.fstat(self.fd)
            if (ours.st_dev, ours.st_ino) == ((now := self.path.stat()).st_dev, now.st_ino):
                return
        except (BlockingIOError, FileNotFoundError):
            pass
        raise BusyError(
            "another kiosk is already fetching this file",
            where=str(self.target),
            hint="Wait until it has finished and run the command again.",
        ) from None

    def read_region(self, region: int) -> bytes:
        """A region's bytes."""
        at = region * REGION
        return os.pread(self.fd, min(REGION, self.size - at), at)

    def holds(self, index: Index, region: int) -> bool:
        """Whether a region is right. A hole is not read."""
        at = region * REGION
        length = min(REGION, self.size - at)
        if length == REGION and self._hole(at):
            return index.region_digest(region) == ZERO_DIGEST
        return digest_of(self.read_region(region)) == index.region_digest(region)

    def _hole(self, at: int) -> bool:
        try:
            return os.lseek(self.fd, at, os.SEEK_DATA) >= at + REGION
        except OSError as e:
            if e.errno == errno.ENXIO:
                return True
            raise

    def write(self, data: memoryview, block: int) -> None:
        """Writes blocks; what lies past the end of the file (the last block's padding) is left out."""
        at = block * BLOCK
        data = data[: self.size - at]
        while data:
            done = os.pwrite(self.fd, data[:STEP], at)
            data, at = data[done:], at + done

    def copy(self, source: int, start: int, block: int, count: int) -> None:
        """Copies or shares blocks of another open file, as far as that file has them and can be read.

        What could not be copied stays a hole; the regions' digests tell.
        """
        at, offset = block * BLOCK, start * BLOCK
        left = min(count * BLOCK, self.size - at)
        while left > 0:
            try:
                done = os.copy_file_range(source, self.fd, left, offset, at)
            except OSError as e:
                if e.errno in FULL:
                    raise
                done = self._copy_plainly(source, offset, at, min(left, STEP))
            if not done:
                return
            left, offset, at = left - done, offset + done, at + done

    def _copy_plainly(self, source: int, offset: int, at: int, length: int) -> int:
        try:
            data = os.pread(source, length, offset)
        except OSError as e:
            log.warning("an older file can't be read at %d: %s", offset, e.strerror)
            return 0
        return os.pwrite(self.fd, data, at)

    def shares(self, source: int, start: int, block: int) -> bool:
        """Whether this file system can share a block between the two files instead of copying it."""
        request = struct.pack("qQQQ", source, start * BLOCK, BLOCK, block * BLOCK)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.fd, FICLONERANGE, request)
            return True
        return False

    def prepare(self, index: Index, wanted: bytes) -> None:
        """Makes the regions that are to be written zero, at least where nothing will be written."""
        for region in range(index.region_count):
            if wanted[region]:
                self.clear(region)

    def clear(self, region: int) -> None:
        """Makes a region zero, a hole where the file system can."""
        at = region * REGION
        length = min(REGION, self.size - at)
        if _libc.fallocate(self.fd, PUNCH_HOLE, at, -(-length // BLOCK) * BLOCK) != 0:
            os.pwrite(self.fd, bytes(length), at)

    def begin_writeback(self, first: int, end: int) -> None:
        """Has the kernel begin to put regions on disk, so that little is left to wait for in the end."""
        _libc.sync_file_range(self.fd, first * REGION, (end - first) * REGION, SYNC_FILE_RANGE_WRITE)

    def free(self) -> int:
        """Bytes that may still be written on this file system."""
        at = os.fstatvfs(self.fd)
        return at.f_bavail * at.f_frsize

    def discard(self) -> None:
        """Removes the file, so that its space is free again."""
        self.path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Puts the file on disk and into the target's place."""
        os.fchmod(self.fd, 0o644)
        os.fsync(self.fd)
        self.path.replace(self.target)
        files.fsync_dir(self.target.parent)
