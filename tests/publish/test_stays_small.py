"""A repository that is published to every day and pruned stays small, and reading it cold stays cheap."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from kiosk import clock
from kiosk.files import sha256
from kiosk.model.manifest import Artifact, ImageManifest, Object
from kiosk.model.names import parse_ref
from kiosk.publish import publish
from kiosk.publish.prune import prune
from kiosk.publish.retention import Rule
from kiosk.publish.signed import listed
from kiosk.store import inventory, plan
from kiosk.store.api import DirectoryStore
from kiosk.store.cut import publish_file
from kiosk.store.index import Index, load
from kiosk.store.known import KnownBlocks
from kiosk.trust.client import TrustedRepository
from tests.simulators.published import Kiosk, ask, build_image, ready

BLOCKS, DAYS, KEEP, CHANGED = 3840, 20, 5, 0.05


@functools.lru_cache(maxsize=16384)
def block(number: int) -> bytes:
    """A block that compresses somewhat, each one differently."""
    r = random.Random(number)
    return r.randbytes(r.randrange(100, 4096)).ljust(4096, b"x")


def days(pattern: str) -> Iterator[list[int]]:
    """Each day's blocks, by number. 5 % change: anywhere, or in runs as files do, some more often than others."""
    r = random.Random(pattern)
    blocks = list(range(BLOCKS))
    new = BLOCKS
    while True:
        yield blocks
        change = int(BLOCKS * CHANGED)
        while change > 0:
            length = 1 if pattern == "anywhere" else min(change, r.choice([1, 4, 16, 64]))
            at = r.randrange(BLOCKS // 2 if pattern == "in runs" and r.random() < 0.7 else BLOCKS - length)
            for i in range(at, at + length):
                blocks[i], new = new, new + 1
            change -= length


def publish_day(kiosk: Kiosk, version: int, blocks: list[int], name: str = "worker") -> Artifact:
    folder = build_image(kiosk.settings, name, str(version))
    disk = folder / "disk.raw"
    disk.write_bytes(b"".join(map(block, blocks)))
    made = ImageManifest.from_json((folder / "manifest.json").read_bytes(), where="")
    artifact = Artifact(file="disk.raw", size=disk.stat().st_size, digest=sha256(disk))
    manifest = made.model_copy(update={"artifacts": {**made.artifacts, "disk": artifact}})
    (folder / "manifest.json").write_bytes(manifest.to_json())
    publish(kiosk.settings, folder, ask)
    reader = TrustedRepository(folder / "reader", kiosk.settings.repository, kiosk.root.read_bytes())
    return reader.manifest(parse_ref(f"{name}@{version}")).artifacts["disk"]


def index_of(kiosk: Kiosk, disk: Artifact) -> Index:
    assert disk.index is not None
    return load(DirectoryStore(kiosk.settings.repository), disk.index)


def moved_by(index: Index, before: Index | None) -> int:
    """What a host with the day before moves."""
    return plan.make(index, b"\1" * index.region_count, [plan.Held.by(before)] if before else []).moved


def alone(kiosk: Kiosk, folder: Path, version: int) -> int:
    """What the packs of this disk have where nothing else was ever published."""
    store = DirectoryStore(folder / "alone")
    with KnownBlocks(folder / "alone.sqlite") as known:
        index: Object = publish_file(kiosk.settings.images / f"worker/{version}/disk.raw", store, known)
    return sum(p.object.size for p in load(store, index).packs)


@pytest.mark.parametrize("pattern", [pytest.param("anywhere", marks=pytest.mark.slow), "in runs"])
def test_twenty_days_of_changes_with_five_kept(pattern: str, tmp_path: Path) -> None:
    kiosk = ready(tmp_path / "kiosk")
    before: Index | None = None
    dead, moved, stored = [0.0], [], []
    for day, blocks in zip(range(DAYS), days(pattern), strict=False):
        disk = publish_day(kiosk, day + 2, blocks)
        now = lambda day=day: clock.now() + timedelta(days=day)  # noqa: E731
        done = prune(kiosk.settings, ask, Rule(KEEP), grace=timedelta(hours=24), now=now)
        dead.append(done.dead_bytes / done.pack_bytes)
        index = index_of(kiosk, disk)
        moved.append(moved_by(index, before))
        stored.append(done.pack_bytes)
        before = index
    needs = alone(kiosk, tmp_path, DAYS + 1)
    cold = sum(p.object.size for p in index.packs) / needs
    ideal = CHANGED * needs
    print(
        f"\n{pattern}: dead at most {max(dead):.1%}, cold {cold:.3f} of the image alone, moved a day "
        f"{sum(moved[10:]) / len(moved[10:]) / ideal:.2f} of what changed, {stored[-1] / needs:.2f} images stored"
    )
    assert max(dead) < 0.2
    assert cold < 1.2
    assert sum(moved[10:]) < 1.1 * ideal * len(moved[10:]), "what is stored again is not moved again"
    assert not inventory.verify(kiosk.settings.repository, versions=listed(kiosk.settings).versions).damaged
