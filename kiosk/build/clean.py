"""Makes a root tree fit to be an image: no identity, no trace of the build, no time after its source date.

After `clean` the tree's bytes depend on what was installed, not on when, where, or by whom. What is an identity, a
cache or a trace of a machine is said by the table of rules for sanitising (recipes/sanitise, those with `builds`);
here is only what the making of a tree leaves in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from kiosk.model.accounts import AccountPolicy
from kiosk.sanitise.engine import sanitise
from kiosk.sanitise.rules import Rule, load
from kiosk.sanitise.tree import Tree

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
KEPT_ATTRIBUTES = (
    "security.capability",
    "security.selinux",
    "system.posix_acl_access",
    "system.posix_acl_default",
)
LINKS = {"etc/mtab": "../proc/self/mounts"}
FOLDERS = ("dev", "proc", "sys", "run", "boot", "opt", "var", "etc")
"""What must be a folder of the image itself: a link there leads to what the image doesn't have."""
TOP_LINKS = ("vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old")


def clean(root: Path, date: int, table: Sequence[Rule] | None = None) -> None:
    """Takes out of the tree what must not be in an image, and clamps all times to `date`. `table` has the rules for
    sanitising, of which those for builds apply; by default kiosk's own."""
    rules = [rule for rule in (load() if table is None else table) if rule.builds]
    sanitise(root, rules, AccountPolicy())
    with Tree(root) as tree:
        for name in FOLDERS:
            tree.real_folder(tuple(name.split("/")), 0o755)
        for name in ("tmp", "var/tmp"):
            tree.real_folder(tuple(name.split("/")), 0o1777)
        for name in EMPTIED:
            folder = tuple(name.split("/"))
            for below in tree.names(folder) if tree.is_folder(folder) else ():
                tree.remove((*folder, below))
        for pattern in REMOVED:
            for parts in tree.glob(pattern):
                tree.remove(parts)
        for name in TOP_LINKS:
            tree.clear((name,))
        for name, target in LINKS.items():
            tree.link(tuple(name.split("/")), target)
    clamp(root, date)


def drop_attributes(root: Path) -> None:
    """Takes away extended attributes but those that say who may do what: capabilities, ACLs, SELinux labels. Others
    can hold anything, and nobody looks into them."""
    for path in [root, *walk(root)]:
        for name in os.listxattr(path, follow_symlinks=False):
            if name not in KEPT_ATTRIBUTES:
                os.removexattr(path, name, follow_symlinks=False)


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
