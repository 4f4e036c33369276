"""The swarm as the daemon uses it. Without libtorrent, or where it is switched off, there is none, and leases and
plain HTTP do all the work."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Protocol

from kiosk.agent.orders import Orders
from kiosk.errors import KioskError, NetworkError, NotFoundError
from kiosk.log import logger
from kiosk.swarm import torrent
from kiosk.swarm.options import PRIVATE, Options
from kiosk.swarm.session import Complete, Failed, Session

log = logger(__name__)
LOOK_EVERY = 1.0
PATIENCE = 3.0
UPLOADS_EVERY = 10.0
"""Seconds between looks at what peers were sent: that goes on when there is nothing else to report."""
SEE_EVERY = 600.0
"""Seconds between looks whether all that is shared is still there: whoever makes room on the disk need not tell."""
TRY_AGAIN = 30.0
"""Seconds after which a swarm is taken up again that stopped, mostly for want of space."""


class Swarm(Protocol):
    """This host's part in all swarms. No call blocks for long, none raises for what a peer or a file does."""

    @property
    def works(self) -> bool:
        """Whether there is one at all."""

    @property
    def uploaded(self) -> int:
        """Bytes that peers were sent since the start."""

    def fileno(self) -> int | None:
        """A descriptor that becomes readable when `completed` or `uploaded` has news; None where there will be
        none."""

    def seed(self, torrents: Sequence[tuple[str, Path]]) -> None:
        """Takes part in these swarms (infohash, .torrent file), and in no others, with what is in the objects'
        folder. What is not there any more is not offered any more."""

    def want(self, infohash: str, file: Path, digests: Sequence[str]) -> None:
        """Downloads these objects."""

    def have(self, digest: str) -> None:
        """An object came another way and stands in the objects' folder."""

    def lost(self, digest: str) -> None:
        """An object is not in the folder any more, or not as it should be."""

    def completed(self) -> list[str]:
        """Wanted objects that are complete since the last call."""

    def limit(self, rate: int) -> None:
        """Bytes a second for downloads; 0 for no limit."""

    def close(self) -> None:
        """Ends, with what is needed to go on quickly kept."""


class NoSwarm:
    """No swarm."""

    works = False
    uploaded = 0

    def fileno(self) -> int | None:
        """None."""
        return None

    def seed(self, torrents: Sequence[tuple[str, Path]]) -> None:
        """Nothing."""

    def want(self, infohash: str, file: Path, digests: Sequence[str]) -> None:
        """Nothing."""

    def have(self, digest: str) -> None:
        """Nothing."""

    def lost(self, digest: str) -> None:
        """Nothing."""

    def completed(self) -> list[str]:
        """Nothing."""
        return []

    def limit(self, rate: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Joined:
    """This host's session. Two threads call it: one does what the daemon wants, which may read gigabytes, the other
    waits for what comes."""

    works = True

    def __init__(
        self, session: Session, trackers: Sequence[str], upload: int, uploads_every: float = UPLOADS_EVERY
    ) -> None:
        self._session = session
        self._trackers = trackers
        self._upload = upload
        self._uploads_every = uploads_every
        self._todo: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._ready: deque[str] = deque()
        self._over = Event()
        self._wanting: str | None = None
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        self._threads = [Thread(target=t, daemon=True) for t in (self._do, self._hear)]
        for thread in self._threads:
            thread.start()

    @property
    def uploaded(self) -> int:
        """Bytes that peers were sent since the start."""
        return self._session.stats().sent

    def fileno(self) -> int | None:
        """Readable when objects are complete, or peers were sent something."""
        return self._read

    def seed(self, torrents: Sequence[tuple[str, Path]]) -> None:
        """Takes part in these, and in the one that objects are wanted of."""

        def change() -> None:
            for infohash in self._session.torrents - {h for h, _ in torrents} - {self._wanting}:
                self._session.remove(infohash)
            for infohash, file in torrents:
                self._add(infohash, file)
            self._session.look(self._over)
            self._session.save()

        self._todo.put(change)

    def want(self, infohash: str, file: Path, digests: Sequence[str]) -> None:
        """Downloads these objects; those that are here already are complete at once."""

        def fetch() -> None:
            self._wanting = infohash
            self._add(infohash, file, digests)
            coming = self._session.want(infohash, digests)
            self._tell(d for d in digests if d not in coming)

        self._todo.put(fetch)

    def have(self, digest: str) -> None:
        """Shares an object that came another way."""
        self._todo.put(lambda: self._session.have(digest))

    def lost(self, digest: str) -> None:
        """Offers an object no more, and fetches it again where it is wanted."""
        self._todo.put(lambda: self._session.lost(digest))

    def completed(self) -> list[str]:
        """Wanted objects that have become complete."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 65536)
        found = []
        while self._ready:
            found.append(self._ready.popleft())
        return found

    def limit(self, rate: int) -> None:
        """Downloads at this rate at most, and uploads as configured."""
        self._session.limit(upload=self._upload, download=rate)

    def close(self) -> None:
        """Leaves all swarms; a second or two."""
        self._over.set()
        self._todo.put(None)
        for thread in self._threads:
            thread.join(timeout=PATIENCE)
        self._session.close()

    def _add(self, infohash: str, file: Path, want: Sequence[str] = ()) -> None:
        if infohash not in self._session.torrents:
            with file.open("rb") as f:
                data = f.read(torrent.LARGEST + 1)
            self._session.add(data, infohash, trackers=self._trackers, want=want, stop=self._over)

    def _do(self) -> None:
        while (call := self._todo.get()) is not None and not self._over.is_set():
            try:
                call()
            except (KioskError, OSError) as e:
                log.warning("the swarm: %s", e)

    def _hear(self) -> None:
        stopped: dict[str, float] = {}
        told, look, see = 0, time.monotonic(), time.monotonic() + SEE_EVERY
        while not self._over.is_set():
            self._session.wait(min(LOOK_EVERY, self._uploads_every))
            if time.monotonic() >= look:
                look = time.monotonic() + self._uploads_every
                if (sent := self.uploaded) != told:
                    told = sent
                    self._tell(())
            if time.monotonic() >= see:
                see = time.monotonic() + SEE_EVERY
                self._todo.put(lambda: self._session.look(self._over))
            for event in self._session.poll():
                if isinstance(event, Complete):
                    self._tell([event.digest])
                elif isinstance(event, Failed):
                    log.warning("the swarm stops for now: %s", event.what)
                    stopped.setdefault(event.infohash, time.monotonic() + TRY_AGAIN)
                else:
                    log.info("the swarm: %s", event)
            for infohash in [h for h, at in stopped.items() if at <= time.monotonic()]:
                del stopped[infohash]
                with contextlib.suppress(NotFoundError):  # it was left meanwhile
                    self._session.resume(infohash)

    def _tell(self, digests: Iterable[str]) -> None:
        self._ready.extend(digests)
        with contextlib.suppress(OSError):
            os.write(self._write, b"\0")


def join(orders: Orders) -> Swarm:
    """This host's part in the swarm, as its configuration has it."""
    if not orders.swarm:
        return NoSwarm()
    options = Options(
        listen=orders.swarm_listen,
        peers=orders.swarm_peers or PRIVATE,
        near=orders.swarm_near,
        upload_limit=orders.swarm_upload,
    )
    try:
        session = Session(orders.folder, orders.folder / "whole.json", options)
    except NetworkError as e:
        log.warning("no swarm: %s", e)
        return NoSwarm()
    trackers = (f"{orders.api}/announce",) if orders.api is not None else ()
    return Joined(session, trackers, orders.swarm_upload)
