"""The packages of a tree, whichever database it has.

* The same database gives the same list, sorted by name, architecture and version.
* A database that is damaged, has rows that are none, or is larger than any real one is a CorruptError; a part
  of it is never taken for the whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kiosk.disk.volume import Volume
from kiosk.errors import BuildError, CorruptError
from kiosk.model.census import Package
from kiosk.packages.tree import Folder, Opened, Tree

MOST = 100_000
"""Packages that a tree may have."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9+._-]{0,200}")
VERSION = re.compile(r"(?:[0-9]{1,10}:)?[A-Za-z0-9.+~^_-][A-Za-z0-9.+~^_:-]{0,250}")
ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9_-]{0,30}")


@dataclass(frozen=True)
class Installed:
    """An installed package. An rpm's version is EPOCH:VERSION-RELEASE, without EPOCH: where it has none.
    `source` and `source_version` are of the package that it was built from, `vendor` who says to have made it
    (dpkg's maintainer), `licences` in the words of the package, `header` the SHA-256 of an rpm's header."""

    kind: Literal["deb", "rpm"]
    name: str
    version: str
    architecture: str
    source: str
    source_version: str
    vendor: str = ""
    licences: tuple[str, ...] = ()
    header: str | None = None

    def row(self) -> Package:
        """Its row in an image's list, which leaves out what goes without saying."""
        return Package(
            name=self.name,
            version=self.version,
            architecture=self.architecture,
            kind=self.kind,
            source=None if self.source == self.name else self.source,
            source_version=None if self.source_version == self.version else self.source_version,
        )


def installed(root: Path | Volume, folder: Path) -> list[Installed]:
    """What is installed in the tree `root`; `folder` is private, and for what comes between. BuildError when the
    tree has no package database, MissingToolError when it has one of rpm and rpm is not installed here."""
    from kiosk.packages import dpkg, rpm

    tree: Tree = Folder(root) if isinstance(root, Path) else Opened(root)
    found = [*dpkg.read(tree), *rpm.read(tree, folder)]
    if not found:
        raise BuildError(
            "has neither a dpkg nor an rpm database with packages in it",
            where=str(root) if isinstance(root, Path) else None,
            hint=f"Looked for {', '.join(f'/{p}' for p in (*dpkg.PLACES, *rpm.PLACES))}",
        )
    return sorted(found, key=lambda p: (p.name, p.architecture, p.version))


def checked(found: Iterable[Installed], where: str) -> list[Installed]:
    """The packages, if each can be one and none is there twice."""
    packages: dict[tuple[str, str, str], Installed] = {}
    for one in found:
        key = one.name, one.architecture, one.version
        sound = (
            NAME.fullmatch(one.name)
            and VERSION.fullmatch(one.version)
            and ARCHITECTURE.fullmatch(one.architecture)
        )
        if not sound:
            raise CorruptError(f"has a row that is no package: {' '.join(key)[:200]!r}", where=where)
        if key in packages:
            raise CorruptError(f"has the package {one.name} {one.version} twice", where=where)
        packages[key] = one
        if len(packages) > MOST:
            raise CorruptError(f"has more than {MOST} packages", where=where)
    return list(packages.values())


def line(text: str) -> str:
    """Words of a package as one line, of bounded length."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]
