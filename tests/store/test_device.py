"""A block device as the target: written in place, never taken for complete, and its old content is used."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kiosk.errors import BusyError, NetworkError, StorageError
from kiosk.store.device import BLKZEROOUT
from kiosk.store.fetch import Seed, fetch
from tests.store.files import BLOCK, Repository, content
from tests.store.test_fetch import NEW, OLD, Counting, indexed, stuck
from tests.store.test_sums import publish

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices take root")
Maker = Callable[[int], Path]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Maker]:
    """Makes loop devices, full of old bytes, and detaches them in the end."""
    made: list[Path] = []

    def make(size: int) -> Path:
        backing = tmp_path / f"backing{len(made)}"
        backing.write_bytes((b"old bytes" * (size // 9 + 1))[:size])
        done = subprocess.run(
            ["losetup", "--find", "--show", backing], check=True, capture_output=True, text=True
        )
        made.append(Path(done.stdout.strip()))
        return made[-1]

    yield make
    for loop in made:
        subprocess.run(["losetup", "--detach", loop], check=True)


def held(device: Path, size: int) -> bytes:
    with device.open("rb") as f:
        return f.read(size)


SPARSE = [1, 2, *[0] * 3000, 3, 0, 4, *[0] * 300]


def test_it_is_made_the_image_and_the_rest_of_it_is_left_alone(repository: Repository, device: Maker) -> None:
    artifact = repository.publish("a", content(SPARSE, b"tail"))
    target = device(artifact.size + (1 << 20) & ~511)
    fetch(artifact, target, repository.store)
    data = target.read_bytes()
    assert data[: artifact.size] == content(SPARSE, b"tail")
    assert b"old bytes" * 1000 in data[artifact.size :]
    assert not list(target.parent.glob(f".{target.name}*"))


def test_where_the_device_can_not_zero_by_itself_zeros_are_written(
    repository: Repository, device: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kiosk.store.device.BLKZEROOUT", BLKZEROOUT + 77)  # a request that no device knows
    artifact = repository.publish("a", content(SPARSE))
    target = device(artifact.size)
    fetch(artifact, target, repository.store)
    assert held(target, artifact.size) == content(SPARSE)


def test_an_older_version_on_it_saves_the_regions_that_are_the_same(
    repository: Repository, device: Maker
) -> None:
    old = repository.publish("old", content(OLD))
    new = repository.publish("new", content(NEW))
    target = device(new.size + BLOCK)
    fetch(old, target, repository.store)
    source = Counting(repository.store.repository)
    fetch(new, target, source)
    assert held(target, new.size) == content(NEW)
    assert len(source.asked) == 1 + 4  # the index, three old packs for parts of regions, one new pack
    source = Counting(repository.store.repository)
    fetch(new, target, source)
    assert source.asked == [indexed(new).digest]


def test_an_older_file_is_copied_to_it(repository: Repository, device: Maker, tmp_path: Path) -> None:
    old = repository.publish("old", content(OLD))
    new = repository.publish("new", content(NEW))
    fetch(old, tmp_path / "host" / "old", repository.store)
    target = device(new.size)
    report = fetch(new, target, repository.store, [Seed(tmp_path / "host" / "old", indexed(old))])
    assert report.requests == 2
    assert held(target, new.size) == content(NEW)


@pytest.mark.parametrize("changed_since", [False, True])
def test_with_sums_single_blocks_that_stand_are_kept(
    repository: Repository, device: Maker, changed_since: bool
) -> None:
    """One block in each region is new: no region is as it was, and nearly all blocks are."""
    old = publish(repository, "old", content(OLD))
    numbers = [9000 + n if n % 200 == 7 else n for n in OLD]
    new = publish(repository, "new", content(numbers))
    target = device(new.size)
    fetch(old, target, repository.store)
    if changed_since:
        with target.open("r+b") as f:
            f.seek(5 * BLOCK)
            f.write(b"changed")
    report = fetch(new, target, repository.store)
    assert held(target, new.size) == content(numbers)
    assert (
        report.requests == 4 + changed_since
    )  # index, two sums, the new pack, and the old one of that block
    assert report.bytes_reused >= (len(OLD) - 15 - 1) * BLOCK


def test_sums_are_not_fetched_for_an_empty_device(repository: Repository, device: Maker) -> None:
    artifact = publish(repository, "a", content(OLD))
    target = device(artifact.size)
    target.write_bytes(bytes(artifact.size))
    assert fetch(artifact, target, repository.store).requests == 1 + 3


def test_named_as_its_own_seed_it_is_right_all_the_same(repository: Repository, device: Maker) -> None:
    """Blocks are copied from places that are written over meanwhile."""
    numbers = [n for n in OLD if n % 300 > 5]
    old = publish(repository, "old", content(numbers))
    new = publish(
        repository, "new", content([*range(9000, 9040), *numbers[:2000], *reversed(numbers[2000:])])
    )
    target = device(new.size)
    fetch(old, target, repository.store)
    fetch(new, target, repository.store, [Seed(target)])
    assert held(target, new.size) == (repository.folder / "new").read_bytes()


def test_one_that_is_too_small_is_refused_before_anything_is_written(
    repository: Repository, device: Maker
) -> None:
    artifact = repository.publish("a", content(OLD))
    target = device(artifact.size - 512)
    before = target.read_bytes()
    with pytest.raises(StorageError, match=f"has {artifact.size - 512} bytes, and the image needs"):
        fetch(artifact, target, repository.store)
    assert target.read_bytes() == before


def test_one_that_is_mounted_is_refused(repository: Repository, device: Maker, tmp_path: Path) -> None:
    artifact = repository.publish("a", content(OLD))
    target = device(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", target], check=True)
    (tmp_path / "mounted").mkdir()
    subprocess.run(["mount", target, tmp_path / "mounted"], check=True)
    try:
        with pytest.raises(BusyError, match="is mounted"):
            fetch(artifact, target, repository.store)
    finally:
        subprocess.run(["umount", tmp_path / "mounted"], check=True)


@pytest.mark.parametrize("reads", [1, 2, 3])
def test_killed_in_the_middle_it_goes_on_from_what_is_there(
    repository: Repository, device: Maker, reads: int
) -> None:
    artifact = repository.publish("a", content(OLD))
    target = device(artifact.size)
    with stuck(repository, target, artifact, reads), pytest.raises(BusyError, match="in use"):
        fetch(artifact, target, repository.store)
    source = Counting(repository.store.repository)
    fetch(artifact, target, source)
    assert held(target, artifact.size) == content(OLD)
    assert len(source.asked) <= 1 + 3 - max(0, reads - 2)  # a pack that had come whole is not fetched again


def test_a_failure_says_that_the_device_is_incomplete(
    repository: Repository, device: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = repository.publish("a", content(OLD))
    target = device(artifact.size)
    with pytest.raises(NetworkError):
        fetch(artifact, target, Counting(repository.store.repository, fail_after=2), workers=1)
    assert f"{target} holds an incomplete image now" in caplog.text
    fetch(artifact, target, repository.store)
    assert held(target, artifact.size) == content(OLD)
