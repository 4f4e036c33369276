"""`kiosk history`: which version was the current one when, what was in it, and since when a package is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kiosk.cli import papers
from kiosk.cli.common import Json, emit, say, settings, table
from kiosk.cli.diff import show_packages
from kiosk.cli.publish import Root, reader
from kiosk.cli.show import made_from
from kiosk.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from kiosk.model.changes import PackageChanges
    from kiosk.model.names import Ref
    from kiosk.model.timeline import Lists, Pattern, Period
    from kiosk.trust.client import TrustedRepository

MADE = "* when it was made; the time of its publication was not recorded then"


@dataclass(frozen=True)
class Told:
    """The history of one name, oldest first: its periods, their packages, and what each changed."""

    name: str
    periods: list[Period]
    lists: Lists
    changes: dict[str, PackageChanges]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("history")(history)


def history(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="An image or a layer (default, with options: all images)."),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="What was current on that day, or at that time (UTC)."),
    ] = None,
    package: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[=VERSION]", help="From when until when a package was there; * and ? are patterns."
        ),
    ] = None,
    packages: Annotated[
        bool, typer.Option("--packages", help="List the packages, or their changes.")
    ] = False,
    root: Root = None,
    json: Json = False,
) -> None:
    """Tells which versions there were, and what was in the image on a given day.

    `kiosk history debian-12-worker`, `kiosk history debian-12-worker --on 2026-11-20 --packages`,
    `kiosk history --package 'openssl=3.0.11*'`

    A package is found by its own name and by that of its source. Verified, from the URL in the settings, else from
    the repository here; withdrawn versions are told of as long as the repository remembers them.
    """
    from kiosk.model.timeline import Pattern, parse_when

    moment = parse_when(on) if on is not None else None
    pattern = Pattern.parse(package) if package is not None else None
    if name is None and moment is None and pattern is None:
        raise UsageError("name an image, or what to look for in all of them", hint="kiosk history --help")
    with reader(settings(ctx), root) as repository:
        found = {ref.base: _periods(repository, ref) for ref in _refs(repository, name)}
    if moment is not None:
        then = {base: _during(periods, *moment) for base, periods in found.items()}
        if not any(then.values()):
            raise _nothing_yet(found, on)
        found = then
    told = [_told(ctx, base, periods, compare=not (moment or pattern)) for base, periods in found.items()]
    if moment is not None and json:
        listing = packages or pattern is not None
        emit([_facts(one, p, pattern, packages=listing) for one in told for p in one.periods])
    elif moment is not None:
        for one in told:
            _show_on(one, pattern, packages=packages)
    elif pattern is not None:
        _show_spans(told, pattern, json=json)
    elif json:
        emit([_facts(told[0], p, None, changes=packages) for p in reversed(told[0].periods)])
    else:
        _show(told[0], packages=packages)


def _refs(repository: TrustedRepository, name: str | None) -> list[Ref]:
    """The image or layer that was named, or all images."""
    from kiosk.model.names import ImageRef, parse_ref

    if name is None:
        return [ImageRef(base) for base in sorted({r.base for r in repository.manifests("images")})]
    ref = parse_ref(name)
    if ref.version is not None:
        raise UsageError(f"{ref} is one version", hint=f"kiosk show {ref}, or kiosk history {ref.base}")
    return [ref]


def _periods(repository: TrustedRepository, ref: Ref) -> list[Period]:
    from kiosk.model.timeline import timeline

    offered = [(repository.manifest(r), repository.published(r), None) for r in repository.versions(ref)]
    past = [(w.manifest, w.published, w.withdrawn) for w in repository.history(ref).withdrawn]
    if not offered and not past:
        repository.newest(ref)  # says what there is instead
    return timeline([*past, *offered])


def _during(periods: list[Period], start: datetime, end: datetime) -> list[Period]:
    from kiosk.model.timeline import during

    return during(periods, start, end)


def _nothing_yet(found: dict[str, list[Period]], on: str | None) -> NotFoundError:
    first = min((p[0] for p in found.values() if p), key=lambda p: p.published, default=None)
    hint = None if first is None else f"The first, {first.version}, was on {_time(first.published)} UTC."
    return NotFoundError(f"no version was published on {on}, or before", where=", ".join(found), hint=hint)


def _told(ctx: typer.Context, name: str, periods: list[Period], *, compare: bool) -> Told:
    from kiosk.model import changes

    lists = papers.all_packages(settings(ctx), [p.manifest for p in periods])
    found: dict[str, PackageChanges] = {}
    for before, after in pairwise(periods) if compare else ():
        old, new = lists[before.version], lists[after.version]
        if old is not None and new is not None:
            found[after.version] = changes.packages(old, new)
    return Told(name, periods, lists, found)


def _facts(
    told: Told, period: Period, pattern: Pattern | None, *, packages: bool = False, changes: bool = False
) -> dict[str, Any]:
    """A version as JSON."""
    manifest, listed = period.manifest, told.lists[period.version]
    changed = told.changes.get(period.version)
    facts = {
        "name": told.name,
        "version": period.version,
        "published": period.published,
        "published_recorded": period.recorded,
        "until": period.until,
        "withdrawn": period.withdrawn,
        "created": manifest.created,
        "source": getattr(manifest, "source", None),
        "packages": None if listed is None else len(listed),
        "changed": None if changed is None else _counts(changed),
    }
    facts = {k: v.isoformat() if isinstance(v, datetime) else v for k, v in facts.items()}
    if packages:
        facts["list"] = None if listed is None else [p for p in listed if pattern is None or pattern.fits(p)]
    if changes:
        facts["changes"] = changed
    return facts


def _counts(changed: PackageChanges) -> dict[str, int]:
    counts = {"added": len(changed.added), "removed": len(changed.removed)}
    for word in ("upgraded", "downgraded", "changed"):
        counts[word] = sum(c.direction == word for c in changed.changed)
    return counts


def _show(told: Told, *, packages: bool) -> None:
    rows = []
    for period in reversed(told.periods):
        listed, changed = told.lists[period.version], told.changes.get(period.version)
        words = [f"{n} {word}" for word, n in _counts(changed).items() if n] if changed else []
        rows.append(
            (
                period.version,
                _published(period),
                _state(period),
                made_from(period.manifest),
                "" if listed is None else len(listed),
                ", ".join(words) if words else "none" if changed else "",
            )
        )
    say(told.name)
    table(["version", "published (UTC)", "", "made from", "packages#", "changes"], rows)
    _footnote(told.periods)
    for period in reversed(told.periods) if packages else ():
        if (changed := told.changes.get(period.version)) is not None:
            say()
            say(period.version)
            show_packages(changed)


def _show_on(told: Told, pattern: Pattern | None, *, packages: bool) -> None:
    for period in told.periods:
        listed = told.lists[period.version]
        until = "and is the current version" if period.until is None else f"until {_time(period.until)} UTC"
        say(f"{told.name}@{period.version}  published {_published(period)} UTC, {until}")
        if period.withdrawn is not None:
            say(f"  withdrawn {_time(period.withdrawn)} UTC")
        if made_from(period.manifest):
            say(f"  made from {made_from(period.manifest)}")
        if listed is None:
            say("  There is no list of its packages.")
            continue
        say(f"  {len(listed)} packages")
        if packages or pattern is not None:
            fitting = [p for p in listed if pattern is None or pattern.fits(p)]
            rows = [(p.name, p.version, p.architecture, p.source or "") for p in fitting]
            table(["package", "version", "architecture", "source"], rows) if rows else say("  None fits.")
    _footnote(told.periods)


def _show_spans(told: list[Told], pattern: Pattern, *, json: bool) -> None:
    from kiosk.model.timeline import spans

    found = [(one.name, s) for one in told for s in spans(one.periods, one.lists, pattern)]
    if json:
        emit(
            [
                {
                    "image": name,
                    **vars(s),
                    "since": s.since.isoformat(),
                    "until": s.until.isoformat() if s.until else None,
                }
                for name, s in found
            ]
        )
        return
    unknown = [f"{one.name}@{p.version}" for one in told for p in one.periods if one.lists[p.version] is None]
    if unknown:
        say(f"Not known: {', '.join(unknown)} have no list of packages.")
    if not found:
        say("No version had it.")
        return
    table(
        ["image", "package", "architecture", "version", "from (UTC)", "until (UTC)", "in versions"],
        [
            (
                name,
                s.name,
                s.architecture,
                s.version,
                _time(s.since),
                _time(s.until) if s.until else "still",
                s.first if s.first == s.last else f"{s.first} to {s.last}",
            )
            for name, s in found
        ],
    )
    _footnote([p for one in told for p in one.periods])


def _state(period: Period) -> str:
    if period.withdrawn is not None:
        return f"withdrawn {_time(period.withdrawn)}"
    return "current" if period.until is None else ""


def _published(period: Period) -> str:
    return _time(period.published) + ("" if period.recorded else "*")


def _footnote(periods: Sequence[Period]) -> None:
    if not all(p.recorded for p in periods):
        say(MADE)


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"
