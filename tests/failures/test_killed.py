"""kill -9 at every step: readers see the old state or the new one, and running the command again completes it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kiosk.files import sha256
from kiosk.model.names import parse_ref
from kiosk.publish import publish
from kiosk.store.api import DirectoryStore
from kiosk.store.fetch import fetch
from kiosk.sync import HostCache
from kiosk.trust.client import TrustedRepository
from tests.failures.interrupted import killed_at
from tests.simulators.published import Kiosk, ask, behind, build_image, ready

STEPS = 40
"""More than any of the commands here takes."""


def offered(kiosk: Kiosk, folder: Path) -> str:
    """What a reader who knows nothing sees, fetched and checked to the last byte."""
    reader = TrustedRepository(folder, kiosk.settings.repository, kiosk.root.read_bytes())
    manifest = reader.manifest(parse_ref("worker"))
    for name, artifact in manifest.artifacts.items():
        fetch(artifact, folder / name, DirectoryStore(kiosk.settings.repository))
    return manifest.version


def test_publish_killed_at_every_step(tmp_path: Path) -> None:
    seen = []
    for step in range(1, STEPS):
        kiosk = ready(tmp_path / str(step))
        folder = build_image(kiosk.settings, version="2")
        killed = killed_at(step, lambda k=kiosk, f=folder: publish(k.settings, f, ask))  # type: ignore[misc]
        seen.append(offered(kiosk, tmp_path / f"reader-{step}"))
        again = publish(kiosk.settings, folder, ask)
        assert again.already == (seen[-1] == "2"), "a rerun says whether it had to do anything"
        assert kiosk.sync("worker").results[0].version == "2"
        shutil.rmtree(kiosk.home)
        if not killed:
            break
    assert seen == sorted(seen), "old up to some step, new from then on"
    assert set(seen) == {"1", "2"}
    assert len(seen) > 8, "objects, manifest, role, snapshot and timestamp are a step each"


def test_sync_killed_at_every_step(tmp_path: Path) -> None:
    seen = []
    for step in range(1, STEPS):
        kiosk = behind(tmp_path / str(step))
        killed = killed_at(step, lambda k=kiosk: k.sync("worker"))  # type: ignore[misc]
        cache = HostCache(kiosk.hypervisor.host)
        current = cache.current(parse_ref("worker"))
        for installed in cache.installed():
            cache.check(installed)  # whatever has a version's name is complete
        seen.append(str(current))
        assert kiosk.sync("worker").failure is None
        assert str(cache.current(parse_ref("worker"))) == "2"
        assert not list((kiosk.hypervisor.host / "partial").iterdir())
        shutil.rmtree(kiosk.home)
        if not killed:
            break
    assert seen == sorted(seen)
    assert set(seen) == {"1", "2"}


def test_a_sync_that_was_killed_late_fetches_only_what_is_missing(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    finished = 0
    for step in range(1, STEPS):
        host = kiosk.hypervisor.host
        shutil.rmtree(host, ignore_errors=True)
        killed_at(step, lambda: kiosk.sync("worker"))
        if (host / "partial/worker@1/disk.raw").exists():
            finished = step
            break
    assert finished
    done = kiosk.sync("worker").results[0]
    assert done.state == "fetched"
    assert 0 < done.moved < 400_000 < sha256_size(kiosk), "the disk, 2 MB, was not fetched twice"


def sha256_size(kiosk: Kiosk) -> int:
    """The size of the disk, which has the digest that its manifest names."""
    disk = kiosk.hypervisor.host / "images/worker/1/disk.raw"
    manifest = HostCache(kiosk.hypervisor.host).read(parse_ref("worker@1"))
    assert sha256(disk) == manifest.artifacts["disk"].digest
    return disk.stat().st_size


@pytest.mark.parametrize("step", [1, 2, 17, 20, 23, 24])
def test_init_killed(step: int, tmp_path: Path) -> None:
    """In the first key, after it, before the metadata, in it, before it gets its place, before the last mark."""
    kiosk = Kiosk(tmp_path)
    assert killed_at(step, lambda: kiosk.create())
    kiosk.create()
    kiosk.image()
    assert kiosk.sync().failure is None
    assert not list(kiosk.settings.home.glob(".repository-init-*"))


def test_resign_killed_at_every_step(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    for step in range(1, 4):
        killed_at(step, kiosk.resign)
        assert offered(kiosk, tmp_path / f"reader-{step}") == "1"
        kiosk.resign()
    assert kiosk.sync().failure is None
