"""Hands versions over to every place that is configured, and takes them back before the cache gives them up.

* What fails at one place is reported, recorded, and tried again at the next call; the other places, the cache, and
  what VMs use now are as they were.
* Killed between any two steps, the next call comes to the same end: a record says `done` only after the deed, and
  every deed may be done twice.
* One process at a time works here (HOST/handover.lock).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kiosk import clock
from kiosk.errors import KioskError, StorageError
from kiosk.files import locked
from kiosk.handover import state
from kiosk.handover.driver import Driver
from kiosk.handover.files import FilesDriver
from kiosk.handover.hook import HookDriver
from kiosk.handover.libvirt import LibvirtDriver
from kiosk.handover.lvm import LvmDriver
from kiosk.handover.opennebula import OpenNebulaDriver
from kiosk.handover.settings import (
    AnyTable,
    FilesTable,
    HookTable,
    LibvirtTable,
    LvmTable,
    OpenNebulaTable,
)
from kiosk.handover.state import Entry, State
from kiosk.log import logger
from kiosk.model.names import Ref, parse_ref
from kiosk.sync.host import HostCache, Installed

log = logger(__name__)

End = Literal["handed over", "stands", "would hand over", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one version at one place."""

    place: str
    ref: str
    state: End
    seconds: float = 0.0
    error: KioskError | None = None


def driver_of(table: AnyTable, cache: HostCache) -> Driver:
    """The driver that a table asks for."""
    match table:
        case FilesTable():
            return FilesDriver(table.folder, mode=table.mode, format=table.format, watch=table.watch)
        case LibvirtTable():
            return LibvirtDriver(table)
        case LvmTable():
            return LvmDriver(table)
        case OpenNebulaTable():
            return OpenNebulaDriver(table, cache)
        case HookTable():
            return HookDriver(table, cache)


class Handover:
    """All the places of one host."""

    def __init__(self, cache: HostCache, tables: Sequence[AnyTable]) -> None:
        self.cache = cache
        self.places = [(table, driver_of(table, cache)) for table in tables]
        self.record = cache.folder / "handover.json"

    def offer(self, version: Installed, *, dry_run: bool = False) -> tuple[Outcome, ...]:
        """Hands a version over to every place that takes its image. Called after it has become current, and as often
        as one likes. Nothing is raised for a place that fails: its outcome says so. BusyError where another process
        hands over now."""
        with self._locked(dry_run):
            places = [driver for table, driver in self.places if table.takes(version.ref)]
            return tuple(self._offer(driver, version, dry_run=dry_run) for driver in places)

    def offer_current(self, *, dry_run: bool = False) -> tuple[Outcome, ...]:
        """The same for every version that is current, after what killed calls left is ended."""
        if not dry_run:
            self.settle()
        current = [i for i in self.cache.installed() if i.current]
        return tuple(outcome for i in current for outcome in self.offer(i, dry_run=dry_run))

    def withdraw(self, ref: Ref) -> None:
        """Takes a version back everywhere, before the cache removes it. BusyError where it is in use at a place; what
        else a place raises keeps the version, too."""
        with self._locked(False):
            # Hooks come last: they are not told that a version goes which another place then keeps.
            for driver in sorted(self._places_of(ref), key=lambda d: isinstance(d, HookDriver)):
                entry = state.read(self.record).find(driver.place, str(ref))
                if entry is None and ref not in driver.held():
                    continue
                driver.withdraw(ref)
                if entry is not None:
                    going = entry.model_copy(update={"done": False, "going": True})
                    state.save(self.record, state.read(self.record).with_entry(going))

    def removed(self, ref: Ref) -> None:
        """Told once the cache has removed a version. What fails here is tried again by `settle`."""
        with self._locked(False):
            self._removed(ref)

    def settle(self) -> None:
        """Ends what was begun for versions that the cache no longer has."""
        with self._locked(False):
            for text in sorted({entry.ref for entry in state.read(self.record).entries}):
                ref = parse_ref(text)
                if not self.cache.version_folder(ref).exists():
                    self._removed(ref)

    def held(self) -> set[Ref]:
        """The versions that are at any place, by what the places say and what was recorded. What can't be asked is
        left out."""
        found: set[Ref] = {parse_ref(e.ref) for e in state.read(self.record).entries if e.done}
        for _, driver in self.places:
            with contextlib.suppress(KioskError):
                found |= driver.held()
        return found

    def disks(self) -> Iterable[Path]:
        """Disks of VMs that may be built on the cache or on what was handed over."""
        for _, driver in self.places:
            yield from driver.disks()

    def failed(self) -> dict[str, str]:
        """The versions whose last hand-over failed somewhere, each with why."""
        return {e.ref: f"{e.place}: {e.error}" for e in state.read(self.record).entries if e.error}

    # -- how ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self, dry_run: bool) -> Iterator[None]:
        if dry_run:
            yield
            return
        with locked(self.cache.folder / "handover.lock", what="handing images over"):
            yield

    def _places_of(self, ref: Ref) -> list[Driver]:
        return [driver for table, driver in self.places if table.takes(ref)]

    def _offer(self, driver: Driver, version: Installed, *, dry_run: bool) -> Outcome:
        begin = time.monotonic()
        ref, digest = str(version.ref), version.manifest.artifacts["disk"].digest
        entry = state.read(self.record).find(driver.place, ref)
        tries = entry.tries if entry else 0
        try:
            if entry and entry.done and entry.digest == digest and driver.stands(version):
                return Outcome(driver.place, ref, "stands", time.monotonic() - begin)
            if dry_run:
                return Outcome(driver.place, ref, "would hand over")
            driver.offer(version)
            self._note(Entry(place=driver.place, ref=ref, digest=digest, done=True, at=_now()), version)
            return Outcome(driver.place, ref, "handed over", time.monotonic() - begin)
        except OSError as e:  # a failing disk, say: one place's trouble is not the others'
            error: KioskError = StorageError(e.strerror or str(e), where=e.filename, hint="See dmesg.")
        except KioskError as e:
            error = e
        seconds = time.monotonic() - begin
        if not dry_run:
            failed = Entry(
                place=driver.place,
                ref=ref,
                digest=digest,
                tries=tries + 1,
                error=error.what[:2000],
                at=_now(),
            )
            self._note(failed, version)
        log.info("%s was not handed over to %s: %s", ref, driver.place, error)
        return Outcome(driver.place, ref, "failed", seconds, error)

    def _note(self, entry: Entry, version: Installed) -> None:
        known = state.read(self.record)
        if entry.done:
            known = _superseded(known, entry, version)
        state.save(self.record, known.with_entry(entry))

    def _removed(self, ref: Ref) -> None:
        for driver in self._places_of(ref):
            known = state.read(self.record)
            if known.find(driver.place, str(ref)) is None:
                continue
            try:
                driver.removed(ref)
            except KioskError as e:
                log.warning("%s: %s", driver.place, e)
                continue
            state.save(self.record, known.without(driver.place, str(ref)))
        known = state.read(self.record)
        places = {driver.place for _, driver in self.places}
        left = [
            e for e in known.entries if e.ref != str(ref) or e.place in places
        ]  # no place that was given up
        if len(left) < len(known.entries):
            state.save(self.record, State(entries=tuple(left)))


def _superseded(known: State, entry: Entry, version: Installed) -> State:
    """Other versions of the name at this place are no longer what new VMs get there: were one to become current
    again, it would be offered again. Failures of theirs are over."""
    over = {"done": False, "error": None, "tries": 0}
    others = [
        one.model_copy(update=over)
        if one.place == entry.place and parse_ref(one.ref).base == version.ref.base
        else one
        for one in known.entries
    ]
    return State(entries=tuple(others))


def _now() -> int:
    return int(clock.now().timestamp())
