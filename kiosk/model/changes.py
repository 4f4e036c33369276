"""What is different between two versions: their packages and their files. Pure.

Packages are compared as Debian does it (`1.0~rc1` is below `1.0`); files by what their rows say of them. Where
one of the lists has bare paths only, added and removed files are known, and changed ones are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from debian.debian_support import version_compare

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
    """Compares lists of packages, each package by name and architecture."""
    old = {(p.name, p.architecture): p for p in before}
    new = {(p.name, p.architecture): p for p in after}
    changed = [
        PackageChange(
            name=key[0],
            architecture=key[1],
            before=old[key].version,
            after=p.version,
            direction=_direction(old[key].version, p.version),
        )
        for key, p in sorted(new.items())
        if key in old and old[key].version != p.version
    ]
    return PackageChanges(
        added=tuple(p for key, p in sorted(new.items()) if key not in old),
        removed=tuple(p for key, p in sorted(old.items()) if key not in new),
        changed=tuple(changed),
    )


def _direction(before: str, after: str) -> Direction:
    try:
        order = version_compare(before, after)
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
