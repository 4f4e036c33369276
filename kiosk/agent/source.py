"""Where an agent's fetch gets its objects: from what this host shares, from the origin, or from the swarm.

* What a fetch announces is read from the origin only while this host may (see `access`); otherwise the swarm
  brings it, and every object that came is checked against its SHA-256 like any other.
* What nobody announced (an index, a list of a difference, a torrent) is small, and read at once.
* What came from the origin is kept for others, where this host shares and has room; a full disk stops the
  sharing and not the fetch.
* With several lease holders, each begins at another place, so that between them the swarm has all of a version
  soon.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kiosk.agent.access import FEW, Access, turn
from kiosk.agent.shared import Shared
from kiosk.agent.talk import Talk
from kiosk.errors import CorruptError, KioskError, NetworkError, StorageError
from kiosk.log import logger
from kiosk.model.manifest import Object
from kiosk.model.names import Ref
from kiosk.store.cache import Flights
from kiosk.store.objects import MissingObject, ObjectSource

log = logger(__name__)

LOOK = 0.5
"""Seconds between looks of a reader that waits."""
AHEAD = 6
"""Threads that read for the swarm."""


@dataclass(frozen=True)
class Place:
    """Who fetches: the host, how much the origin gives (bytes a second), and how many hosts wanted a version when that
    was last known (0: it never was)."""

    host: str
    rate: float
    fanout: int = 0


class AgentSource:
    """The source for one version. `torrent` (infohash, path of the .torrent file) where it has a swarm;
    `shared` None: nothing is shared. `room(needs, kept)` is asked before a file is fetched: it raises when
    `needs` bytes can't be had, and says whether `kept` more may be kept for sharing."""

    def __init__(
        self,
        origin: ObjectSource,
        talk: Talk,
        ref: Ref,
        at: Place,
        *,
        shared: Shared | None = None,
        torrent: tuple[str, str] | None = None,
        room: Callable[[int, int], bool] = lambda _needs, _kept: True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._origin = origin
        self._talk = talk
        self._ref = ref
        self._shared = shared
        self._torrent = torrent if shared is not None else None
        self._room = room
        self._changed = threading.Condition()
        self._flights = Flights()
        self._announced: dict[str, Object] = {}
        self._left = 0
        self._there: set[str] = set()
        self._came: set[str] = set()
        self._keeps = shared is not None
        self._joined = False
        self._ahead = 0
        self._ahead_began = False
        self._closed = threading.Event()
        self.bytes: dict[str, int] = {"http": 0, "swarm": 0, "local": 0}
        name, version = ref.base, str(ref.version)
        self._access = Access(
            ask=lambda: talk.say("lease", name=name, version=version, bytes=self._left, done=False),
            turn_of=lambda fanout: turn(at.host, name, version, fanout, max(1, self._left), at.rate),
            monotonic=monotonic,
            fanout=at.fanout,
        )
        talk.listener = self.hear

    # -- what the fetch calls -------------------------------------------------------------------------

    def announce(self, objects: Sequence[Object], needs: int) -> None:
        """Hears what will be read; see kiosk.store.fetch."""
        size = sum(one.size for one in objects)
        fits = self._room(needs, size if self._keeps else 0)
        with self._changed:
            self._keeps = self._keeps and fits
            if not objects:
                return
            for one in objects:
                self._announced[one.digest] = one
                if self._shared is not None and self._shared.has(one):
                    self._there.add(one.digest)
            self._left += sum(one.size for one in objects if one.digest not in self._there)
            if self._joined:
                self._want(objects)
            if not all(one.digest in self._there for one in objects):
                self._access.begin()

    def read(self, wanted: Object, stop: threading.Event | None = None) -> bytes:
        """The object, verified, from wherever it may come. Waits as long as it takes, but not past `stop`."""
        if wanted.digest not in self._announced:
            return self._from_origin(wanted, stop, keep=False)
        with self._flights.alone(wanted.digest):
            while True:
                if (data := self._from_here(wanted)) is not None:
                    return data
                if stop is not None and stop.is_set():
                    raise NetworkError("the fetch was stopped", where=wanted.digest)
                with self._changed:
                    if wanted.digest in self._there:
                        continue
                    if not self._may_read():
                        self._changed.wait(LOOK)
                        continue
                return self._from_origin(wanted, stop, keep=True)

    def has(self, wanted: Object) -> bool:
        """Asks the origin."""
        return self._origin.has(wanted)

    def close(self) -> None:
        """Ends what runs ahead and gives the lease back."""
        self._closed.set()
        with self._changed:
            begun, left = self._access.begun, self._left
        if begun:
            self._talk.say(
                "lease", name=self._ref.base, version=str(self._ref.version), bytes=left, done=True
            )
        self._talk.listener = None

    # -- what the daemon says -------------------------------------------------------------------------

    def hear(self, heard: Mapping[str, Any]) -> None:
        """A lease, or an object that the swarm has brought."""
        with self._changed:
            if "lease" in heard:
                self._access.answer(heard["lease"], heard.get("fanout", 0))
                self._take_part()
            elif heard.get("object") in self._announced:
                if (
                    heard["object"] not in self._there
                ):  # else it came another way, and the swarm has it now, too
                    self._came.add(heard["object"])
                self._there.add(heard["object"])
                self._access.moved()
            self._changed.notify_all()

    # -- inside ---------------------------------------------------------------------------------------

    def _may_read(self) -> bool:
        """Whether a reader may go to the origin itself: with a lease, and not where others run ahead of it."""
        granted = self._access.granted()
        self._take_part()
        return granted and not self._ahead

    def _take_part(self) -> None:
        """Joins the swarm unless a few hosts can all read from the origin; runs ahead of the readers where
        others wait for what this host brings."""
        if self._torrent is None or not self._keeps:
            return
        asking = self._access.waiting and not self._joined
        granted = self._access.granted()
        if granted and self._access.fanout <= FEW:
            return
        if not self._joined and not asking:
            self._joined = True
            self._want(list(self._announced.values()))
        if granted and not self._ahead_began and self._keeps:
            self._ahead_began = True
            self._run_ahead()

    def _want(self, objects: Sequence[Object]) -> None:
        assert self._torrent is not None
        missing = [[o.digest, o.size] for o in objects if o.digest not in self._there]
        self._talk.say("want", infohash=self._torrent[0], torrent=self._torrent[1], objects=missing)

    def _run_ahead(self) -> None:
        """Starts the threads that read for the swarm, from this holder's own place on. With the lock held."""
        objects = list(self._announced.values())
        begin = int(len(objects) * fraction(self._access.slot))
        todo = iter(objects[begin:] + objects[:begin])
        taking = threading.Lock()

        def work() -> None:
            try:
                while not self._closed.is_set():
                    with taking:
                        one = next(todo, None)
                    if one is None or not self._bring(one):
                        return
            finally:
                with self._changed:
                    self._ahead -= 1
                    self._changed.notify_all()

        for n in range(AHEAD):
            thread = threading.Thread(target=work, name=f"kiosk-ahead-{n}", daemon=True)
            try:
                thread.start()
            except RuntimeError as e:  # those that run do it; without any, the readers do it themselves
                log.warning("only %d of %d threads read ahead: %s", n, AHEAD, e)
                return
            self._ahead += 1  # before the thread can end: it takes the lock that we hold

    def _bring(self, one: Object) -> bool:
        """Brings one object for the readers and the swarm. False when that is over: no lease, an error (which
        a reader will meet itself), or no room to keep it."""
        with self._changed:
            if one.digest in self._there:
                return True
            if not self._access.granted() or not self._keeps:
                return False
        try:
            self._from_origin(one, self._closed, keep=True)
        except (KioskError, OSError) as e:
            log.info("%s can't be read ahead: %s", one.digest, e)
            return False
        return True

    def _from_here(self, wanted: Object) -> bytes | None:
        if wanted.digest not in self._there or self._shared is None:
            return None
        try:
            data = self._shared.read(wanted)
        except (MissingObject, CorruptError, OSError) as e:
            log.info("%s is not used: %s", wanted.digest, e)
            self._talk.say("lost", digest=wanted.digest)
            with self._changed:
                self._there.discard(wanted.digest)
                self._came.discard(wanted.digest)
                self._access.begin()
                if self._joined:
                    self._want(list(self._announced.values()))
            return None
        with self._changed:
            came = wanted.digest in self._came
        self._count("swarm" if came else "local", wanted)
        return data

    def _from_origin(self, wanted: Object, stop: threading.Event | None, *, keep: bool) -> bytes:
        data = self._origin.read(wanted, stop)
        self._count("http", wanted)
        if keep:
            self._keep(wanted, data)
        with self._changed:
            self._access.moved()
        return data

    def _keep(self, wanted: Object, data: bytes) -> None:
        if self._shared is None or not self._keeps:
            return
        try:
            self._shared.write(wanted, data)
        except StorageError as e:
            log.warning("%s; nothing more of %s is shared", e, self._ref)
            with self._changed:
                self._keeps = False
                if self._joined and self._torrent is not None:  # what others would bring has no room either
                    self._talk.say("want", infohash=self._torrent[0], torrent=self._torrent[1], objects=[])
            return
        with self._changed:
            self._there.add(wanted.digest)
            self._changed.notify_all()
        self._talk.say("have", digest=wanted.digest)

    def _count(self, transport: str, wanted: Object) -> None:
        with self._changed:
            self.bytes[transport] += wanted.size
            if transport != "local":
                self._left = max(0, self._left - wanted.size)


def fraction(slot: int) -> float:
    """Where a lease holder begins: 0, 1/2, 1/4, 3/4, 1/8 ... of the version."""
    found, step = 0.0, 0.5
    while slot:
        found += step * (slot & 1)
        slot, step = slot >> 1, step / 2
    return found
