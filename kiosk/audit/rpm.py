"""rpm's database in an image, read with the `rpm` program from a copy: packages, files, digests, modes."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

from kiosk.audit.model import Package
from kiosk.audit.owners import Expected, Owners
from kiosk.audit.tree import Tree
from kiosk.errors import MissingToolError
from kiosk.run import CommandError, run

DATABASES = tuple(
    folder + name
    for folder in (b"/usr/lib/sysimage/rpm/", b"/var/lib/rpm/")
    for name in (b"rpmdb.sqlite", b"Packages.db", b"Packages")
)
BESIDE = {b"rpmdb.sqlite": (b"rpmdb.sqlite-wal",), b"Packages.db": (b"Index.db",), b"Packages": ()}
"""What belongs to a database beside its file. Nothing else of the folder is copied: rpm reads macros, which run
programs, from files in its home."""
LARGEST = 1 << 30
SECONDS = 120
_PACKAGES = "%{NAME}\\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\\t%{ARCH}\\t%{SOURCERPM}\\n"
_FILES = (
    "[%{=NAME}\\t%{=FILEDIGESTALGO}\\t%{FILEDIGESTS}\\t%{FILEMODES}\\t%{FILEFLAGS}\\t%{FILESTATES}"
    "\\t%{FILENAMES}\\n]"
)
_DIGESTS = {"8": "sha256", "(none)": "md5", "1": "md5", "2": "sha1", "9": "sha384", "10": "sha512"}
_CONFIGURATION, _GHOST = 1, 64


def read(tree: Tree) -> Owners:
    """The packages and their files; a database that can't be read is a fault."""
    with tempfile.TemporaryDirectory(prefix="kiosk-rpm-") as name:
        try:
            folder = Path(name) / "db"
            folder.mkdir()
            (Path(name) / "home").mkdir()
            if not _copy(tree, folder):
                return Owners("rpm", faults=("the rpm database is larger than can be",))
            packages = [_package(line) for line in _ask(folder, _PACKAGES)]
            files = dict(filter(None, (_file(tree, line) for line in _ask(folder, _FILES))))
        except (CommandError, MissingToolError) as e:
            return Owners("rpm", faults=(f"the rpm database can't be read: {e}",))
    faults = () if packages else ("the rpm database has no packages",)
    return Owners("rpm", tuple(p for p in packages if p.name != "gpg-pubkey"), files, faults)


def _copy(tree: Tree, folder: Path) -> bool:
    """Copies the database that is there; False when it is too large."""
    database = next(n for p in DATABASES if (n := tree.file(p)) is not None)
    above, _, own = database.path.rpartition(b"/")
    beside = [tree.file(above + b"/" + name) for name in BESIDE.get(own, ())]
    left = LARGEST
    for node in [database, *(n for n in beside if n is not None)]:
        left -= node.size
        if left < 0:
            return False
        with (folder / node.path.rpartition(b"/")[2].decode()).open("wb") as f:
            for piece in tree.volume.read(node):
                f.write(piece)
    return True


def _ask(folder: Path, form: str) -> list[list[str]]:
    """One query about all packages, as rows of words."""
    argv: list[str | Path] = ["rpm", "--dbpath", folder, "-qa", "--qf", form]
    out = run(argv, timeout=SECONDS, env={"HOME": str(folder.parent / "home")})
    return [line.split("\t") for line in out.splitlines()]


def _package(row: list[str]) -> Package:
    name, version, architecture, source = (*row, "", "", "", "")[:4]
    return Package(name, version.removeprefix("0:"), architecture, source.removesuffix(".src.rpm"))


def _file(tree: Tree, row: list[str]) -> tuple[bytes, Expected] | None:
    if len(row) != 7 or not row[6].startswith("/"):
        return None
    package, algorithm, digest, mode, flags, state, path = row
    if state not in ("0", "normal", "(none)"):  # not installed, replaced, another colour
        return None
    number, bits = int(mode) & 0xFFFF, int(flags)
    known = ""
    if stat.S_ISREG(number) and digest and not bits & _GHOST and algorithm in _DIGESTS:
        known = f"{_DIGESTS[algorithm]}:{digest}"
    where = tree.owner_path(path.encode("utf-8", "surrogateescape"))
    return where, Expected(package, known, bool(bits & (_CONFIGURATION | _GHOST)), number)
