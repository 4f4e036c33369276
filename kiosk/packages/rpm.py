"""Reads rpm's database with the program rpm, from a private copy, so that the tree stays as it is.

rpm leaves out a package whose header is damaged, and goes on; here that is a CorruptError. Keys that rpm keeps
as packages (gpg-pubkey) are not listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from kiosk.errors import CorruptError
from kiosk.files import scratch
from kiosk.packages.installed import Installed, checked, line
from kiosk.packages.tree import Tree
from kiosk.pipe import told

PLACES = ("usr/lib/sysimage/rpm", "var/lib/rpm")
DATABASES = ("rpmdb.sqlite", "Packages.db", "Packages")
"""What makes a folder a database: of today's rpm, of SUSE's, of rpm until 2020."""
BESIDE = {"rpmdb.sqlite": ("rpmdb.sqlite-wal",), "Packages.db": ("Index.db",), "Packages": ()}
"""Files that belong to it: what a live database has not yet written into the main file."""
LARGEST = 1 << 30
"""Bytes of a database; a thousand packages have some 60 MB."""
LARGEST_LIST = 64 << 20
TIMEOUT = 300.0
FIELD, RECORD = "\x1f", "\x1e"
TAGS = ("NAME", "EPOCHNUM", "VERSION", "RELEASE", "ARCH", "SOURCERPM", "VENDOR", "LICENSE", "SHA256HEADER")
SOURCE = re.compile(r"(.+)-([^-]+-[^-]+)\.(?:no)?src\.rpm")


def read(tree: Tree, folder: Path) -> list[Installed]:
    """The packages that are installed; none where there is no such database."""
    for place in PLACES:
        there = set(tree.names(place))
        for database in (d for d in DATABASES if d in there):
            with scratch(folder, prefix="rpm-") as private:
                for name in (database, *BESIDE[database]):
                    _copy(tree, f"{place}/{name}", private / name)
                return checked(_packages(private, f"/{place}/{database}"), f"/{place}/{database}")
    return []


def _copy(tree: Tree, path: str, target: Path) -> None:
    pieces = tree.pieces(path)
    if pieces is None:
        return
    left = LARGEST
    with target.open("xb") as f:
        for piece in pieces:
            left -= len(piece)
            if left < 0:
                raise CorruptError(f"has more than {LARGEST} bytes", where=f"/{path}")
            f.write(piece)


def _packages(private: Path, where: str) -> Iterator[Installed]:
    form = FIELD.join(f"%{{{tag}}}" for tag in TAGS) + RECORD
    argv: list[str | Path] = ["rpm", "--dbpath", private, "--query", "--all", "--queryformat", form]
    env = {"HOME": str(private)}  # nobody's own macros
    ended = told(argv, timeout=TIMEOUT, most=LARGEST_LIST, env=env)
    if ended.late or ended.cut:
        raise CorruptError(f"rpm has no end of it in {TIMEOUT:.0f} s and {LARGEST_LIST} bytes", where=where)
    if ended.status != 0:
        raise CorruptError(f"rpm can't read this database: {_last(ended.error)}", where=where)
    if "error:" in ended.error:
        raise CorruptError(f"a part of this database is damaged: {_last(ended.error)}", where=where)
    for record in ended.text.split(RECORD)[:-1]:
        fields = record.split(FIELD)
        if len(fields) != len(TAGS):
            raise CorruptError("has a package whose fields have control characters", where=where)
        tags = {t: "" if f == "(none)" else f for t, f in zip(TAGS, fields, strict=True)}
        if tags["NAME"] != "gpg-pubkey":
            yield _package(tags)


def _package(tags: dict[str, str]) -> Installed:
    number = f"{tags['VERSION']}-{tags['RELEASE']}"
    version = number if tags["EPOCHNUM"] in ("", "0") else f"{tags['EPOCHNUM']}:{number}"
    source = SOURCE.fullmatch(line(tags["SOURCERPM"]))
    return Installed(
        kind="rpm",
        name=tags["NAME"],
        version=version,
        architecture=tags["ARCH"],
        source=source[1] if source else tags["NAME"],
        source_version=source[2] if source and source[2] != number else version,
        vendor=line(tags["VENDOR"]),
        licences=(line(tags["LICENSE"]),) if tags["LICENSE"] else (),
        header=tags["SHA256HEADER"] if re.fullmatch(r"[0-9a-f]{64}", tags["SHA256HEADER"]) else None,
    )


def _last(said: str) -> str:
    """The first thing that rpm complained of, as one line."""
    return line(next((text for text in said.splitlines() if "error:" in text), said).removeprefix("error: "))
