"""A real day of updates for a golden node: packages whose version in the archive's main suite is below the newest.

The node's tree gets the older ones, and the newer ones beside them, for the node to install while it runs.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from kiosk.run import run
from tests.golden.node import dpkg
from tests.simulators.images import kept_home

WAITING = "var/cache/apt/archives"
"""Where the newer packages wait in the node; snapshots leave it out."""
CANDIDATES = (
    "libexpat1",
    "libssl3",
    "openssl",
    "perl-base",
    "libgnutls30",
    "libgssapi-krb5-2",
    "libkrb5-3",
    "libkrb5support0",
    "libk5crypto3",
    "libxml2",
    "libsystemd0",
    "libc-bin",
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "python3.11",
)


@dataclass(frozen=True)
class Update:
    """A package, the version to begin with, and the one to update to."""

    name: str
    before: str
    after: str


def pending(tree: Path) -> list[Update]:
    """What of the tree has an older version in the release's main suite."""
    found = []
    for name in CANDIDATES:
        installed = run(
            ["dpkg-query", f"--admindir={tree}/var/lib/dpkg", "-W", "-f", "${db:Status-Status} ${Version}\n", name],
            timeout=60,
        ) if (tree / f"var/lib/dpkg/info/{name}.list").exists() or any(
            (tree / "var/lib/dpkg/info").glob(f"{name}:*.list")
        ) else ""  # fmt: skip
        if not installed.startswith("installed "):
            continue
        now = installed.split()[1]
        for line in run(["apt-cache", "madison", name], timeout=60).splitlines():
            version, where = (word.strip() for word in line.split("|")[1:3])
            if re.search(r" bookworm/main amd64 Packages$", where) and _below(version, now):
                found.append(Update(name, version, now))
                break
    return found


def _below(one: str, other: str) -> bool:
    try:
        run(["dpkg", "--compare-versions", one, "lt", other], timeout=10)
    except Exception:  # noqa: BLE001  status 1: it is not
        return False
    return True


def put_back(tree: Path) -> list[Update]:
    """Installs the older versions in the tree and puts the newer ones where they wait; returns what waits."""
    updates = pending(tree)
    cache = kept_home() / "cache/golden/updates"
    cache.mkdir(parents=True, exist_ok=True)
    older = [_deb(cache, u.name, u.before) for u in updates]
    dpkg(tree, older, "--force-downgrade")
    (tree / WAITING).mkdir(parents=True, exist_ok=True)
    for update in updates:
        shutil.copy(_deb(cache, update.name, update.after), tree / WAITING)
    return updates


def _deb(cache: Path, name: str, version: str) -> Path:
    file = cache / f"{name}_{version.replace(':', '%3a')}_amd64.deb"
    if not file.exists():
        run(["apt-get", "download", "-qq", f"{name}={version}"], timeout=300, cwd=cache)
    return file
