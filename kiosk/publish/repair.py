"""`kiosk store repair`: what signed versions need and is damaged or missing comes back, from a mirror or made again.

* An object or manifest is put in place only with the bytes that its signed digest names, atomically and durably.
* It holds the repository's lock: no publish and no prune runs beside it.
* What could not be mended is named, with the versions that need it. Objects that no version needs are left.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tuf.api.exceptions import DownloadError

from kiosk import files
from kiosk.config import Settings
from kiosk.errors import CorruptError, NetworkError
from kiosk.log import logger
from kiosk.model.manifest import Manifest, Object
from kiosk.publish import remake, signed
from kiosk.publish.built import LARGEST_MANIFEST
from kiosk.store import inventory
from kiosk.store.api import DirectoryStore, HttpStore, MissingObject, ObjectSource, Progress
from kiosk.store.needs import lists, needs
from kiosk.store.objects import path_of, quiet
from kiosk.trust.fetcher import Fetcher, fetcher

log = logger(__name__)

Remake = Callable[[Object, Settings, Sequence[Manifest]], bytes | None]
"""How an object is made again: `remake.pack`, `remake.index`, or `remake.torrent`."""


@dataclass(frozen=True)
class Mend:
    """A file of the repository that was wrong: what was the matter, how it was mended (None: it was not), and
    the versions that need it."""

    path: str
    what: str
    way: str | None
    versions: tuple[str, ...]


@dataclass(frozen=True)
class Repaired:
    """How many objects were read, and what became of those that were wrong."""

    objects: int
    mends: tuple[Mend, ...]

    @property
    def left(self) -> list[Mend]:
        """What could not be mended."""
        return [m for m in self.mends if m.way is None]


def repair(
    settings: Settings, mirror: str | None = None, progress: Progress = quiet, *, dry_run: bool = False
) -> Repaired:
    """Mends what is wrong, asking `mirror` (a repository's URL or folder) first and then the built files.

    With `dry_run` everything is read and tried, and nothing written; what only a mended index would name can
    then not be looked at. UsageError when `mirror` is neither.
    """
    lock = settings.repository.with_name(f".{settings.repository.name}.lock")
    with files.locked(lock, what=f"the repository {settings.repository}"):
        job = _Repair(settings, mirror, progress, dry_run)
        job.manifests()
        job.objects()
        return Repaired(job.read, tuple(job.mends))


class _Repair:
    def __init__(self, settings: Settings, mirror: str | None, progress: Progress, dry_run: bool) -> None:
        self.settings = settings
        self.store = DirectoryStore(settings.repository)
        self.fetcher: Fetcher | None = None
        self.source: ObjectSource | None = None
        self.base = ""
        if mirror:
            self.fetcher, self.base = fetcher(mirror, settings.proxy, settings.s3)
            self.source = _objects(self.base, settings.proxy, settings.s3.ca)
        self.progress = progress
        self.dry_run = dry_run
        self.mends: list[Mend] = []
        self.read = 0

    def manifests(self) -> None:
        """Fetches signed manifests that are damaged or missing."""
        for wrong in signed.listed(self.settings).wrong:
            data = self._target(wrong.object)
            if data is not None and not self.dry_run:
                files.write(Path(wrong.path), data)
            way = None if data is None else f"from {self.base}"
            self.mends.append(Mend(wrong.object, wrong.what, way, wrong.versions))

    def objects(self) -> None:
        """Reads every object that is needed, indexes first, since they say what else is; mends what is wrong."""
        listed = signed.listed(self.settings)
        self.versions = [*listed.versions, *listed.past]
        indexes = [a.index for m in self.versions for a in m.artifacts.values() if a.index is not None]
        indexes += [one for m in self.versions for one in lists(m)]
        first = {i.digest: i for i in indexes}
        self._mend(first, remake.index)
        needed = {o.digest: o for m in self.versions for o in self._needs(m)}
        last = {m.torrent.file.digest: m.torrent.file for m in self.versions if m.torrent is not None}
        self._mend({d: o for d, o in needed.items() if d not in first | last}, remake.pack)
        self._mend(last, remake.torrent)

    def _needs(self, manifest: Manifest) -> Iterator[Object]:
        """What a version needs, as far as its indexes can be read."""
        for name, artifact in manifest.artifacts.items():
            try:
                yield from needs(self.store, manifest.model_copy(update={"artifacts": {name: artifact}}))
            except (MissingObject, CorruptError):
                continue  # said already

    def _mend(self, wanted: dict[str, Object], again: Remake) -> None:
        self.users = inventory.users(self.store, self.versions, [])
        with ThreadPoolExecutor(thread_name_prefix="kiosk-repair") as pool:
            for one, what in zip(wanted.values(), pool.map(self._fault, wanted.values()), strict=True):
                self.read += 1
                if what is not None:
                    self._mend_one(one, what, again)
                self.progress(one.size)

    def _fault(self, one: Object) -> str | None:
        try:
            self.store.read(one)
        except (MissingObject, CorruptError) as e:
            return e.what
        return None

    def _mend_one(self, one: Object, what: str, again: Remake) -> None:
        names = self.users.get(one.digest, set())
        users = [m for m in self.versions if str(m.ref) in names]
        way, data = f"from {self.base}", self._fetched(one)
        if data is None:
            way, data = "from the built files", again(one, self.settings, users)
        if data is not None and not self.dry_run:
            self.store.write(data)
        path = path_of(one.digest)
        versions = tuple(str(m.ref) for m in users)
        self.mends.append(Mend(path, what, None if data is None else way, versions))

    def _fetched(self, one: Object) -> bytes | None:
        if self.source is None:
            return None
        try:
            return self.source.read(one)
        except MissingObject:
            return None
        except (CorruptError, NetworkError) as e:
            log.warning("%s", e)
            return None

    def _target(self, path: str) -> bytes | None:
        """A target file from the mirror, if it is the one that its name says."""
        if self.fetcher is None:
            return None
        try:
            data = bytes(self.fetcher.download_bytes(f"{self.base}/{path}", LARGEST_MANIFEST))
        except DownloadError as e:
            log.warning("%s", e)
            return None
        return data if hashlib.sha256(data).hexdigest() == Path(path).name.split(".")[0] else None


def _objects(base: str, proxy: str | None, ca: str | None) -> ObjectSource:
    if base.startswith("file://"):
        return DirectoryStore(Path(base.removeprefix("file://")))
    return HttpStore(base, proxy=proxy, ca=ca)
