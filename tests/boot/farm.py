"""A farm made by the commands that users type: a kiosk host that built and published, a hypervisor that synced.

Made once below KIOSK_TEST_HOME (default /var/tmp/kiosk-test) and used again while the code and the recipes
that it was made from are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiosk import files
from kiosk.cloud.api import VmSpec, VmState
from kiosk.cloud.hostcache import HostCache
from kiosk.cloud.qemu import agent, argv
from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.config import Settings
from kiosk.errors import BusyError, NotFoundError
from kiosk.model.flavour import FLAVOURS
from kiosk.model.names import ImageRef, LayerRef
from kiosk.run import run

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "debian-12-minimal"
LAYERS = {"site/example/base": "example-site", "experiment/demo/software": "example-experiment"}
PARTIES = ("site/example", "experiment/demo", "experiment/other")
"""Those that have a key of their own for layers; the last one's are made by tests."""
MADE_FROM = ("recipes", "contextualize", "kiosk/build", "kiosk/model")
PASSPHRASE = b"only for tests"
READY_LIMIT = 400.0


@dataclass(frozen=True)
class Farm:
    """The farm's folders. `settings` are the hypervisor's."""

    home: Path

    @property
    def settings(self) -> Settings:
        """The hypervisor's settings."""
        return Settings(home=self.home / "hypervisor")

    @property
    def cache(self) -> HostCache:
        """The hypervisor's host cache."""
        return HostCache(self.settings.host)

    def kiosk(self, where: str, *words: str, timeout: float = 1800) -> str:
        """Runs a kiosk command on `kiosk-host` or `hypervisor` and returns what it printed."""
        env = {
            "KIOSK_HOME": str(self.home / where),
            "KIOSK_URL": str(self.home / "kiosk-host/repository"),
            "KIOSK_PASSPHRASE_FILE": str(self.home / "passphrase"),
            "PYTHONPATH": str(ROOT),
        }
        return run([sys.executable, "-m", "kiosk", *words], env=env, timeout=timeout, cwd=self.home)

    def cloud(self, vms: Path | None = None, cache: Path | None = None) -> QemuCloud:
        """The driver, on the hypervisor or with other folders."""
        return QemuCloud(
            vms or self.settings.vms, HostCache(cache) if cache else self.cache, boot="direct-kernel"
        )

    def image(self) -> ImageRef:
        """The image at its current version."""
        found = self.cache.resolve(ImageRef(IMAGE))
        assert isinstance(found, ImageRef)
        return found

    def layer(self, name: str) -> LayerRef:
        """A layer at its current version."""
        found = self.cache.resolve(LayerRef.parse(name))
        assert isinstance(found, LayerRef)
        return found


def digest() -> str:
    """Over all that the image and the layers are made from."""
    sha = hashlib.sha256()
    for top in MADE_FROM:
        for path in sorted((ROOT / top).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                sha.update(f"{path.relative_to(ROOT)}\0{path.stat().st_mode & 0o111}\0".encode())
                sha.update(hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()


@contextmanager
def made() -> Iterator[Farm]:
    """The farm, made or brought up to date, locked against other test runs while the block lasts."""
    farm = Farm(Path(os.environ.get("KIOSK_TEST_HOME", "/var/tmp/kiosk-test")))
    with waiting_for(farm.home / "lock"):
        end_all(farm)
        stamp = farm.home / "made-from"
        now = digest()
        if not stamp.exists() or stamp.read_text() != now:
            stamp.unlink(missing_ok=True)
            make(farm)
            files.write(stamp, now.encode())
        farm.kiosk("kiosk-host", "resign")
        farm.kiosk(
            "hypervisor", "sync", "--root", str(farm.home / "kiosk-host/repository/metadata/1.root.json")
        )
        try:
            yield farm
        finally:
            end_all(farm)


def end_all(farm: Farm) -> None:
    """Ends every VM of this farm, also those that a killed test run left."""
    tests = farm.home / "tests"
    for vms in (farm.settings.vms, *tests.glob("*/vms"), *tests.glob("*/hypervisor/vms")):
        cloud = farm.cloud(vms)
        for state in cloud.list_vms():
            cloud.stop(state.id, now=True)


@contextmanager
def waiting_for(lock: Path, limit: float = 1200) -> Iterator[None]:
    """Holds a lock as soon as no other test run has it."""
    until = time.monotonic() + limit
    while True:
        try:
            with files.locked(lock, what="the test farm"):
                yield
                return
        except BusyError:
            if time.monotonic() > until:
                raise
            time.sleep(2)


def make(farm: Farm) -> None:
    """Builds and publishes everything anew; built trees and downloaded packages are kept."""
    for old in ("repository", "keys", "built"):
        shutil.rmtree(farm.home / "kiosk-host" / old, ignore_errors=True)
    shutil.rmtree(farm.home / "hypervisor", ignore_errors=True)
    files.write(farm.home / "passphrase", PASSPHRASE, mode=0o600)
    farm.kiosk("kiosk-host", "init")
    for party in PARTIES:
        role = party.replace("/", "-")
        farm.kiosk("kiosk-host", "key", "create", role)
        farm.kiosk("kiosk-host", "delegate", party, "--key", str(farm.home / f"kiosk-host/keys/{role}.pub"))
    farm.kiosk("kiosk-host", "build", IMAGE, timeout=2400)
    farm.kiosk("kiosk-host", "publish", IMAGE)
    for layer, recipe in LAYERS.items():
        farm.kiosk("kiosk-host", "layer", "build", recipe)
        farm.kiosk("kiosk-host", "layer", "publish", layer)


def also(farm: Farm, image: str) -> ImageRef:
    """Another image in the hypervisor's cache: built, published and synced once for a state of the code."""
    try:
        found = farm.cache.resolve(ImageRef(image))
    except NotFoundError:
        farm.kiosk("kiosk-host", "build", image, timeout=2400)
        farm.kiosk("kiosk-host", "publish", image)
        farm.kiosk("hypervisor", "sync", image)
        found = farm.cache.resolve(ImageRef(image))
    assert isinstance(found, ImageRef)
    return found


def started(
    cloud: QemuCloud, image: ImageRef, layers: tuple[LayerRef, ...], bundle: Path, name: str
) -> VmState:
    """Starts a VM for a test."""
    return cloud.start(VmSpec(name=name, image=image, layers=layers, flavour=FLAVOURS["tiny"], bundle=bundle))


def settled(cloud: QemuCloud, id: str, limit: float = READY_LIMIT) -> VmState:
    """Waits until a VM is ready or will never be."""
    until = time.monotonic() + limit
    while (state := cloud.show(id)).phase in ("starting", "booting") and time.monotonic() < until:
        time.sleep(0.5)
    return state


def inside(cloud: QemuCloud, id: str, *command: str, timeout: float = 120) -> agent.Result:
    """Runs a command in a guest, waiting for its agent to come up first."""
    return agent.execute(cloud.folder(id) / argv.AGENT, command, timeout=timeout)


def attested(farm: Farm, name: str) -> dict[str, Any]:
    """What `kiosk vm report` says."""
    found = json.loads(farm.kiosk("hypervisor", "vm", "report", name, "--json"))
    assert isinstance(found, dict)
    return found
