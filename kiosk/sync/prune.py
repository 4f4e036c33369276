"""`kiosk host prune`: gives up versions that nobody needs, and makes room.

* A version in use is never removed, nor what `retention` keeps. It is looked at twice: before, and once its folder
  is out of the way and can't be found any more; where somebody was faster, the folder goes back.
* A version whose manifest can't be read counts as in use, and keeps no other from going.
* A version's folder is renamed away whole and then removed: a reader meets all of it or nothing. Killed at any
  point, the next call finishes, or puts back what is used.
* Shared objects go only when room is asked for, and never those of a version that is wanted or current.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Protocol

from kiosk.errors import BusyError, CorruptError, KioskError, NotFoundError, VerificationError
from kiosk.files import free_bytes, fsync_dir, remove_tree, storage_errors
from kiosk.log import logger
from kiosk.model.manifest import Object
from kiosk.model.names import Ref
from kiosk.store.directory import DirectoryStore
from kiosk.store.needs import needs
from kiosk.store.objects import MissingObject, check, path_of
from kiosk.store.partial import index_file
from kiosk.swarm import torrent as torrents
from kiosk.sync import usage
from kiosk.sync.host import HostCache, Installed
from kiosk.sync.retention import KEEP, Held, verdicts

log = logger(__name__)

UNKNOWN = datetime.fromtimestamp(0, UTC)
"""When a version was made whose manifest can't be read."""


class HandedOver(Protocol):
    """What has to be asked before a version goes: whatever images were handed over to."""

    def disks(self) -> Iterable[Path]:
        """Disks of VMs, running or not, that may be built on a version."""

    def withdraw(self, ref: Ref) -> None:
        """Takes a version back, before it is removed; BusyError where it is in use."""

    def removed(self, ref: Ref) -> None:
        """Told once a version is removed."""


class Nobody:
    """Nothing was handed over."""

    def disks(self) -> Iterable[Path]:
        """None."""
        return ()

    def withdraw(self, ref: Ref) -> None:
        """Nothing to do."""

    def removed(self, ref: Ref) -> None:
        """Nothing to do."""


@dataclass(frozen=True)
class Pruned:
    """What a call did, or would do: versions removed with the bytes that they had on disk, why each of the others
    stays, shared objects removed and their bytes, bytes free in the end. `failure` is the first error that kept a
    version here."""

    removed: dict[Ref, int]
    kept: dict[Ref, str]
    objects: int
    object_bytes: int
    free: int
    failure: KioskError | None = None


def prune(
    cache: HostCache,
    vms: Path,
    *,
    keep: int = KEEP,
    free: int | None = None,
    wanted: Collection[Ref] = (),
    handed: HandedOver | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Removes versions that may go, oldest first: all of them, or with `free` as many as it takes until so many
    bytes are free on the cache's file system, and shared objects after them. BusyError while a sync runs."""
    with cache.locked():
        return sweep(cache, vms, keep=keep, free=free, wanted=wanted, handed=handed, dry_run=dry_run)


def sweep(
    cache: HostCache,
    vms: Path,
    *,
    keep: int = KEEP,
    free: int | None = None,
    wanted: Collection[Ref] = (),
    handed: HandedOver | None = None,
    dry_run: bool = False,
) -> Pruned:
    """As `prune`, for one who holds the cache's lock."""
    handed = handed or Nobody()
    if not dry_run:
        _finish(cache, vms, handed)
    readable, damaged = cache.readable()
    for ref, error in damaged.items():
        log.warning("%s stays, for its manifest can't be read: %s", ref, error)
    installed = {i.ref: i for i in readable}
    found = usage.look(cache, vms, handed.disks())
    held = [Held(i.ref, i.manifest.created, i.current, found.used(i.ref)) for i in readable]
    held += [Held(ref, UNKNOWN, cache.current(ref) == ref.version, True) for ref in damaged]
    kept: dict[Ref, str] = {}
    removed: dict[Ref, int] = {}
    failure: KioskError | None = None
    room = free_bytes(cache.folder)
    for ref, reason in verdicts(held, keep=keep, wanted=wanted).items():
        if ref in damaged:
            kept[ref] = f"its manifest can't be read: {damaged[ref].what}"
        elif reason is not None:
            who = found.of(ref) or ((found.unknown,) if found.unknown else ())
            kept[ref] = f"in use: {', '.join(who)}" if reason == "in use" else reason
        elif free is not None and room >= free:
            kept[ref] = "there is room"
        else:
            size = _size(installed[ref].folder)
            try:
                if not dry_run:
                    remove(cache, vms, ref, handed)
            except KioskError as e:
                failure = failure or (None if isinstance(e, BusyError) else e)
                kept[ref] = e.what
                continue
            removed[ref] = size
            room = room + size if dry_run else free_bytes(cache.folder)
    objects = 0, 0
    if free is not None and room < free:
        stay = [i for i in installed.values() if i.current or i.ref in wanted]
        objects = _remove_objects(cache, stay, free - room, dry_run=dry_run)
        room = room + objects[1] if dry_run else free_bytes(cache.folder)
    return Pruned(removed, kept, *objects, room, failure)


def remove(cache: HostCache, vms: Path, ref: Ref, handed: HandedOver) -> None:
    """Removes one version; BusyError where it is in use. For one who holds the cache's lock."""
    handed.withdraw(ref)
    folder, gone = cache.version_folder(ref), usage.aside(cache, ref)
    with storage_errors(gone):
        gone.parent.mkdir(parents=True, exist_ok=True)
        remove_tree(gone)
        folder.rename(gone)
        fsync_dir(folder.parent)
        found = usage.look(cache, vms, handed.disks())
        if found.used(ref):
            gone.rename(folder)
            fsync_dir(folder.parent)
            raise BusyError(f"in use: {', '.join(found.of(ref)) or found.unknown}", where=str(ref))
        remove_tree(gone)
    handed.removed(ref)


def _finish(cache: HostCache, vms: Path, handed: HandedOver) -> None:
    """Ends what a killed call had begun."""
    left = list(usage.put_aside(cache))
    if not left:
        return
    found = usage.look(cache, vms, handed.disks())
    for ref, folder in left:
        target = cache.version_folder(ref)
        if found.used(ref) and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(target)
            fsync_dir(target.parent)
        else:
            remove_tree(folder)


def _remove_objects(
    cache: HostCache, stay: Collection[Installed], missing: int, *, dry_run: bool
) -> tuple[int, int]:
    """Removes shared objects that no version in `stay` needs, the oldest first, until `missing` bytes are free."""
    store = DirectoryStore(cache.folder)
    needed = {digest for one in stay for digest in _needed(store, one)}
    aged = []
    for one in store.objects():
        if one.digest not in needed:
            try:
                found = (cache.folder / path_of(one.digest)).stat()
            except FileNotFoundError:
                continue
            aged.append((found.st_mtime, one.digest, found.st_blocks * 512))
    count = freed = 0
    for _, digest, size in sorted(aged):
        if freed >= missing:
            break
        if not dry_run:
            try:
                store.remove(digest)
            except NotFoundError:
                continue
        count, freed = count + 1, freed + size
    return count, freed


def _needed(store: DirectoryStore, one: Installed) -> Iterator[str]:
    """The objects of a version, as far as its indexes or its torrent are here to tell."""
    torrent = one.manifest.torrent
    if torrent is not None:
        yield torrent.file.digest
    for name, artifact in one.manifest.artifacts.items():
        if artifact.index is None:
            continue
        yield artifact.index.digest
        alone = one.manifest.model_copy(update={"artifacts": {name: artifact}})
        try:
            beside = _Beside(store, index_file(one.folder / artifact.file))
            yield from (needed.digest for needed in needs(beside, alone))
        except (MissingObject, CorruptError) as e:
            log.info("the index of %s is not here, its torrent tells: %s", one.ref, e)
    if torrent is not None:
        try:
            named = torrents.read(store.read(torrent.file), torrent.infohash, where=str(one.ref)).names
        except (MissingObject, CorruptError, VerificationError) as e:
            log.info("the torrent of %s does not tell its objects: %s", one.ref, e)
        else:
            yield from (f"sha256:{name}" for name in named)


@dataclass(frozen=True)
class _Beside:
    """The shared objects, and the index that a fetch has kept beside a file."""

    store: DirectoryStore
    kept: Path

    def read(self, wanted: Object, stop: Event | None = None) -> bytes:
        """The object from either place; MissingObject or CorruptError where neither has it."""
        try:
            return self.store.read(wanted, stop)
        except (MissingObject, CorruptError):
            try:
                with self.kept.open("rb") as f:
                    return check(f.read(wanted.size + 1), wanted, str(self.kept))
            except OSError as e:
                raise MissingObject(f"is not here: {e.strerror}", where=str(self.kept)) from None

    def has(self, wanted: Object) -> bool:
        """Whether it is among the shared objects."""
        return self.store.has(wanted)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.iterdir())
