"""One run of the agent's work: verify, decide, fetch, switch, hand over, give up what is old.

The rules are `plan`'s, the steps those of `kiosk sync`. One image's trouble does not stop the others. Whatever
goes wrong, what is current stays current, and the next run goes on from the bytes that are there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from kiosk.agent import room
from kiosk.agent.bucket import Limited
from kiosk.agent.ends import Ends
from kiosk.agent.orders import Orders
from kiosk.agent.plan import Choice, choose, wanted
from kiosk.agent.shared import Shared
from kiosk.agent.source import AgentSource, Place
from kiosk.agent.talk import Talk
from kiosk.config import S3Options
from kiosk.errors import (
    BusyError,
    CorruptError,
    ExpiredError,
    Interrupted,
    KioskError,
    NetworkError,
    StorageError,
    VerificationError,
)
from kiosk.log import logger
from kiosk.model.manifest import Manifest
from kiosk.model.names import Ref, Version, parse_ref, with_version
from kiosk.store import locate
from kiosk.sync.host import HostCache, Installed, kept_artifacts
from kiosk.sync.sync import fill
from kiosk.trust.client import TrustedRepository

log = logger(__name__)

State = Literal[
    "fetched", "switched", "staged", "current", "returned", "waiting", "would fetch", "would switch", "failed"
]
SAY_EVERY = 0.5
SLOW_DISK = 20_000_000
"""Bytes a second that a disk in use by VMs reads and writes at least."""


@dataclass(frozen=True)
class Job:
    """What a run is for: `pushed` names and patterns that people want now, whether the window is `open`, and
    whether there is a `swarm`, and the `fanout` that was last known."""

    orders: Orders
    pushed: tuple[str, ...] = ()
    open: bool = True
    swarm: bool = False
    dry_run: bool = False
    fanout: int = 0


@dataclass(frozen=True)
class Done:
    """What became of one version. `bad` is what speaks against the version: not a network, a disk or a lock."""

    name: str
    version: str
    state: State
    moved: int = 0
    seconds: float = 0.0
    error: str | None = None
    bad: bool = False


@dataclass
class Report:
    """A whole run: its results, the first error, the verified timestamp's version, and when it expires (seconds
    of the epoch)."""

    results: list[Done] = field(default_factory=list)
    failure: KioskError | None = None
    timestamp: int = 0
    expires: float = 0.0

    def failed(self, ref: Ref | str, error: KioskError) -> None:
        """Notes what could not be done; the name alone where it is not known for which version."""
        log.warning("%s: %s", ref, error)
        self.failure = self.failure or error
        name, _, version = str(ref).partition("@")
        bad = not isinstance(error, NetworkError | StorageError | BusyError | ExpiredError)
        self.results.append(Done(name, version or "-", "failed", error=error.what, bad=bad))


class Run:
    """One run, with the cache's lock held."""

    def __init__(self, job: Job, talk: Talk) -> None:
        orders = job.orders
        self.job = job
        self.orders = orders
        self.talk = talk
        self.cache = HostCache(orders.folder)
        self.shared = Shared(orders.folder) if orders.share else None
        s3 = S3Options(orders.s3_endpoint, orders.s3_region, orders.ca)
        root = read_root(orders.root)
        self.repository = TrustedRepository(self.cache.metadata, orders.url, root, orders.proxy, s3)
        origin = locate.source(orders.url, orders.proxy, s3)
        self.origin = Limited(origin, orders.bandwidth) if orders.bandwidth else origin
        self.report = Report()
        self.ends = Ends(self.cache, Path(orders.home) / "vms", orders.handover)
        self.keeping: set[Ref] = set()
        self.before: set[Ref] = set()
        self.used: dict[Ref, int] = {}
        self.bytes = {"http": 0, "swarm": 0}
        self.within = 0.0

    def run(self) -> Report:
        """All of it."""
        with self.cache.locked():
            self.tell_held()
            self.seed()
            self.repository.refresh()
            stamp = next(r for r in self.repository.roles() if r.name == "timestamp")
            self.report.timestamp = stamp.version
            self.report.expires = stamp.expires.timestamp()
            todo = self.decide()
            self.keeping = {with_version(r, v) for r, c in todo for v in (c.target, c.stage) if v is not None}
            self.keeping |= self.before
            for ref, choice in sorted(todo, key=lambda t: not t[1].back):
                self.guarded(ref, lambda r=ref, c=choice: self.follow(r, c))  # type: ignore[misc]
            for ref, choice in todo:
                if choice.stage is not None:
                    staged = with_version(ref, choice.stage)
                    self.guarded(staged, lambda s=staged: self.stage(s))  # type: ignore[misc]
            if not self.job.dry_run:
                self.tidy()
            self.tell_held()
            self.seed()
        return self.report

    def guarded(self, ref: Ref, work: Callable[[], object]) -> None:
        """Does it, and notes what goes wrong."""
        try:
            work()
        except Interrupted:
            raise
        except KioskError as e:
            self.report.failed(ref, e)
        except OSError as e:  # a failing disk, say: one image's trouble is not the others'
            self.report.failed(ref, StorageError(e.strerror or str(e), where=e.filename, hint="See dmesg."))

    # -- deciding -------------------------------------------------------------------------------------

    def decide(self) -> list[tuple[Ref, Choice]]:
        """What becomes of every name that this host wants. Roles that can't be believed are noted as failed."""
        offered: dict[str, list[Version]] = {}
        for ref in self.repository.manifests():
            assert ref.version is not None
            offered.setdefault(ref.base, []).append(ref.version)
        for role, error in self.repository.problems.items():
            self.report.failed(role, error)
        found = []
        for name in wanted(offered, self.orders.images):
            ref = parse_ref(name)

            def look(ref: Ref = ref, name: str = name) -> None:
                choice = self.choice(ref, offered[name])
                if choice.refused is not None:
                    raise VerificationError(choice.refused, where=name, hint="What is current stays.")
                found.append((ref, choice))

            self.guarded(ref, look)
        return found

    def choice(self, ref: Ref, offered: Sequence[Version]) -> Choice:
        """The plan for one name, after the signed roll-out. What it may bring hosts back to is kept. PolicyError where
        the plan is a version that was revoked."""
        rolled = self.repository.rollout(ref)
        if rolled is not None and rolled.before is not None:
            self.before.add(with_version(ref, Version.parse(rolled.before)))
        chosen = choose(
            offered,
            self.cache.versions(ref),
            self.cache.current(ref),
            rolled,
            self.orders.host,
            prestage=self.orders.prestage,
        )
        for version in (chosen.target, chosen.stage):
            if version is not None:
                self.repository.refuse_revoked(with_version(ref, version))
        return chosen

    # -- doing ----------------------------------------------------------------------------------------

    def follow(self, name: Ref, choice: Choice) -> None:
        """Brings a name to its target."""
        if choice.target is None:
            return
        begin = time.monotonic()
        ref = with_version(name, choice.target)
        current = self.cache.current(name)
        manifest, signed = self.repository.signed_manifest(ref)
        here = self.cache.holds(manifest, signed)
        if self.job.dry_run:
            state: State = (
                "would fetch" if not here else "current" if current == ref.version else "would switch"
            )
            self.note(ref, state)
            return
        moved = 0
        if not here:
            waits = current is not None and not choice.back and not self.is_pushed(name)
            if waits and not self.job.open:
                self.note(ref, "waiting")
                return
            moved = self.bring(manifest, signed, held_back=waits)
            if not self.is_still(name, choice):
                self.note(ref, "staged", moved, time.monotonic() - begin)
                return
        if current != ref.version:
            self.cache.make_current(ref)
        state = "fetched" if not here else "switched" if current != ref.version else "current"
        self.note(ref, "returned" if choice.back else state, moved, time.monotonic() - begin)
        self.hand_over(Installed(ref, manifest, self.cache.version_folder(ref), current=True))

    def is_still(self, name: Ref, choice: Choice) -> bool:
        """Whether the plan is still the same, after what may have taken hours. The last run's is followed where the
        kiosk can't be asked now."""
        try:
            self.repository.refresh()
            offered = [r.version for r in self.repository.versions(name) if r.version is not None]
            return self.choice(name, offered).target == choice.target
        except NetworkError:
            return True

    def hand_over(self, version: Installed) -> None:
        """Hands a current version over to every place that is configured for it."""
        size = sum(a.size for a in kept_artifacts(version.manifest))
        with self.slow(self.ends.longest(size / SLOW_DISK)):
            for error in self.ends.hand_over(version):
                self.report.failed(version.ref, error)

    def stage(self, ref: Ref) -> None:
        """Brings a version that is not to be current yet."""
        if self.job.dry_run:
            self.note(ref, "would fetch")
            return
        if not self.may_fetch(ref):
            self.note(ref, "waiting")
            return
        begin = time.monotonic()
        manifest, signed = self.repository.signed_manifest(ref)
        moved = self.bring(manifest, signed, held_back=not self.is_pushed(ref))
        self.note(ref, "staged", moved, time.monotonic() - begin)

    def bring(self, manifest: Manifest, signed: bytes, *, held_back: bool) -> int:
        """Fetches a version, from wherever `AgentSource` finds it. Returns the bytes that moved."""
        ref = manifest.ref
        size = sum(a.size for a in kept_artifacts(manifest))
        source = AgentSource(
            self.origin,
            self.talk,
            ref,
            Place(self.orders.host, self.orders.origin_rate, self.job.fanout),
            shared=self.shared,
            torrent=self.torrent(manifest),
            room=lambda needs, kept: self.make_room(ref, needs, kept),
        )
        done = 0
        said = 0.0

        def told(more: int) -> None:
            nonlocal done, said
            done += more
            if time.monotonic() - said >= SAY_EVERY:
                said = time.monotonic()
                self.tell_fetching(ref, done, size, source, held_back)

        self.tell_fetching(ref, 0, size, source, held_back)
        try:
            with self.slow(size / SLOW_DISK):
                reports = fill(self.cache, source, manifest, signed, told=told, announce=source.announce)
        finally:
            source.close()
            for transport in self.bytes:
                self.bytes[transport] += source.bytes[transport]
            self.talk.say("counted", **self.bytes)
        self.tell_held()
        return sum(r.bytes_moved for r in reports.values())

    def may_fetch(self, ref: Ref) -> bool:
        """Whether what is not urgent may be fetched now."""
        return self.job.open or self.is_pushed(ref)

    def is_pushed(self, ref: Ref) -> bool:
        """Whether people want this name now."""
        return any(fnmatchcase(ref.base, p) for p in self.job.pushed)

    def make_room(self, ref: Ref, needs: int, kept: int) -> bool:
        """See AgentSource."""
        disk = room.disk(self.cache.folder)
        reserve = room.kept_free(self.orders.keep_free, disk.size)
        if disk.free - needs - kept < reserve:
            with self.slow(self.ends.longest(0)):
                self.ends.sweep(keep=1, wanted=self.keeping, free=reserve + needs + kept)
            self.seed()  # of what is left
            disk = room.disk(self.cache.folder)
        if disk.free - needs < reserve:
            raise StorageError(
                f"{ref} needs {needs >> 20} MiB; {disk.free >> 20} MiB are free, {reserve >> 20} MiB of them stay free",
                where=str(self.cache.folder),
                hint="Free some space, keep fewer versions, or lower keep_free.",
            )
        return disk.free - needs - kept >= reserve

    def tidy(self) -> None:
        """Gives up what is too much, and looks at what is in use."""
        try:
            with self.slow(self.ends.longest(0)):
                failure = self.ends.sweep(keep=self.orders.keep, wanted=self.keeping)
            self.used = self.ends.used()
        except (KioskError, OSError) as e:
            log.warning("what is old stays for now: %s", e)
            return
        if failure is not None:
            log.warning("not all that is old was removed: %s", failure)

    # -- sharing and telling --------------------------------------------------------------------------

    def torrent(self, manifest: Manifest) -> tuple[str, str] | None:
        """The infohash and the .torrent file of a version's swarm, here on the disk; None without one."""
        if manifest.torrent is None or self.shared is None or not self.job.swarm:
            return None
        file = manifest.torrent.file
        try:
            if not self.shared.has(file):
                self.shared.write(file, self.origin.read(file))
            self.shared.read(file)
        except CorruptError:
            self.shared.write(file, self.origin.read(file))
        except KioskError as e:
            log.warning("%s: no swarm: %s", manifest.ref, e)
            return None
        return manifest.torrent.infohash, str(self.shared.path(file.digest))

    def seed(self) -> None:
        """Tells which swarms this host takes part in: those of all that it holds, as far as they are here."""
        if self.shared is None or not self.job.swarm:
            return
        found = []
        try:
            installed = self.cache.installed()
        except KioskError as e:
            log.warning("nothing is shared: %s", e)
            return
        for one in installed:
            torrent = one.manifest.torrent
            if torrent is not None and self.shared.has(torrent.file):
                found.append([torrent.infohash, str(self.shared.path(torrent.file.digest))])
        self.talk.say("seed", torrents=found)

    def tell_held(self) -> None:
        """Tells what is here."""
        held = []
        for name in self.cache.names():
            current = self.cache.current(name)
            held += [
                {
                    "name": name.base,
                    "version": str(v),
                    "current": v == current,
                    "used": self.used.get(with_version(name, v), 0),
                }
                for v in self.cache.versions(name)
            ]
        self.talk.say("held", held=held[:1000], free=room.disk(self.cache.folder).free)

    def tell_fetching(self, ref: Ref, done: int, size: int, source: AgentSource, held_back: bool) -> None:
        """Tells how far a version is."""
        counted = dict(source.bytes)
        transport = max(counted, key=lambda t: counted[t]) if any(counted.values()) else "http"
        self.talk.say(
            "fetching",
            name=ref.base,
            version=str(ref.version),
            done=min(done, size),
            size=size,
            transport=transport,
            held_back=held_back,
        )
        self.talk.say("counted", **{t: self.bytes[t] + counted[t] for t in self.bytes})

    @contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Tells that what follows may take so many seconds between two words of it."""
        self.within += seconds
        self.talk.say("busy", within=self.within)
        try:
            yield
        finally:
            self.within -= seconds
            self.talk.say("busy", within=self.within)

    def note(self, ref: Ref, state: State, moved: int = 0, seconds: float = 0.0) -> None:
        """Notes what became of a version."""
        log.info("%s: %s", ref, state)
        self.report.results.append(Done(ref.base, str(ref.version), state, moved, round(seconds, 3)))


def read_root(path: str | None) -> bytes | None:
    """The root of trust; None where none is configured (then an earlier run has kept it)."""
    if path is None:
        return None
    try:
        with Path(path).open("rb") as f:
            return f.read(1 << 20)
    except OSError as e:
        raise StorageError(f"can't read the root of trust: {e.strerror}", where=path) from None
