"""Reads a file region by region and hashes it, a few regions ahead of whoever looks at them.

Two threads read and hash regions, one takes the SHA-256 of the whole file behind them where that is wanted.
Holes are not read. Memory is bounded by the regions that are ahead.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Self

from kiosk.errors import CorruptError
from kiosk.store.index import REGION, digest_of
from kiosk.store.older import Older

AHEAD = 12
ZERO_REGION = memoryview(bytes(REGION))
ZERO_DIGEST = digest_of(ZERO_REGION)


def digests(path: Path) -> tuple[str, str]:
    """A file's SHA-256, and the SHA-256 of its regions' digests one after the other, which says as much and is
    found several times as fast. Read once."""
    with path.open("rb") as f, Regions(f.fileno(), os.fstat(f.fileno()).st_size, whole=True) as regions:
        for _ in regions:
            pass
        found, whole = regions.finish()
    assert whole is not None
    return whole, digest_of_regions(found)


def digest_of_regions(found: bytes) -> str:
    """The digest of all regions' digests."""
    return "sha256:" + hashlib.sha256(found).hexdigest()


class Region(NamedTuple):
    """A region's number, length, digest, and bytes (None for a hole); where it differs from an older file's,
    the bytes of that one, if they are at hand."""

    number: int
    length: int
    digest: bytes
    data: bytes | None
    before: bytes | None = None


class Regions:
    """The regions of the file open as `fd`, once, in order; then the digests of all, and with `whole` that of the
    file.

    A context manager: whatever ends it, no thread of it reads any more. CorruptError when the file ends early.
    """

    def __init__(self, fd: int, size: int, *, whole: bool, older: Older | None = None) -> None:
        self._older = older
        self._fd = fd
        self._size = size
        self._digests: list[bytes] = []
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="kiosk-regions")
        self._whole = hashlib.sha256()
        self._wanted = whole
        self._queue: queue.Queue[Region | None] = queue.Queue(maxsize=AHEAD)
        self._thread = threading.Thread(target=self._hash_whole, name="kiosk-whole", daemon=True)

    def __enter__(self) -> Self:
        if self._wanted:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._end()

    def __iter__(self) -> Iterator[Region]:
        waiting: deque[Future[Region]] = deque()
        for number in range(-(-self._size // REGION)):
            waiting.append(self._pool.submit(self._region, number))
            if len(waiting) > AHEAD:
                yield self._next(waiting.popleft().result())
        while waiting:
            yield self._next(waiting.popleft().result())

    def finish(self) -> tuple[bytes, str | None]:
        """All regions' digests, one after the other, and the file's SHA-256, if it was wanted."""
        self._end()
        return b"".join(self._digests), "sha256:" + self._whole.hexdigest() if self._wanted else None

    def _next(self, region: Region) -> Region:
        self._digests.append(region.digest)
        if self._wanted:
            self._queue.put(region)
        return region

    def _end(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _region(self, number: int) -> Region:
        at = number * REGION
        length = min(REGION, self._size - at)
        if self._is_hole(at, length):
            digest = ZERO_DIGEST if length == REGION else digest_of(ZERO_REGION[:length])
            return Region(number, length, digest, None)
        data = os.pread(self._fd, length, at)
        if len(data) != length:
            raise CorruptError(f"ends at {at + len(data)}, it became shorter while it was read")
        digest = digest_of(data)
        differs = self._older is not None and self._older.index.region_digest(number) != digest
        before = self._older.data(number) if self._older is not None and differs else None
        return Region(number, length, digest, data, before)

    def _is_hole(self, at: int, length: int) -> bool:
        try:
            return os.lseek(self._fd, at, os.SEEK_DATA) >= at + length
        except OSError as e:
            if e.errno == errno.ENXIO:
                return True
            raise

    def _hash_whole(self) -> None:
        while (region := self._queue.get()) is not None:
            self._whole.update(ZERO_REGION[: region.length] if region.data is None else region.data)
