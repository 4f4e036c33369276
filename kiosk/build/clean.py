"""Makes a root tree fit to be an image: no identity, no trace of the build, no time after its source date.

After `clean` the tree's bytes depend on what was installed, not on when, where, or by whom. What is an identity, a
cache or a trace of a machine is said by the table of rules for sanitising (recipes/sanitise, those with `builds`);
here is only what the making of a tree leaves in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from kiosk.model.accounts import AccountPolicy
from kiosk.sanitise.engine import sanitise
from kiosk.sanitise.rules import Rule, load

EMPTIED = ("boot", "usr/share/pkg-map")
"""Folders that stay, empty: the kernel stands beside the root, not in it."""
REMOVED = (
    ".extra_settings",
    "etc/dib-manifests",
    "etc/mtab.orig",
    "etc/resolv.conf.ORIG",
    "lib/diskimage-builder",
    "usr/lib/diskimage-builder",
    "usr/local/bin/dib-python",
    "usr/local/bin/install-packages",
    "usr/local/bin/map-packages",
    "usr/local/bin/package-installs*",
    "usr/local/bin/package-uninstalls*",
    "usr/local/bin/pkg-map",
)
"""Traces of diskimage-builder."""
LINKS = {"etc/mtab": "../proc/self/mounts"}
TOP_LINKS = ("vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old")


def clean(root: Path, date: int, table: Sequence[Rule] | None = None) -> None:
    """Takes out of the tree what must not be in an image, and clamps all times to `date`. `table` has the rules for
    sanitising, of which those for builds apply; by default kiosk's own."""
    rules = [rule for rule in (load() if table is None else table) if rule.builds]
    sanitise(root, rules, AccountPolicy())
    for name in EMPTIED:
        _empty(root / name)
    for pattern in REMOVED:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in TOP_LINKS:
        (root / name).unlink(missing_ok=True)
    for name in ("dev", "proc", "sys", "run", "tmp", "boot", "opt", "var/tmp", "etc"):
        (root / name).mkdir(exist_ok=True)
        (root / name).chmod(0o755)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    for name, target in LINKS.items():
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(target)
    clamp(root, date)


def _empty(folder: Path) -> None:
    if not folder.is_dir() or folder.is_symlink():
        return
    for entry in os.scandir(folder):
        path = Path(entry.path)
        shutil.rmtree(path) if entry.is_dir(follow_symlinks=False) else path.unlink()


def clamp(root: Path, date: int) -> None:
    """Sets every time after `date` to `date`, and cuts fractions of seconds off."""
    for path in [root, *walk(root)]:
        found = path.lstat()
        kept = min(int(found.st_mtime), date)
        os.utime(path, (kept, kept), follow_symlinks=False)


def walk(root: Path) -> Iterator[Path]:
    """All that is below a folder, each folder before its content, names in byte order."""
    todo = [iter(_entries(root))]
    while todo:
        entry = next(todo[-1], None)
        if entry is None:
            todo.pop()
            continue
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            todo.append(iter(_entries(entry.path)))


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        return sorted(found, key=lambda e: os.fsencode(e.name))
