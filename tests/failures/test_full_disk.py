"""A full disk, for real (a small tmpfs): one error that says so, nothing lost, and it goes on with more room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kiosk.errors import StorageError
from kiosk.swarm.session import Failed
from tests.simulators.published import Kiosk, behind, build_image, ready
from tests.simulators.swarm import done, host, seeder, until, version

FULL = r"No space left|disk is full|needs \d+ MiB"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs takes root")


def fill(folder: Path, leave: int) -> Path:
    """Takes all room but `leave` bytes."""
    filler = folder / "filler"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    filler.write_bytes(b"x" * (free - leave))
    return filler


@pytest.mark.parametrize("leave", [0, 100_000, 270_000, 380_000])
def test_publish(leave: int, small: Path) -> None:
    kiosk = ready(small)
    build_image(kiosk.settings, version="2")
    filler = fill(small, leave)
    with pytest.raises(StorageError, match=FULL):
        kiosk.image(version="2")
    filler.unlink()
    assert kiosk.sync("worker").results[0].version == "1"
    kiosk.image(version="2")
    assert kiosk.sync("worker").results[0].version == "2"


@pytest.mark.parametrize("leave", [0, 20_000, 500_000, 2_200_000])
def test_sync(leave: int, small: Path) -> None:
    kiosk: Kiosk = behind(small)
    before = kiosk.held()
    filler = fill(small, leave)
    with pytest.raises(StorageError, match=FULL):
        raise kiosk.sync("worker").failure or AssertionError("there was room enough")
    assert kiosk.held() == before
    filler.unlink()
    assert kiosk.sync("worker").failure is None
    assert kiosk.held()["images/worker/current"] == "2"


def test_swarm(small: Path, tmp_path: Path) -> None:
    one = version(tmp_path / "kiosk", [f"object-{n}" for n in range(20)])
    with seeder(one) as a, host(small / "host") as b:
        filler = fill(small, 1_000_000)
        b.fetch(one, a)
        until(lambda: any(isinstance(e, Failed) for e in b.events), b, a)
        assert "No space left" in next(e.what for e in b.events if isinstance(e, Failed))
        filler.unlink()
        b.session.resume(one.infohash)
        until(done(b), b, a)
        assert b.holds(one)
