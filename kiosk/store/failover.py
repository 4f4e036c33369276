"""Several sources in order: the first that has an object gives it.

Only *missing* and *unreachable* move on to the next source. *Corrupt* is reported (a warning, and the list
`corrupt`), and that source is put aside for good: whoever gives wrong bytes once is not asked again. A source
that can't be reached is asked last for a while, so that each object does not wait for it anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event

from kiosk.errors import CorruptError, KioskError, NetworkError
from kiosk.log import logger
from kiosk.model.manifest import Object
from kiosk.store.objects import MissingObject, ObjectSource

log = logger(__name__)

REST = 30.0
"""Seconds for which an unreachable source is asked last."""


@dataclass(frozen=True)
class Corrupt:
    """A wrong object: the name of the source that gave it, its digest, and what was wrong."""

    source: str
    digest: str
    what: str


class Failover:
    """Asks `sources` (name to source, in order). May be used by several threads if they may."""

    def __init__(
        self, sources: Mapping[str, ObjectSource], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._sources = dict(sources)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._rests: dict[str, float] = {}
        self._aside: set[str] = set()
        self.corrupt: list[Corrupt] = []

    def read(self, wanted: Object, stop: Event | None = None) -> bytes:
        """The object from the first that has it. When none gives it: what was worst, since an object that is
        corrupt or out of reach somewhere is not known to be missing."""
        faults: list[KioskError] = []
        for name in self._order():
            try:
                return self._sources[name].read(wanted, stop)
            except MissingObject as e:
                faults.append(e)
            except (NetworkError, OSError) as e:
                faults.append(self._unreachable(name, e))
            except CorruptError as e:
                faults.append(e)
                self._put_aside(name, wanted, e)
            if stop is not None and stop.is_set():
                break
        raise self._worst(faults, wanted)

    def has(self, wanted: Object) -> bool:
        """Whether one has it; NetworkError when none of those that answer has it, and one does not answer."""
        faults: list[KioskError] = []
        for name in self._order():
            try:
                if self._sources[name].has(wanted):
                    return True
            except (NetworkError, OSError) as e:
                faults.append(self._unreachable(name, e))
        if faults:
            raise faults[0]
        return False

    def _order(self) -> list[str]:
        """Those that are not put aside; those that rest come last."""
        now = self._monotonic()
        with self._lock:
            usable = [n for n in self._sources if n not in self._aside]
            return sorted(usable, key=lambda n: self._rests.get(n, 0) > now)

    def _unreachable(self, name: str, error: NetworkError | OSError) -> NetworkError:
        log.info("%s can't be used now: %s", name, error)
        with self._lock:
            self._rests[name] = self._monotonic() + REST
        if isinstance(error, NetworkError):
            return error
        return NetworkError(f"can't be read: {error.strerror or error}", where=name)

    def _put_aside(self, name: str, wanted: Object, error: CorruptError) -> None:
        log.warning("%s gives wrong data and is not asked again: %s", name, error)
        with self._lock:
            self._aside.add(name)
            self.corrupt.append(Corrupt(name, wanted.digest, error.what))

    def _worst(self, faults: list[KioskError], wanted: Object) -> KioskError:
        for kind in (CorruptError, NetworkError):
            for fault in faults:
                if isinstance(fault, kind):
                    return fault
        names = ", ".join(self._sources)
        if self._aside:
            return CorruptError("the sources that may have it gave wrong data before", where=names)
        return MissingObject("no source has the object", where=f"{names}: {wanted.digest}")
