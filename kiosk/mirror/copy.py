"""`kiosk mirror`: copies a signed repository to a folder or a bucket, verifying all of it, without any key.

Objects first, then manifests, then metadata, the timestamp last: a reader of the target sees the state before
or the new one, each of them whole. Interrupted anywhere, the same command goes on; what is there is not copied
again. If anything differs from what was signed or can't be read, the target keeps showing what it showed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from kiosk.config import Settings
from kiosk.errors import CorruptError, KioskError, UsageError
from kiosk.log import logger
from kiosk.mirror import state as states
from kiosk.mirror.state import State
from kiosk.mirror.target import Target, check, missing, target
from kiosk.model.manifest import Object
from kiosk.place import Folder, Place, place
from kiosk.progress import bar
from kiosk.store import locate
from kiosk.store.cache import Cache
from kiosk.store.directory import DirectoryStore
from kiosk.store.failover import Failover
from kiosk.store.needs import needs, shortcuts
from kiosk.store.objects import MissingObject, ObjectSource, ObjectStore, Progress

log = logger(__name__)

WORKERS = 8


@dataclass(frozen=True)
class Mirrored:
    """What was copied (or would be): objects and their bytes, and files of metadata and manifests; how much
    was there already; `state` is the timestamp's version. `failure` is a role that is not well signed: the rest
    was copied, and the mirror is as good as its source."""

    source: str
    target: str
    versions: tuple[str, ...]
    objects: int
    bytes: int
    objects_there: int
    bytes_there: int
    files: int
    state: int
    seconds: float
    dry_run: bool
    failure: KioskError | None = None


def mirror(
    settings: Settings,
    url: str | Path,
    to: str | Path,
    *,
    newest: int | None = None,
    proxy: str | None = None,
    root: bytes | None = None,
    dry_run: bool = False,
) -> Mirrored:
    """Brings the mirror `to` up to date with the repository `url`: all versions, or the `newest` of each name
    (older ones that are there stay). With `dry_run` nothing is written but the mirror's own notes."""
    begin = time.monotonic()
    source, where = place(url), target_place(to)
    if source == where:
        raise UsageError("a repository can't be its own mirror", where=str(where))
    proxy = proxy or settings.proxy
    with states.kept(settings, where) as folder:
        state = states.read(states.repository(settings, folder, source, root, proxy), newest)
        made = target(where, settings.s3)
        check(made, where, state)
        notes = DirectoryStore(folder)  # the indexes: read once, then they tell what to copy
        upstream = locate.source(str(source), proxy, settings.s3)
        wanted = list(_wanted(Cache(upstream, notes), state))
        _forget(notes, wanted)
        held = {o.digest: o.size for o in made.store.objects()}
        copied = [o for o in wanted if held.get(o.digest) != o.size]
        if copied and not dry_run:
            spare = {o.digest for m in state.manifests for o in shortcuts(notes, m)}
            needed = [o for o in copied if o.digest not in spare]
            _copy(Failover({"notes": notes, str(source): upstream}), made.store, needed)
            _copy(_Spare(upstream), made.store, [o for o in copied if o.digest in spare])
        files = missing(made, [*state.targets, *state.metadata])
        if not dry_run:
            write(made, files)
    return Mirrored(
        source=str(source),
        target=str(where),
        versions=tuple(str(m.ref) for m in state.manifests),
        objects=len(copied),
        bytes=sum(o.size for o in copied),
        objects_there=len(wanted) - len(copied),
        bytes_there=sum(o.size for o in wanted) - sum(o.size for o in copied),
        files=len(files),
        state=state.version,
        seconds=round(time.monotonic() - begin, 3),
        dry_run=dry_run,
        failure=next(iter(state.problems.values()), None),
    )


def target_place(to: str | Path) -> Place:
    """Where to write: any path without a scheme is a folder."""
    if isinstance(to, str) and "://" not in to:
        return Folder(Path(to).absolute())
    return place(to)


def write(made: Target, files: Sequence[tuple[str, bytes]]) -> None:
    """Writes what is missing, in its order."""
    for path, data in files:
        made.put(path, data)


def _wanted(source: ObjectSource, state: State) -> Iterator[Object]:
    """Every object of every version and of the papers of those that were withdrawn, each once."""
    seen: set[str] = set()
    for manifest in (*state.manifests, *state.past):
        for one in needs(source, manifest):
            if one.digest not in seen:
                seen.add(one.digest)
                yield one


def _forget(notes: ObjectStore, wanted: Sequence[Object]) -> None:
    """Removes the notes on versions that are not wanted any more."""
    digests = {o.digest for o in wanted}
    for one in list(notes.objects()):
        if one.digest not in digests:
            notes.remove(one.digest)


def _copy(source: ObjectSource, store: ObjectStore, wanted: Sequence[Object]) -> None:
    """Copies objects, several at a time. The first failure ends it; what was copied stays."""
    with bar("mirror", sum(o.size for o in wanted)) as progress:
        _copy_all(source, store, wanted, progress.update)


def _copy_all(source: ObjectSource, store: ObjectStore, wanted: Sequence[Object], progress: Progress) -> None:
    stop = Event()
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="kiosk-mirror") as pool:
        try:
            jobs = {pool.submit(_copy_one, source, store, o, stop): o.size for o in wanted}
            for job in as_completed(jobs):
                job.result()
                progress(jobs[job])
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _copy_one(source: ObjectSource, store: ObjectStore, wanted: Object, stop: Event) -> None:
    if stop.is_set():
        return
    try:
        data = source.read(wanted, stop)
    except _LeftOut as e:
        log.warning("left out, readers can do without: %s", e)
        return
    store.write(data)


class _LeftOut(KioskError):
    """An object that is not to be had, and that readers can do without."""


class _Spare:
    """A source of objects that readers can do without: what it lacks or has wrong is left out."""

    def __init__(self, source: ObjectSource) -> None:
        self._source = source

    def read(self, wanted: Object, stop: Event | None = None) -> bytes:
        """The object, or _LeftOut."""
        try:
            return self._source.read(wanted, stop)
        except (MissingObject, CorruptError) as e:
            raise _LeftOut(e.what, where=e.where) from None

    def has(self, wanted: Object) -> bool:
        """Asks the source."""
        return self._source.has(wanted)
