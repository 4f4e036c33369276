"""A source that keeps what it reads in a store of its own and reads it there the next time.

Both sides verify what they give, so that nothing wrong is kept, and a copy that was damaged is fetched again.
Several readers who want the same object at once make one request.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

from kiosk.errors import CorruptError, StorageError
from kiosk.log import logger
from kiosk.model.manifest import Object
from kiosk.store.objects import MissingObject, ObjectSource, ObjectStore

log = logger(__name__)


class Cache:
    """Reads `source` through the store `kept`."""

    def __init__(self, source: ObjectSource, kept: ObjectStore) -> None:
        self._source = source
        self._kept = kept
        self._flights = Flights()

    def read(self, wanted: Object, stop: Event | None = None) -> bytes:
        """The object from the store, else from the source, whose errors are passed on. A store that is full
        keeps nothing more, and says so in the log; reading goes on."""
        with self._flights.alone(wanted.digest):
            try:
                return self._kept.read(wanted, stop)
            except MissingObject:
                pass
            except CorruptError as e:
                log.warning("%s; it is fetched again", e)
            data = self._source.read(wanted, stop)
            try:
                self._kept.write(data)
            except StorageError as e:
                log.warning("%s; the object is used and not kept", e)
            return data

    def has(self, wanted: Object) -> bool:
        """Whether either has it."""
        return self._kept.has(wanted) or self._source.has(wanted)


class Flights:
    """One at a time for each name; whoever comes second waits for the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Holds the name."""
        with self._lock:
            lock, users = self._locks.get(name, (threading.Lock(), 0))
            self._locks[name] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, users = self._locks[name]
                if users == 1:
                    del self._locks[name]
                else:
                    self._locks[name] = lock, users - 1
