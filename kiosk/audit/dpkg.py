"""dpkg's database in an image: installed packages, their files, checksums and configuration files.

Only packages that are installed count; file lists that no installed package has are nobody's. The paths are given
as the image has them: links of folders followed (/lib → /usr/lib), diversions applied.
"""

from __future__ import annotations

import re
import stat

from debian.deb822 import Deb822

from kiosk.audit.model import Package
from kiosk.audit.owners import Expected, Owners, lines
from kiosk.audit.tree import Tree
from kiosk.disk.volume import Node

STATUS = b"/var/lib/dpkg/status"
INFO = b"/var/lib/dpkg/info"
DIVERSIONS = b"/var/lib/dpkg/diversions"
LARGEST_STATUS = 64 << 20
LARGEST_LIST = 32 << 20
MAX_FILES = 3_000_000
_SUM = re.compile(rb"([0-9a-f]{32})  (.+)", re.DOTALL)
_FIELDS = ["Package", "Version", "Architecture", "Status", "Source", "Conffiles"]
_HERE = ("installed", "unpacked", "half-configured", "triggers-awaited", "triggers-pending", "half-installed")
_UNFINISHED = ("unpacked", "half-configured", "half-installed")


def read(tree: Tree) -> Owners:
    """The packages and their files. Faults are told, not raised."""
    status = tree.file(STATUS)
    text = tree.content(status, LARGEST_STATUS) if status is not None else None
    if text is None:
        return Owners("dpkg", faults=(f"{STATUS.decode()} is larger than can be",))
    packages: list[Package] = []
    faults: list[str] = []
    files: dict[bytes, Expected] = {}
    diverted = _diversions(tree)
    infos = {n.path.rpartition(b"/")[2]: n for n in tree.below(INFO)}
    for stanza in Deb822.iter_paragraphs(
        text.decode("utf-8", "replace").splitlines(keepends=True), fields=_FIELDS, use_apt_pkg=False
    ):
        state = stanza.get("Status", "").split()[-1:]
        if not state or state[0] not in _HERE or "Package" not in stanza:
            continue
        package = _package(stanza)
        packages.append(package)
        if state[0] in _UNFINISHED:
            faults.append(f"the package {package.name} is {state[0]}: its installation did not end well")
        if len(files) < MAX_FILES:
            _add_files(tree, infos, package, stanza.get("Conffiles", ""), diverted, files)
    if not packages:
        faults.append("dpkg's database has no packages")
    return Owners("dpkg", tuple(packages), files, tuple(faults))


def _package(stanza: Deb822) -> Package:
    name, version = stanza["Package"], stanza.get("Version", "")
    source, _, rest = stanza.get("Source", name).partition(" ")
    return Package(name, version, stanza.get("Architecture", ""), source, rest.strip("() ") or version)


def _add_files(
    tree: Tree,
    infos: dict[bytes, Node],
    package: Package,
    conffiles: str,
    diverted: dict[bytes, tuple[str, bytes]],
    into: dict[bytes, Expected],
) -> None:
    """One package's paths and what they must contain."""

    def place(path: bytes) -> bytes:
        by, elsewhere = diverted.get(path, (package.name, path))
        return tree.owner_path(path if by == package.name else elsewhere)

    for line in lines(_info(tree, infos, package, b".list")):
        if line.startswith(b"/") and len(line) > 2:
            into.setdefault(place(line), Expected(package.name))
    for line in lines(_info(tree, infos, package, b".md5sums")):
        if m := _SUM.fullmatch(line):
            into[place(b"/" + m[2])] = Expected(package.name, "md5:" + m[1].decode())
    for entry in conffiles.splitlines():
        path, _, rest = entry.strip().partition(" ")
        digest = rest.split(" ")[0]
        if path.startswith("/") and "obsolete" not in rest:
            known = f"md5:{digest}" if re.fullmatch(r"[0-9a-f]{32}", digest) else ""
            into[place(path.encode())] = Expected(package.name, known, configuration=True)


def _info(tree: Tree, infos: dict[bytes, Node], package: Package, suffix: bytes) -> bytes:
    """A file of dpkg's info folder: NAME:ARCHITECTURE.suffix for packages of several architectures, else NAME."""
    for name in (f"{package.name}:{package.architecture}", package.name):
        node = infos.get(name.encode() + suffix)
        if node is not None and stat.S_ISREG(node.mode):
            return tree.content(node, LARGEST_LIST) or b""
    return b""


def _diversions(tree: Tree) -> dict[bytes, tuple[str, bytes]]:
    """By path: the package that may use it, and where the files of all others are put."""
    node = tree.file(DIVERSIONS)
    found = lines(tree.content(node, LARGEST_LIST) or b"") if node is not None else iter(())
    rows = [line for line in found if line]
    return {
        path: (by.decode("utf-8", "replace"), elsewhere)
        for path, elsewhere, by in zip(rows[0::3], rows[1::3], rows[2::3], strict=False)
    }
