"""What packages say about the image's files: who owns a path, and what it must contain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kiosk.audit.model import Package
from kiosk.audit.tree import Tree


@dataclass(frozen=True)
class Expected:
    """What a package brought at a path: its name, the digest (`md5:HEX`, `sha256:HEX`; "" where it says none),
    whether the file is configuration that may be changed, and the mode where the database has it."""

    package: str
    digest: str = ""
    configuration: bool = False
    mode: int | None = None


@dataclass(frozen=True)
class Owners:
    """A database of packages: the packages, and by path (folders' links followed) what each brought."""

    kind: str = ""
    packages: tuple[Package, ...] = ()
    files: Mapping[bytes, Expected] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def owners(tree: Tree) -> Owners:
    """Reads the image's database of packages, dpkg's or rpm's; `faults` say what is wrong with it or that none is
    there."""
    from kiosk.audit import dpkg, rpm

    if tree.file(dpkg.STATUS) is not None:
        return dpkg.read(tree)
    if any(tree.file(path) is not None for path in rpm.DATABASES):
        return rpm.read(tree)
    return Owners(faults=("the image has neither a dpkg nor an rpm database",))


def lines(data: bytes) -> Iterator[bytes]:
    """The lines of a small text file, without their ends."""
    yield from data.split(b"\n")
