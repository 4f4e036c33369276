"""What is different between two versions: their packages and their files. Pure.

Versions are compared as dpkg and rpm do it (`1.0~rc1` is below `1.0`), each for its own packages; files by what
their rows say of them. Where one of the lists has bare paths only, added and removed files are known, and changed
ones are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from debian.debian_support import version_compare
from rpm_version import evr_compare as rpm_compare

from kiosk.model.base import Document
from kiosk.model.census import FileEntry, Package

Direction = Literal["upgraded", "downgraded", "changed"]


class PackageChange(Document):
    """A package in both versions; *changed* where its version numbers can't be compared."""

    name: str
    architecture: str
    before: str
    after: str
    direction: Direction


class PackageChanges(Document):
    """The packages of two versions, compared."""

    added: tuple[Package, ...] = ()
    removed: tuple[Package, ...] = ()
    changed: tuple[PackageChange, ...] = ()


class FileChange(Document):
    """A path in both versions, and what of it differs: type, content, permissions, owner, target, device."""

    path: str
    what: tuple[str, ...]


class FileChanges(Document):
    """The files of two versions, compared. `changed` is None where it can't be known."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[FileChange, ...] | None = ()


def packages(before: Iterable[Package], after: Iterable[Package]) -> PackageChanges:
    """Compares lists of packages, each package by name and architecture. Of packages that are there in several
    versions at a time (rpm's kernels), one that goes and one that comes are a change, more are not."""
    old, new = _versions(before), _versions(after)
    added: list[Package] = []
    removed: list[Package] = []
    changed: list[PackageChange] = []
    for key in sorted(old.keys() | new.keys()):
        gone = [p for v, p in sorted(old.get(key, {}).items()) if v not in new.get(key, {})]
        came = [p for v, p in sorted(new.get(key, {}).items()) if v not in old.get(key, {})]
        if len(gone) == len(came) == 1:
            changed.append(_change(gone[0], came[0]))
        else:
            removed += gone
            added += came
    return PackageChanges(added=tuple(added), removed=tuple(removed), changed=tuple(changed))


def _versions(listed: Iterable[Package]) -> dict[tuple[str, str], dict[str, Package]]:
    found: dict[tuple[str, str], dict[str, Package]] = {}
    for package in listed:
        found.setdefault((package.name, package.architecture), {})[package.version] = package
    return found


def _change(before: Package, after: Package) -> PackageChange:
    return PackageChange(
        name=after.name,
        architecture=after.architecture,
        before=before.version,
        after=after.version,
        direction=direction(before, after),
    )


def direction(before: Package, after: Package) -> Direction:
    """Which way a package went."""
    try:
        if before.kind != after.kind:
            return "changed"
        compare = rpm_compare if after.kind == "rpm" else version_compare
        order = compare(before.version, after.version)
    except ValueError:
        return "changed"
    return "upgraded" if order < 0 else "downgraded" if order > 0 else "changed"


def files(before: Sequence[FileEntry], after: Sequence[FileEntry]) -> FileChanges:
    """Compares lists of files by path."""
    old, new = {f.path: f for f in before}, {f.path: f for f in after}
    changed: tuple[FileChange, ...] | None = None
    if all(f.mode is not None for f in (*before, *after)):
        both = sorted(old.keys() & new.keys())
        found = ((path, _differences(old[path], new[path])) for path in both)
        changed = tuple(FileChange(path=path, what=what) for path, what in found if what)
    return FileChanges(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=changed,
    )


def _differences(old: FileEntry, new: FileEntry) -> tuple[str, ...]:
    assert old.mode is not None
    assert new.mode is not None
    old_mode, new_mode = int(old.mode, 8), int(new.mode, 8)
    differences = {
        "type": old_mode >> 12 != new_mode >> 12,
        "content": (old.size, old.digest) != (new.size, new.digest),
        "permissions": old_mode & 0o7777 != new_mode & 0o7777,
        "owner": old.owner != new.owner,
        "target": old.target != new.target,
        "device": old.device != new.device,
    }
    return ("type",) if differences["type"] else tuple(k for k, differs in differences.items() if differs)
