"""Reads dpkg's database: `/var/lib/dpkg/status`, or the one file a package of trees without dpkg itself.

Licences come from the packages' own copyright files, where those can be read by machines
(https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/); where not, none is claimed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from debian.deb822 import Deb822

from kiosk.errors import CorruptError
from kiosk.packages.installed import Installed, checked, line
from kiosk.packages.tree import Tree, content

STATUS = "var/lib/dpkg/status"
STATUS_D = "var/lib/dpkg/status.d"
PLACES = (STATUS, STATUS_D)
LARGEST = 64 << 20
"""Bytes of a status file; five thousand packages have some 6 MB."""
LARGEST_COPYRIGHT = 4 << 20
MOST_LICENCES = 40
FORMAT = re.compile(
    rb"\AFormat(?:-Specification)?:\s*https?://www\.debian\.org/doc/packaging-manuals/copyright-format"
)
LICENCE = re.compile(rb"^License:[ \t]*([!-~][ -~]{0,100})$", re.MULTILINE)
INSTALLED = ("installed", "triggers-awaited", "triggers-pending")
"""States of a package that is there, whole and configured (dpkg(1)): triggers run later."""
SOURCE = re.compile(r"(\S+)(?:\s+\(([^()\s]+)\))?")


def read(tree: Tree) -> list[Installed]:
    """The packages that are installed; none where there is no such database."""
    data = content(tree, STATUS, LARGEST)
    if data is not None and (found := checked(_packages(tree, data, STATUS, status=True), f"/{STATUS}")):
        return found
    return checked(_single(tree), f"/{STATUS_D}")


def _single(tree: Tree) -> Iterator[Installed]:
    """The packages of a tree that was put together without dpkg: a file for each, and its sums beside it."""
    left = LARGEST
    for name in tree.names(STATUS_D):
        path = f"{STATUS_D}/{name}"
        if not name.endswith(".md5sums") and (data := content(tree, path, left)) is not None:
            left -= len(data)
            yield from _packages(tree, data, path, status=False)


def _packages(tree: Tree, data: bytes, path: str, *, status: bool) -> Iterator[Installed]:
    text = data.decode(errors="replace")
    for stanza in Deb822.iter_paragraphs(text.splitlines(keepends=True), use_apt_pkg=False):
        if status and stanza.get("Status", "").rpartition(" ")[2] not in INSTALLED:
            continue
        missing = [f for f in ("Package", "Version") if f not in stanza]
        if missing:
            raise CorruptError(f"has a package without {' and '.join(missing)}", where=f"/{path}")
        name, version = stanza["Package"], stanza["Version"]
        source = SOURCE.fullmatch(stanza.get("Source", name).strip())
        if source is None:
            raise CorruptError(f"has a strange source for {name[:100]!r}", where=f"/{path}")
        yield Installed(
            kind="deb",
            name=name,
            version=version,
            architecture=stanza.get("Architecture", "all"),
            source=source[1],
            source_version=source[2] or version,
            vendor=line(stanza.get("Maintainer", "")),
            licences=_licences(tree, name),
        )


def _licences(tree: Tree, name: str) -> tuple[str, ...]:
    """The short names of the licences that the package's copyright file lists."""
    folder = f"usr/share/doc/{name}"
    target = tree.link(folder)
    if target is not None and "/" not in target.rstrip("/"):  # documentation shared with a package beside it
        folder = f"usr/share/doc/{target.rstrip('/')}"
    try:
        text = content(tree, f"{folder}/copyright", LARGEST_COPYRIGHT)
    except CorruptError:
        return ()
    if text is None or not FORMAT.match(text):
        return ()
    found = sorted({line(m.decode("ascii")) for m in LICENCE.findall(text)})
    return tuple(found[:MOST_LICENCES])
