"""A bandwidth limit: a source that reads no faster than so many bytes a second, over all its threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from kiosk.model.manifest import Object
from kiosk.store.objects import ObjectSource


class Limited:
    """Reads `source` at `rate` bytes a second at the most, on average; the first object comes at once."""

    def __init__(
        self, source: ObjectSource, rate: float, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._rate = rate
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._free_at = 0.0

    def read(self, wanted: Object, stop: threading.Event | None = None) -> bytes:
        """Waits for its turn, and reads; a wait ends early once `stop` is set."""
        pause = self.reserve(wanted.size)
        if pause > 0:
            (stop or threading.Event()).wait(pause)
        return self._source.read(wanted, stop)

    def has(self, wanted: Object) -> bool:
        """Asks the source."""
        return self._source.has(wanted)

    def reserve(self, size: int) -> float:
        """Takes the time that `size` bytes need, and says how many seconds to wait before they may move."""
        with self._lock:
            now = self._monotonic()
            begin = max(now, self._free_at)
            self._free_at = begin + size / self._rate
            return begin - now
