"""Small synthetic trees: enough of a Debian for an image to be assembled from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

Maker = Callable[..., Path]
STATUS = b"""Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2.15-2

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: adduser
Status: install ok installed
Architecture: all
Version: 3.134
"""


def content(name: str, size: int) -> bytes:
    """Bytes that no other file has."""
    seed = hashlib.sha256(name.encode()).digest()
    return (seed * (size // 32 + 1))[:size]


def write_tree(root: Path, *, backwards: bool = False, changes: dict[str, bytes] | None = None) -> Path:
    """A tree of 400 files with the traces that a build leaves; `backwards` makes them in another order."""
    files = {f"usr/lib/part{i % 20:02}/file{i:03}": content(f"file{i}", 700 + 173 * i) for i in range(400)}
    files |= {
        "boot/vmlinuz-6.1": content("kernel", 300_000),
        "boot/initrd.img-6.1": content("initrd", 500_000),
        "usr/lib/os-release": b'ID=debian\nPRETTY_NAME="Debian"\n',
        "var/lib/dpkg/status": STATUS,
        "etc/machine-id": b"0123456789abcdef0123456789abcdef\n",
        "etc/ssh/ssh_host_rsa_key": b"secret\n",
        "etc/hostname": b"buildhost\n",
        "etc/dib-manifests/dib_environment": os.urandom(8),
        "tmp/kiosk-apt/sources.list": b"deb http://mirror.invalid/ x main\n",
        "var/log/dpkg.log": os.urandom(64),
        "var/lib/apt/lists/index": os.urandom(64),
        "var/lib/systemd/random-seed": os.urandom(32),
        "root/.bash_history": b"ls\n",
    }
    files |= changes or {}
    names: Iterable[str] = sorted(files, reverse=backwards)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name])
        path.chmod(0o644)
    os.link(root / "usr/lib/part00/file000", root / "usr/lib/twin")
    (root / "bin").symlink_to("usr/bin")
    for folder in [root, *(p for p in root.rglob("*") if p.is_dir() and not p.is_symlink())]:
        folder.chmod(0o755)
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Maker:
    """Makes synthetic trees: `tree("a", backwards=True)`."""

    def make(name: str, *, backwards: bool = False, changes: dict[str, bytes] | None = None) -> Path:
        return write_tree(tmp_path / name, backwards=backwards, changes=changes)

    return make
