"""`kiosk diff`: what lies between two versions, and what a hypervisor moves to get from one to the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from kiosk.cli.common import Json, emit, say, settings, size, table
from kiosk.cli.publish import Root, read_artifact, reader
from kiosk.errors import CorruptError, NotFoundError, UsageError

if TYPE_CHECKING:
    from kiosk.config import Settings
    from kiosk.model.changes import FileChanges, PackageChanges
    from kiosk.model.manifest import Manifest
    from kiosk.model.names import Ref
    from kiosk.store.ways import Way
    from kiosk.trust.client import TrustedRepository

SHOWN = 40
"""Rows of each kind that are shown to people; --json has all."""


@dataclass(frozen=True)
class Difference:
    """Two versions, compared. None where one of them has no such list."""

    before: Manifest
    after: Manifest
    ways: list[Way]
    packages: PackageChanges | None
    files: FileChanges | None


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("diff")(diff)


def diff(
    ctx: typer.Context,
    first: Annotated[
        str,
        typer.Argument(metavar="[A]", help="NAME@VERSION that is held (default: the version before B)."),
    ],
    second: Annotated[
        str | None, typer.Argument(metavar="B", help="NAME@VERSION, or NAME for its newest version.")
    ] = None,
    files: Annotated[bool, typer.Option("--files", help="Compare the files as well, and list them.")] = False,
    root: Root = None,
    json: Json = False,
) -> None:
    """Shows what a hypervisor that holds A moves to get B, and what is different inside.

    `kiosk diff debian-12-worker`, `kiosk diff debian-12-worker@20260301.1 debian-12-worker@20260302.1 --files`

    Only lists and indexes are read. Verified, from the URL in the settings, else from the repository here.
    """
    from kiosk.model.names import parse_ref

    s = settings(ctx)
    with reader(s, root) as repository:
        before, after = _manifests(repository, parse_ref(first), parse_ref(second) if second else None)
    found = compare(s, before, after, with_files=files)
    if json:
        emit(
            {
                "before": str(before.ref),
                "after": str(after.ref),
                "ways": [vars(w) for w in found.ways],
                "packages": found.packages,
                "files": found.files,
            }
        )
        return
    _show(found, with_files=files)


def compare(s: Settings, before: Manifest, after: Manifest, *, with_files: bool) -> Difference:
    """Reads the lists and indexes of two versions and compares them."""
    from kiosk.model import changes
    from kiosk.model.census import read_files, read_packages

    packages = files = None
    if (lists := _lists(s, before, after, "packages")) is not None:
        packages = changes.packages(*(read_packages(data, where=where) for where, data in lists))
    if with_files and (lists := _lists(s, before, after, "files")) is not None:
        files = changes.files(*(read_files(data, where=where) for where, data in lists))
    return Difference(before, after, _ways(s, before, after), packages, files)


def _manifests(repository: TrustedRepository, first: Ref, second: Ref | None) -> tuple[Manifest, Manifest]:
    after = repository.manifest(second or first)
    if second is not None:
        if first.version is None:
            raise UsageError(f"{first} names no version", hint="Write A as NAME@VERSION.")
        before = repository.manifest(first)
    else:
        offered = repository.versions(after.ref)
        at = offered.index(after.ref)
        if at == 0:
            raise NotFoundError(f"there is no version before {after.ref}", hint="Name two versions: A B")
        before = repository.manifest(offered[at - 1])
    if before.schema_ != after.schema_:
        raise UsageError(f"{before.ref} and {after.ref} are an image and a layer")
    return before, after


def _lists(s: Settings, before: Manifest, after: Manifest, name: str) -> list[tuple[str, bytes]] | None:
    """That list of both versions, each with words for where it is from; None unless both have one."""
    from kiosk.model.census import LARGEST

    found = []
    for manifest in (before, after):
        artifact = manifest.artifacts.get(name)
        if artifact is None or artifact.index is None:
            return None
        where = f"{manifest.ref} {artifact.file}"
        if artifact.size > LARGEST:
            raise CorruptError(f"has {artifact.size} bytes, more than a list of {name} may have", where=where)
        found.append((where, read_artifact(s, artifact)))
    return found


def _ways(s: Settings, before: Manifest, after: Manifest) -> list[Way]:
    """What a hypervisor moves: only the files that it keeps, each made from the same file of A."""
    from kiosk.store import difference, locate
    from kiosk.store.index import load
    from kiosk.store.ways import Wanted, ways
    from kiosk.sync.host import kept_artifacts

    source = locate.source(s.url or s.repository, s.proxy, s.s3)
    held = {a.file: a for a in kept_artifacts(before) if a.index is not None}
    wanted = []
    for artifact in kept_artifacts(after):
        if artifact.index is None:
            raise CorruptError(f"its manifest names no index of {artifact.file}", where=str(after.ref))
        old = held.get(artifact.file)
        index = load(source, artifact.index)
        old_index = load(source, old.index) if old is not None and old.index is not None else None
        offered = next((d for d in artifact.differences if old is not None and d.base == old.digest), None)
        groups = difference.load(source, offered.groups, index) if offered is not None else None
        list_size = offered.groups.size if offered is not None else 0
        wanted.append(Wanted(artifact, index, old_index, groups, list_size))
    return ways(wanted)


def _show(found: Difference, *, with_files: bool) -> None:
    say(f"{found.before.ref} -> {found.after.ref}")
    say(f"To move, for a hypervisor that holds {found.before.ref}:")
    table(
        ["way", "moved#", "requests#", "of it indexes#", "reused#"],
        [(w.way, size(w.bytes), w.requests, size(w.index_bytes), size(w.reused)) for w in found.ways],
    )
    if found.packages is None:
        say("Packages: there is no list of them.")
    else:
        show_packages(found.packages)
    if with_files:
        _show_files(found)


def show_packages(packages: PackageChanges) -> None:
    """Says which packages came, went, and changed."""
    counts = {
        d: sum(c.direction == d for c in packages.changed) for d in ("upgraded", "downgraded", "changed")
    }
    words = [f"{n} {d}" for d, n in counts.items() if n or d == "upgraded"]
    say(f"Packages: {len(packages.added)} added, {len(packages.removed)} removed, {', '.join(words)}.")
    rows = [("added", p.name, p.architecture, "", p.version) for p in packages.added]
    rows += [("removed", p.name, p.architecture, p.version, "") for p in packages.removed]
    rows += [(c.direction, c.name, c.architecture, c.before, c.after) for c in packages.changed]
    if rows:
        table(["", "package", "architecture", "before", "after"], rows[:SHOWN])
        _rest(rows)


def _show_files(found: Difference) -> None:
    files = found.files
    if files is None:
        say("Files: there is no list of them.")
        return
    changed = "unknown how many" if files.changed is None else str(len(files.changed))
    say(f"Files: {len(files.added)} added, {len(files.removed)} removed, {changed} changed.")
    if files.changed is None:
        say("  (One of the two lists has paths only: it was written by an older kiosk.)")
    for word, paths in (("added", files.added), ("removed", files.removed)):
        rows = [(word, path) for path in paths]
        _list(rows)
    _list([("changed", f"{c.path} ({', '.join(c.what)})") for c in files.changed or ()])


def _list(rows: Sequence[tuple[str, str]]) -> None:
    for word, text in rows[:SHOWN]:
        say(f"  {word:<8} {''.join(c if c.isprintable() else '?' for c in text)}")
    _rest(rows)


def _rest(rows: Sequence[object]) -> None:
    if len(rows) > SHOWN:
        say(f"  and {len(rows) - SHOWN} more (--json lists all)")
