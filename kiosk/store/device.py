"""A block device as the target of a fetch: written in place, looked at region by region before.

What is there already and right is left alone, so that an older version on the device saves most of the
downloading, and a killed fetch goes on where it was. Nothing takes a name in the end: a device is complete
when the call that wrote it returns, and only then. Whatever lies behind the image's end is not touched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from kiosk import files
from kiosk.errors import BusyError, StorageError
from kiosk.log import logger
from kiosk.store.index import BLOCK, REGION_BLOCKS, Index
from kiosk.store.partial import STEP, Partial

BLKZEROOUT = 0x127F
LARGE = 1 << 16
"""Zeros from so many bytes on are asked of the device, which may do it without writing them."""
log = logger(__name__)


def is_device(path: Path) -> bool:
    """Whether a block device (or a link to one) stands there."""
    try:
        return stat.S_ISBLK(path.stat().st_mode)
    except FileNotFoundError:
        return False


class Device(Partial):
    """A block device, opened for this process alone: one that is mounted or in use is a BusyError."""

    keeps_index = False

    def __init__(self, target: Path, size: int) -> None:
        super().__init__(target, size)
        self.path = target
        self._touched = False

    def __enter__(self) -> Self:
        with files.storage_errors(self.path):
            try:
                self.fd = os.open(self.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
            except OSError as e:
                if e.errno != errno.EBUSY:
                    raise
                raise BusyError(
                    "is mounted, or in use by another kiosk or the system",
                    where=str(self.path),
                    hint="Stop what uses it and run the command again.",
                ) from None
        there = os.lseek(self.fd, 0, os.SEEK_END)
        if there < self.size:
            os.close(self.fd)
            raise StorageError(
                f"has {there} bytes, and the image needs {self.size}",
                where=str(self.path),
                hint="Make it larger (lvextend), or name another device. Nothing was written.",
            )
        self.found = True
        self.itself = os.fdopen(self.fd, "rb", buffering=0, closefd=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if error is not None and self._touched:
            log.warning("%s holds an incomplete image now; run the command again to complete it", self.path)

    def prepare(self, index: Index, wanted: bytes) -> None:
        """Makes zero what no block will be written to: everything else is written once."""
        for at, length in _gaps(index, wanted):
            self._zero(at * BLOCK, min(length * BLOCK, self.size - at * BLOCK))

    def _zero(self, at: int, length: int) -> None:
        self._touched = True
        if length >= LARGE:
            whole = length - length % BLOCK
            with contextlib.suppress(OSError):
                fcntl.ioctl(self.fd, BLKZEROOUT, struct.pack("QQ", at, whole))
                at, length = at + whole, length - whole
        while length:
            done = os.pwrite(self.fd, bytes(min(STEP, length)), at)
            at, length = at + done, length - done

    def write(self, data: memoryview, block: int) -> None:
        """Writes blocks in place."""
        self._touched = True
        super().write(data, block)

    def copy(self, source: int, start: int, block: int, count: int) -> None:
        """Copies blocks in place; those of the device itself that stand there already are left alone."""
        if source == self.fd and start == block:
            return
        self._touched = True
        super().copy(source, start, block, count)

    def _hole(self, at: int) -> bool:
        """Block devices know no holes."""
        return False

    def shares(self, source: int, start: int, block: int) -> bool:
        """A device shares nothing."""
        return False

    def free(self) -> int:
        """As much as the image needs: that the device is large enough was seen when it was opened."""
        return 1 << 62

    def discard(self) -> None:
        """Nothing: what is right on the device is used by the next call."""

    def finish(self) -> None:
        """Waits until all of it is on the device."""
        os.fsync(self.fd)


def _gaps(index: Index, wanted: bytes) -> Iterator[tuple[int, int]]:
    """The blocks of wanted regions that no run covers, as (block, how many)."""
    end = 0
    for to, count in zip(index.runs.to, index.runs.count, strict=True):
        yield from _inside(end, to, wanted)
        end = to + count
    yield from _inside(end, index.blocks, wanted)


def _inside(start: int, end: int, wanted: bytes) -> Iterator[tuple[int, int]]:
    """The parts of an interval that lie in wanted regions, neighbours together."""
    blocks = REGION_BLOCKS
    at = start
    while at < end:
        region = until = at // blocks
        while until * blocks < end and bool(wanted[until]) == bool(wanted[region]):
            until += 1
        stop = min(end, until * blocks)
        if wanted[region]:
            yield at, stop - at
        at = stop
