"""An older version of a file, whose blocks keep their places in the new one where they are the same."""

from __future__ import annotations

import bisect
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from kiosk.store.index import REGION, REGION_BLOCKS, Index, Run, digest_of


class Older:
    """Its index, and the file itself where it is at hand: then single blocks can be compared without being
    hashed. What of the file is not what the index says is not used."""

    def __init__(self, index: Index, path: Path | None = None) -> None:
        self.index = index
        self._path = path
        self._fd: int | None = None

    def __enter__(self) -> Self:
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def runs(self, region: int) -> Iterator[Run]:
        """The runs of a region, cut at its ends."""
        runs = self.index.runs
        begin, end = region * REGION_BLOCKS, (region + 1) * REGION_BLOCKS
        for i in range(max(0, bisect.bisect_right(runs.to, begin) - 1), bisect.bisect_left(runs.to, end)):
            to, pack, slot, count = runs[i]
            skip = max(0, begin - to)
            length = min(to + count, end) - to - skip
            if length > 0:
                yield Run(to + skip, pack, slot + skip, length)

    def data(self, region: int) -> bytes | None:
        """The bytes of a region, if they are at hand and right."""
        length = min(REGION, self.index.size - region * REGION)
        if self._fd is None or length <= 0:
            return None
        try:
            data = os.pread(self._fd, length, region * REGION)
        except OSError:
            return None
        return data if digest_of(data) == self.index.region_digest(region) else None
