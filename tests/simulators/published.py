"""Tiny images and layers, built and published with the real code: a few megabytes instead of a gigabyte.

The bytes are made up (they would not boot); the manifests, objects, keys, and metadata are real.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import random
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kiosk import clock
from kiosk.config import Settings
from kiosk.files import sha256
from kiosk.model.manifest import (
    Artifact,
    Declarations,
    ImageManifest,
    LayerManifest,
    LayerPolicy,
    Partition,
    Source,
    Verity,
)
from kiosk.model.names import parse_ref
from kiosk.publish import Published, publish
from kiosk.sync import Synced, sync
from kiosk.trust.names import delegated_role
from kiosk.trust.signing import keys as signing_keys
from kiosk.trust.signing.create import create
from kiosk.trust.signing.keys import Keys
from kiosk.trust.signing.periods import Periods
from kiosk.trust.signing.repository import Repository

# Opening a key is slow on purpose (scrypt). The same file and passphrase give the same key: remember it.
signing_keys.load_pem_private_key = functools.cache(signing_keys.load_pem_private_key)  # type: ignore[assignment]

PASSPHRASE = b"correct horse battery staple"
MEGABYTE = 1 << 20
CREATED = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the disk: no test here cuts the power, and a killed process loses nothing by it."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


def ask(_key: str) -> bytes:
    """The passphrase of every key here."""
    return PASSPHRASE


def bytes_of(seed: str, size: int) -> bytes:
    """Bytes that don't compress and are the same each time."""
    return random.Random(seed).randbytes(size)


def disk_bytes(version: str, size: int = 2 * MEGABYTE) -> bytes:
    """A disk of which each version changes one block in eight, with a hole at its end."""
    blocks = [bytes_of(f"{version if i % 8 == 0 else 'all'}-{i}", 4096) for i in range(size // 4096)]
    return b"".join(blocks) + bytes(256 << 10)


def write_artifacts(folder: Path, files: dict[str, tuple[str, bytes]]) -> dict[str, Artifact]:
    """Writes files given as key: (file name, bytes) and returns them as a manifest names them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.values():
        (folder / name).write_bytes(data)
    return {
        key: Artifact(file=name, size=len(data), digest=sha256(folder / name))
        for key, (name, data) in files.items()
    }


def build_image(
    settings: Settings,
    name: str = "worker",
    version: str = "1",
    salt: str = "",
    files: bytes = b'["/etc/passwd"]',
) -> Path:
    """A folder as `kiosk build` leaves it."""
    folder = settings.images / name / version
    packages = [{"name": "base", "version": version, "architecture": "amd64"}]
    artifacts = write_artifacts(
        folder,
        {
            "disk": ("disk.raw", disk_bytes(version + salt)),
            "kernel": ("vmlinuz", bytes_of("kernel", 200_000)),
            "initrd": ("initrd", bytes_of("initrd" + version, 100_000)),
            "packages": ("packages.json", json.dumps(packages).encode()),
            "files": ("files.json", files),
            "provenance": ("provenance.json", b"{}"),
        },
    )
    digest = "sha256:" + hashlib.sha256(name.encode()).hexdigest()
    manifest = ImageManifest(
        name=name,
        version=version,
        architecture="x86_64",
        os="debian",
        release="12",
        created=CREATED,
        source=Source(kind="recipe", name=name, digest=digest, tree=digest, date=0),
        partitions=(Partition(label="root", type="linux", uuid="0", offset=0, size=MEGABYTE),),
        verity=Verity(root_hash="0" * 64, salt="", data="root", hash="verity"),
        cmdline="console=ttyS0",
        policy=LayerPolicy(),
        artifacts=artifacts,
    )
    (folder / "manifest.json").write_bytes(manifest.to_json())
    return folder


def build_layer(settings: Settings, party: str = "site/a", name: str = "base", version: str = "1") -> Path:
    """A folder as `kiosk layer build` leaves it."""
    kind, owner = party.split("/")
    folder = settings.images / party / name / version
    artifacts = write_artifacts(folder, {"layer": ("layer.squashfs", bytes_of(party + version, 300_000))})
    manifest = LayerManifest(
        kind="site" if kind == "site" else "experiment",
        owner=owner,
        name=name,
        version=version,
        created=CREATED,
        prefix="/opt/site" if kind == "site" else f"/opt/experiment/{owner}",
        images=("worker",),
        declares=Declarations(),
        artifacts=artifacts,
    )
    (folder / "manifest.json").write_bytes(manifest.to_json())
    return folder


@dataclass
class Kiosk:
    """A kiosk host and a hypervisor in one folder."""

    home: Path
    now: clock.Clock = clock.now
    settings: Settings = field(init=False)
    hypervisor: Settings = field(init=False)

    def __post_init__(self) -> None:
        self.settings = Settings(home=self.home / "kiosk")
        self.hypervisor = Settings(
            home=self.home / "hypervisor", root=self.root, url=f"file://{self.settings.repository}"
        )

    @property
    def root(self) -> Path:
        """The root of trust that the hypervisor was given."""
        return self.settings.repository / "metadata" / "1.root.json"

    @property
    def metadata(self) -> Path:
        """The served metadata."""
        return self.settings.repository / "metadata"

    @property
    def keys(self) -> Keys:
        """The kiosk host's keys."""
        return Keys(self.settings.keys)

    def create(self, *parties: str, periods: Periods | None = None) -> Kiosk:
        """Makes the repository and delegates to parties such as `site/a`."""
        create(self.settings.repository, self.keys, ask, periods=periods, now=self.now)
        for party in parties:
            self.delegate(party)
        return self

    def repository(self) -> Repository:
        """The writer."""
        return Repository(self.settings.repository, self.keys, ask, self.now)

    def delegate(self, party: str) -> None:
        """Makes a key for a party and delegates to it."""
        role = delegated_role(party)
        key = self.keys.create(role, PASSPHRASE)
        writer = self.repository()
        with writer.locked():
            writer.delegate(role, [key.key], 1)

    def image(self, name: str = "worker", version: str = "1", salt: str = "") -> Published:
        """Builds and publishes an image."""
        return publish(self.settings, build_image(self.settings, name, version, salt), ask)

    def layer(self, party: str = "site/a", name: str = "base", version: str = "1") -> Published:
        """Builds and publishes a layer."""
        return publish(self.settings, build_layer(self.settings, party, name, version), ask)

    def resign(self) -> None:
        """`kiosk resign`."""
        writer = self.repository()
        with writer.locked():
            writer.resign()

    def sync(self, *names: str, **more: object) -> Synced:
        """`kiosk sync` on the hypervisor."""
        wanted = [parse_ref(n) for n in names]
        return sync(self.hypervisor, wanted, root=self.root.read_bytes(), **more)  # type: ignore[arg-type]

    def held(self) -> dict[str, str]:
        """Every file and link of the hypervisor's images and layers, with its digest or target."""
        found = {}
        for top in ("images", "layers"):
            for path in sorted((self.hypervisor.host / top).rglob("*")):
                name = str(path.relative_to(self.hypervisor.host))
                if path.is_symlink():
                    found[name] = str(path.readlink())
                elif path.is_file():
                    found[name] = sha256(path)
        return found


@functools.cache
def template() -> Path:
    """A kiosk with two sites, an experiment, worker@1 and a layer of site a, made once a test run."""
    home = Path(tempfile.mkdtemp(prefix="kiosk-template-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    kiosk = Kiosk(home).create("site/a", "site/b", "experiment/x")
    kiosk.image()
    kiosk.layer("site/a")
    return home


def duplicate(source: Path, target: Path) -> None:
    """Copies a tree; nothing is shared, since tests damage files in place."""
    shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True, copy_function=shutil.copy)


def ready(home: Path, *, now: clock.Clock = clock.now) -> Kiosk:
    """A copy of the template, to do as one likes with."""
    duplicate(template(), home)
    return Kiosk(home, now)


@functools.cache
def template_behind() -> Path:
    """The same, its hypervisor in sync, and then worker@2 published. Made once a test run."""
    home = Path(tempfile.mkdtemp(prefix="kiosk-template-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    kiosk = ready(home)
    assert kiosk.sync().failure is None
    kiosk.image(version="2")
    return home


def behind(home: Path) -> Kiosk:
    """A kiosk that offers worker@2, and a hypervisor that has worker@1 and has not looked since."""
    duplicate(template_behind(), home)
    return Kiosk(home)
