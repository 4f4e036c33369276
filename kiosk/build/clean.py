"""Makes a root tree fit to be an image: no identity, no trace of the build, no time after its source date.

After `clean` the tree's bytes depend on what was installed, not on when, where, or by whom.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

EMPTIED = (
    "boot",
    "dev",
    "proc",
    "run",
    "sys",
    "tmp",
    "var/tmp",
    "var/cache/apt",
    "var/cache/debconf",
    "var/cache/ldconfig",
    "var/lib/apt/lists",
    "var/lib/apt/periodic",
    "var/lib/systemd/coredump",
    "usr/share/pkg-map",
)
"""Folders that stay, empty: mount points, caches, and what belongs to one machine or one moment."""
REMOVED = (
    ".extra_settings",
    "etc/dib-manifests",
    "etc/hostname",
    "etc/machine-info",
    "etc/mtab.orig",
    "etc/.pwd.lock",
    "etc/ssh/ssh_host_*",
    "etc/resolv.conf.ORIG",
    "lib/diskimage-builder",
    "usr/lib/diskimage-builder",
    "root/.bash_history",
    "root/.cache",
    "root/.python_history",
    "usr/local/bin/dib-python",
    "usr/local/bin/install-packages",
    "usr/local/bin/map-packages",
    "usr/local/bin/package-installs*",
    "usr/local/bin/package-uninstalls*",
    "usr/local/bin/pkg-map",
    "var/lib/dbus/machine-id",
    "var/lib/dpkg/*-old",
    "var/lib/dpkg/lock*",
    "var/lib/dpkg/triggers/Lock",
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/apt/daily_lock",
    "var/cache/apt/*.bin",
    "var/lib/apt/extended_states.*",
)
LINKS = {"etc/mtab": "../proc/self/mounts"}
TOP_LINKS = ("vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old")


def clean(root: Path, date: int) -> None:
    """Takes out of the tree what must not be in an image, and clamps all times to `date`."""
    for name in EMPTIED:
        _empty(root / name)
    for pattern in REMOVED:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in TOP_LINKS:
        (root / name).unlink(missing_ok=True)
    for log in (root / "var/log").rglob("*"):
        if log.is_file() and not log.is_symlink():
            log.unlink()
    for name in ("dev", "proc", "sys", "run", "tmp", "boot", "opt", "var/tmp", "etc"):
        (root / name).mkdir(exist_ok=True)
        (root / name).chmod(0o755)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    # Empty: systemd makes an identity for this boot alone, and doesn't take it for a first boot.
    (root / "etc/machine-id").write_bytes(b"")
    (root / "etc/machine-id").chmod(0o444)
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
    for entry in sorted(os.scandir(root), key=lambda e: os.fsencode(e.name)):
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from walk(Path(entry.path))
