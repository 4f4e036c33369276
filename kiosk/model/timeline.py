"""When which version of an image was the current one, and which package was in it when. Pure.

Versions only go up, so a version is the current one from its publication until that of the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from fnmatch import fnmatchcase
from itertools import pairwise

from kiosk.errors import UsageError
from kiosk.model.census import Package
from kiosk.model.manifest import Manifest
from kiosk.model.names import Version

Lists = Mapping[str, tuple[Package, ...] | None]
"""The packages of each version; None where it has no list."""


@dataclass(frozen=True)
class Period:
    """A version, and from when until when (None: still) it was the current one. `recorded` where the time of its
    publication is signed; else it is the time that the version was made. `withdrawn` when it was taken out."""

    manifest: Manifest
    published: datetime
    recorded: bool
    withdrawn: datetime | None = None
    until: datetime | None = None

    @property
    def version(self) -> str:
        """The version's number."""
        return self.manifest.version


@dataclass(frozen=True)
class Span:
    """A package's version and the image's versions, from `first` to `last`, that had it. `until` is None where the
    current version has it still."""

    name: str
    architecture: str
    version: str
    source: str
    first: str
    last: str
    since: datetime
    until: datetime | None


def timeline(found: Iterable[tuple[Manifest, datetime | None, datetime | None]]) -> list[Period]:
    """The periods of manifests with the times of publication and withdrawal, oldest first, each version once."""
    once = {m.version: Period(m, p or m.created, p is not None, w) for m, p, w in found}
    periods = sorted(once.values(), key=lambda p: Version.parse(p.version))
    ends = [max(one.published, after.published) for one, after in pairwise(periods)]
    return [
        Period(p.manifest, p.published, p.recorded, p.withdrawn, until)
        for p, until in zip(periods, [*ends, None], strict=True)
    ]


def during(periods: Sequence[Period], start: datetime, end: datetime) -> list[Period]:
    """Those that were current at any time from `start` until before `end`."""
    return [p for p in periods if p.published < end and (p.until is None or p.until > start)]


def parse_when(text: str) -> tuple[datetime, datetime]:
    """A day (`2026-11-20`: all of it) or a moment (`2026-11-20T14:00`, with or without a zone; without, UTC), as
    start and end. UsageError when it is neither."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{text!r} is neither a day nor a time", hint="Write 2026-11-20, or 2026-11-20T14:00 (UTC)"
        ) from None
    found = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    whole_day = len(text) <= len("2026-11-20") and found.time() == time()
    return found, found + (timedelta(days=1) if whole_day else timedelta(microseconds=1))


@dataclass(frozen=True)
class Pattern:
    """Which packages: fnmatch patterns of the package's name or its source's, and of the version."""

    name: str
    version: str = "*"

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Reads NAME or NAME=VERSION."""
        name, _, version = text.partition("=")
        if not name:
            raise UsageError(
                f"{text!r} names no package", hint="Write openssl, 'libssl*', or openssl=3.0.11-*"
            )
        return cls(name, version or "*")

    def fits(self, package: Package) -> bool:
        """Whether a package is meant."""
        names = (package.name, package.source or package.name)
        return any(fnmatchcase(n, self.name) for n in names) and fnmatchcase(package.version, self.version)


def spans(periods: Sequence[Period], lists: Lists, pattern: Pattern) -> list[Span]:
    """From when until when each fitting package was in the current version, by name, architecture, and time.
    A version without a list ends them all: what it had is not known."""
    found: list[Span] = []
    running: dict[tuple[str, str, str], tuple[Package, Period, Period]] = {}
    for period in periods:
        there = {
            (p.name, p.architecture, p.version): p for p in lists[period.version] or () if pattern.fits(p)
        }
        found += _ended(running, running.keys() - there.keys(), period.published)
        for key, package in there.items():
            first = running[key][1] if key in running else period
            running[key] = package, first, period
    found += _ended(running, set(running), None)
    return sorted(found, key=lambda s: (s.name, s.architecture, s.since, s.version))


def _ended(
    running: dict[tuple[str, str, str], tuple[Package, Period, Period]],
    keys: Iterable[tuple[str, str, str]],
    until: datetime | None,
) -> Iterator[Span]:
    for key in list(keys):
        package, first, last = running.pop(key)
        source = package.source or package.name
        yield Span(*key, source, first.version, last.version, first.published, until)
