"""Differences are shortcuts: what is lost of them is named and mended, and stops neither keeping nor mirroring."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from kiosk.mirror import mirror
from kiosk.model.manifest import Difference, Manifest
from kiosk.publish.prune import prune
from kiosk.publish.repair import repair
from kiosk.publish.retention import Rule
from kiosk.publish.signed import listed
from kiosk.store import difference, inventory
from kiosk.store.api import DirectoryStore
from kiosk.store.index import load
from kiosk.store.objects import path_of
from tests.publish.large import publish_large
from tests.simulators.published import Kiosk, ask, ready


@pytest.fixture
def kiosk(tmp_path: Path) -> Kiosk:
    """worker@21, with a difference to worker@20."""
    made = ready(tmp_path / "kiosk")
    made.settings = made.settings.model_copy(update={"difference_seconds": 0})
    publish_large(made, 20)
    publish_large(made, 21)
    return made


def newest(kiosk: Kiosk) -> Manifest:
    return next(m for m in listed(kiosk.settings).versions if str(m.ref) == "worker@21")


def offered(kiosk: Kiosk) -> Difference:
    (found,) = newest(kiosk).artifacts["disk"].differences
    return found


def group(kiosk: Kiosk) -> str:
    store = DirectoryStore(kiosk.settings.repository)
    index = newest(kiosk).artifacts["disk"].index
    assert index
    return difference.load(store, offered(kiosk).groups, load(store, index)).groups[0].object.digest


def path(kiosk: Kiosk, digest: str) -> Path:
    return kiosk.settings.repository / path_of(digest)


def lost(kiosk: Kiosk, damage: str) -> str:
    """Does the damage; the digest of the object that is wrong."""
    digest = group(kiosk) if "group" in damage else offered(kiosk).groups.digest
    if "lost" in damage:
        path(kiosk, digest).unlink()
    else:
        path(kiosk, digest).write_bytes(b"x" * path(kiosk, digest).stat().st_size)
    return digest


DAMAGES = ["the list is lost", "the list is damaged", "a group is lost", "a group is damaged"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_it_is_named_and_mended_from_a_mirror(kiosk: Kiosk, tmp_path: Path, damage: str) -> None:
    shutil.copytree(kiosk.settings.repository, tmp_path / "mirror")
    digest = lost(kiosk, damage)
    (fault,) = inventory.verify(kiosk.settings.repository).damaged
    assert (fault.object, fault.versions) == (digest, ("worker@21",))
    done = repair(kiosk.settings, str(tmp_path / "mirror"))
    assert [bool(m.way) for m in done.mends] == [True]
    assert inventory.verify(kiosk.settings.repository).damaged == ()


@pytest.mark.parametrize("damage", DAMAGES)
def test_it_stops_neither_pruning_nor_mirroring(kiosk: Kiosk, tmp_path: Path, damage: str) -> None:
    digest = lost(kiosk, damage)
    kept = {p for p in (kiosk.settings.repository / "objects").rglob("*") if p.is_file()}
    prune(kiosk.settings, ask, Rule(5), grace=timedelta(0))
    assert {p for p in (kiosk.settings.repository / "objects").rglob("*") if p.is_file()} == kept
    owner = kiosk.hypervisor.model_copy(update={"home": tmp_path / "owner"})
    mirror(owner, str(kiosk.settings.repository), str(tmp_path / "mirror"), root=kiosk.root.read_bytes())
    assert not (tmp_path / "mirror" / path_of(digest)).exists()
    kiosk.hypervisor = kiosk.hypervisor.model_copy(update={"url": str(tmp_path / "mirror")})
    assert kiosk.sync("worker").failure is None


def test_a_version_is_published_without_a_difference_that_can_not_be_made(kiosk: Kiosk) -> None:
    """The built file of the version before is gone, and there is no place to make it anew."""
    shutil.rmtree(kiosk.settings.images / "worker" / "21")
    (kiosk.settings.home / "scratch").write_text("not a folder")
    done = publish_large(kiosk, 22)
    assert [a.differences for a in done.artifacts if a.name == "disk"] == [{}]
