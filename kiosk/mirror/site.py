"""`kiosk mirror --serve`: a read-through mirror of a site. It serves a folder as `kiosk serve` does, and gets
from upstream what is not in it.

* Metadata and manifests are verified with the root of trust before they are kept, and replaced as whole states,
  the timestamp last. They are brought up to date when somebody asks for the timestamp, at most every few seconds.
* An object is kept, and its first byte passed on, when all of it has arrived and has the digest that it is named
  by. Many who ask for one make one request upstream. A copy that a reader complains of is read again, and
  replaced if it is wrong.
* Upstream down, stale, or lying: what is here stays as it is and is served (fail-static). What is not here is
  then answered with 502 or 504, never with 404: not known is not missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

from tuf.api.exceptions import DownloadError, DownloadHTTPError

from kiosk.config import Settings
from kiosk.errors import CorruptError, KioskError, NetworkError
from kiosk.files import replacing, sha256, storage_errors
from kiosk.log import logger
from kiosk.mirror import state as states
from kiosk.mirror.target import FolderTarget, check, missing
from kiosk.place import Folder, Place
from kiosk.serve import static
from kiosk.serve.listen import Server
from kiosk.store.cache import Flights
from kiosk.store.objects import MissingObject
from kiosk.trust.client import TrustedRepository
from kiosk.trust.explain import network
from kiosk.trust.fetcher import Fetcher, fetcher

log = logger(__name__)

LARGEST = 1 << 30
"""The most bytes of an object that are taken."""
FRESH = 5.0
"""Seconds for which a state that was just verified is served without asking upstream again."""
REST = 30.0
"""Seconds without a question after upstream could not be used."""
WAIT = 10.0
"""Seconds that a reader waits for upstream before he gets what is here."""
TRIES = 3
READERS = 128
"""Answers at a time that may wait for upstream."""
OBJECT = re.compile(r"/objects/[0-9a-f]{2}/([0-9a-f]{64})")
STATE = re.compile(r"/metadata/(?:timestamp|[0-9]+\.root)\.json")


class Metadata:
    """The metadata and manifests in the folder, kept up to date from a verifying reader."""

    def __init__(
        self, trusted: TrustedRepository, folder: Path, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._trusted = trusted
        self._folder = folder
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._next = float("-inf")

    def refresh(self) -> None:
        """Asks upstream, unless it was asked just now, and waits for the answer, but not for long."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                if self._monotonic() < self._next:
                    return
                self._thread = threading.Thread(target=self._update, name="kiosk-refresh", daemon=True)
                self._thread.start()
            thread = self._thread
        thread.join(WAIT)

    def _update(self) -> None:
        try:
            state = states.read(self._trusted)
            kept = FolderTarget(self._folder)
            check(kept, Folder(self._folder), state)
            for path, data in missing(kept, [*state.targets, *state.metadata]):
                kept.put(path, data)
            for problem in state.problems.values():
                log.warning("%s", problem)
            self._next = self._monotonic() + FRESH
        except (KioskError, OSError) as e:
            log.warning("upstream can't be used, what is here is served: %s", e)
            self._next = self._monotonic() + REST


class Objects:
    """The objects in the folder, fetched by name where they are missing."""

    def __init__(self, make: Callable[[], tuple[Fetcher, str]], folder: Path) -> None:
        self._plain, self._base = make()
        self._past_caches, _ = make()
        self._past_caches.past_caches = True
        self._folder = folder
        self._flights = Flights()

    def get(self, name: str, *, doubted: bool) -> None:
        """Has the object of this digest in the folder; when it is `doubted`, its bytes are read again."""
        path = self._folder / "objects" / name[:2] / name
        with self._flights.alone(name):
            if path.exists():
                if not doubted or sha256(path) == f"sha256:{name}":
                    return
                log.warning("%s is damaged and is fetched again", path)
            self._patiently(f"{self._base}/objects/{name[:2]}/{name}", name, path)

    def _patiently(self, url: str, name: str, path: Path) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                return self._download(self._plain, url, name, path)
            except NetworkError:
                if attempt == TRIES:
                    raise
            except CorruptError as e:
                log.warning("%s; asking again past every cache", e)
                return self._download(self._past_caches, url, name, path)
        return None

    def _download(self, through: Fetcher, url: str, name: str, path: Path) -> None:
        found, size = hashlib.sha256(), 0
        with _download_errors(url), replacing(path) as f:
            for chunk in through.fetch(url):
                size += len(chunk)
                if size > LARGEST:
                    raise CorruptError("is longer than any object", where=url)
                found.update(chunk)
                f.write(chunk)
            if found.hexdigest() != name:
                raise CorruptError(
                    f"has the digest sha256:{found.hexdigest()} instead of its name", where=url
                )


@contextlib.contextmanager
def _download_errors(url: str) -> Iterator[None]:
    try:
        yield
    except DownloadHTTPError as e:
        if e.status_code in (404, 410):
            raise MissingObject("upstream does not have the object", where=url) from None
        raise network(e, url) from None
    except DownloadError as e:
        raise network(e, url) from None


class Site:
    """What is done before an answer: whatever it needs is got."""

    def __init__(self, folder: Path, metadata: Metadata, objects: Objects) -> None:
        self.folder = folder
        self.metadata = metadata
        self.objects = objects

    def prepare(self, path: str, doubted: bool) -> HTTPStatus | None:
        """Gets what an answer needs; the status of the answer when there can be no other."""
        found = OBJECT.fullmatch(path)
        if found is None:
            if STATE.fullmatch(path):
                self.metadata.refresh()
            nothing = not (self.folder / "metadata" / "timestamp.json").exists()
            return HTTPStatus.GATEWAY_TIMEOUT if nothing else None
        try:
            self.objects.get(found[1], doubted=doubted)
        except MissingObject:
            return HTTPStatus.NOT_FOUND
        except NetworkError as e:
            log.warning("%s", e)
            return HTTPStatus.GATEWAY_TIMEOUT
        except CorruptError as e:
            log.warning("%s; nothing of it was used", e)
            return HTTPStatus.BAD_GATEWAY
        except KioskError as e:
            log.warning("%s", e)
            return HTTPStatus.SERVICE_UNAVAILABLE
        return None


@contextlib.contextmanager
def serving(
    settings: Settings,
    url: Place,
    folder: Path,
    address: tuple[str, int],
    *,
    root: bytes | None = None,
    proxy: str | None = None,
) -> Iterator[Server]:
    """A read-through mirror that is bound and listens; it holds the mirror's lock."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    with states.kept(settings, Folder(folder)) as notes:
        trusted = states.repository(settings, notes, url, root, proxy)
        objects = Objects(lambda: fetcher(str(url), proxy, settings.s3), folder)
        site = Site(folder, Metadata(trusted, folder), objects)
        try:
            server = Server(static.Files(folder, prepare=site.prepare, threads=READERS), address)
        except OSError as e:
            raise NetworkError(f"can't listen: {e.strerror}", where=f"{address[0]}:{address[1]}") from None
        with server:
            yield server
