"""What is published comes back bit for bit, each block is stored once, and a publish can be run again."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiosk.errors import BusyError, CorruptError, StorageError
from kiosk.model.manifest import Object
from kiosk.store.api import DirectoryStore, MissingObject
from kiosk.store.cut import publish_file
from kiosk.store.fetch import Seed, fetch
from kiosk.store.index import BLOCK, load
from kiosk.store.known import KnownBlocks, rebuild
from tests.store.files import Repository, block, content

NUMBERS = st.one_of(
    st.lists(st.integers(0, 6), max_size=600),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 400)), max_size=8).map(
        lambda runs: [n + (i if n else 0) for n, count in runs for i in range(count)]
    ),
)
TAIL = st.binary(max_size=50) | st.just(bytes(1000)) | st.just(b"\1" * 4095)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(NUMBERS, TAIL), min_size=1, max_size=3))
def test_versions_come_back_with_and_without_the_ones_before(versions: list[tuple[list[int], bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        repository = Repository(Path(folder))
        seeds: list[Seed] = []
        for i, (numbers, tail) in enumerate(versions):
            data = content(numbers, tail)
            artifact = repository.publish(f"v{i}", data)
            cold, warm = Path(folder) / "cold" / f"v{i}", Path(folder) / "warm" / f"v{i}"
            first = fetch(artifact, cold, repository.store)
            second = fetch(artifact, warm, repository.store, seeds)
            assert cold.read_bytes() == warm.read_bytes() == data
            assert second.bytes_moved <= first.bytes_moved + sum(s.index.size for s in seeds)
            assert artifact.index is not None
            seeds.insert(0, Seed(warm, artifact.index))


def test_an_empty_file_and_a_file_of_zeros_are_an_index_alone(repository: Repository, tmp_path: Path) -> None:
    for name, data in [("empty", b""), ("zeros", bytes(3_000_001))]:
        artifact = repository.publish(name, data)
        report = fetch(artifact, tmp_path / "out" / name, repository.store)
        assert (tmp_path / "out" / name).read_bytes() == data
        assert report.requests == 1
        assert (tmp_path / "out" / name).stat().st_blocks == 0


def test_zero_runs_become_holes(repository: Repository, tmp_path: Path) -> None:
    artifact = repository.publish("a", block(1) + bytes(50 << 20) + block(2))
    fetch(artifact, tmp_path / "out", repository.store)
    assert (tmp_path / "out").stat().st_blocks * 512 <= 16 * BLOCK


def test_a_block_is_stored_once_in_the_whole_repository(repository: Repository) -> None:
    repository.publish("a", content(list(range(1, 100)) * 20))
    once = sum(o.size for o in repository.store.objects())
    assert once < 110 * BLOCK
    repository.publish("b", content([*range(99, 0, -1), 0, 0, 7]))
    assert sum(o.size for o in repository.store.objects()) < once + 2000


def test_a_small_change_makes_one_small_pack(repository: Repository, tmp_path: Path) -> None:
    old = list(range(1, 3000))
    first = repository.publish("a", content(old))
    before = repository.objects()
    new = [5000, *old[:1500], 5001, 5002, *old[1500:]]
    second = repository.publish("b", content(new))
    assert len(repository.objects() - before) == 2  # a pack and an index
    fetch(first, tmp_path / "host" / "a", repository.store)
    assert first.index is not None
    report = fetch(
        second, tmp_path / "host" / "b", repository.store, [Seed(tmp_path / "host" / "a", first.index)]
    )
    assert report.requests == 2
    assert report.bytes_moved < 4 * BLOCK
    assert report.bytes_reused == 2999 * BLOCK


def test_the_same_file_gives_the_same_objects(tmp_path: Path) -> None:
    data = content([random.Random(1).randrange(3000) for _ in range(4000)], b"end")
    one, two = Repository(tmp_path / "1"), Repository(tmp_path / "2")
    for r in (one, two):
        r.folder.mkdir()
        r.publish("a", data)
    assert one.objects() == two.objects()
    before = one.objects()
    one.publish("again", data)
    assert one.objects() == before


def test_a_block_is_known_across_a_flush_of_the_memory(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kiosk.store.packer.RECENT", 50)
    monkeypatch.setattr("kiosk.store.packer.PACK", 16)
    artifact = repository.publish("a", content([*range(1, 500), *range(1, 500)]))
    assert artifact.index is not None
    index = load(repository.store, artifact.index)
    assert sum(p.blocks for p in index.packs) == 499


def test_a_file_that_is_not_what_its_manifest_says_is_not_published(
    repository: Repository, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(block(1))
    with KnownBlocks(repository.known) as known:
        with pytest.raises(CorruptError, match="instead of sha256:0000"):
            publish_file(tmp_path / "a", repository.store, known, digest="sha256:" + "0" * 64)
        assert known.empty


def test_a_file_that_grows_while_it_is_read_is_not_published(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content(range(1, 600)))

    def grow(_done: int) -> None:
        with (tmp_path / "a").open("ab") as f:
            f.write(b"more")

    with KnownBlocks(repository.known) as known, pytest.raises(CorruptError, match="was changed while"):
        publish_file(tmp_path / "a", repository.store, known, grow)


PUBLISHER = """
import os, signal, sys
from pathlib import Path
from kiosk.store.api import DirectoryStore
from kiosk.store.cut import publish_file
from kiosk.store.known import KnownBlocks
folder, after = Path(sys.argv[1]), int(sys.argv[2])
class Dying(DirectoryStore):
    written = 0
    def write(self, data):
        made = super().write(data)
        Dying.written += 1
        if Dying.written == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return made
with KnownBlocks(folder / "known.sqlite") as known:
    publish_file(folder / "a", Dying(folder / "repository"), known)
"""


@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_killed_publish_is_run_again_and_uses_what_it_had_stored(tmp_path: Path, after: int) -> None:
    """Killed after the first pack, in the middle, and after the index but before the blocks are known."""
    data = content(range(1, 4097))
    whole = Repository(tmp_path / "whole")
    killed = Repository(tmp_path / "killed")
    for r in (whole, killed):
        r.folder.mkdir()
    artifact = whole.publish("a", data)
    (killed.folder / "a").write_bytes(data)
    done = subprocess.run([sys.executable, "-c", PUBLISHER, killed.folder, str(after)], check=False)
    assert done.returncode == -signal.SIGKILL
    left = killed.objects()
    assert after <= len(left) <= 5
    assert left <= whole.objects()
    stamps = {o: (killed.store.repository / f"objects/{o[7:9]}/{o[7:]}").stat().st_mtime_ns for o in left}
    assert killed.publish("a", data) == artifact
    assert killed.objects() == whole.objects()
    for o, stamp in stamps.items():
        assert (killed.store.repository / f"objects/{o[7:9]}/{o[7:]}").stat().st_mtime_ns == stamp


def test_known_blocks_whose_pack_is_gone_are_stored_again(repository: Repository, tmp_path: Path) -> None:
    first = repository.publish("a", content(range(1, 2000)))
    assert first.index is not None
    gone = load(repository.store, first.index).packs[0].object
    repository.store.remove(gone.digest)
    with pytest.raises(MissingObject):
        fetch(first, tmp_path / "out" / "a", repository.store)
    second = repository.publish("b", content([9000, *range(1, 2000)]))
    fetch(second, tmp_path / "out" / "b", repository.store)
    assert (tmp_path / "out" / "b").read_bytes() == content([9000, *range(1, 2000)])


def test_known_blocks_that_are_lost_are_learned_from_the_packs(repository: Repository) -> None:
    a = repository.publish("a", content(range(1, 2000)))
    b = repository.publish("b", content(range(1100, 2500)))
    assert a.index is not None and b.index is not None
    stored = repository.objects()
    repository.known.unlink()
    with KnownBlocks(repository.known) as known:
        assert known.empty
        assert rebuild(known, repository.store, [a.index, b.index]) == 3
    repository.publish("again", content(range(1, 2500)))
    assert len(repository.objects() - stored) == 1  # the index: no block is new


def test_a_memory_with_rubbish_in_it_begins_anew(repository: Repository, tmp_path: Path) -> None:
    repository.publish("a", content(range(1, 2000)))
    data = bytearray(repository.known.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    repository.known.write_bytes(data)
    b = repository.publish("b", content(range(1, 2500)))
    fetch(b, tmp_path / "out", repository.store)
    assert (tmp_path / "out").read_bytes() == content(range(1, 2500))


def test_a_rebuild_passes_over_what_is_damaged(repository: Repository, tmp_path: Path) -> None:
    a = repository.publish("a", content(range(1, 2000)))
    assert a.index is not None
    packs = load(repository.store, a.index).packs
    damage(repository, packs[0].object)
    repository.known.unlink()
    with KnownBlocks(repository.known) as known:
        rebuild(known, repository.store, [a.index, Object(digest="sha256:" + "0" * 64, size=1)])
    b = repository.publish("b", content([*range(1, 2000), 1]))
    fetch(b, tmp_path / "out", repository.store)  # the damaged pack was written anew, under its name
    assert (tmp_path / "out").read_bytes() == content([*range(1, 2000), 1])


def damage(repository: Repository, wanted: Object) -> Path:
    path = repository.store.repository / f"objects/{wanted.digest[7:9]}/{wanted.digest[7:]}"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("what", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 5000, b""])
def test_a_damaged_memory_is_begun_anew(repository: Repository, tmp_path: Path, what: bytes) -> None:
    repository.known.write_bytes(what)
    fetch(repository.publish("a", content([1, 2, 3])), tmp_path / "out", repository.store)
    assert (tmp_path / "out").read_bytes() == content([1, 2, 3])


def test_a_second_publisher_is_told(repository: Repository) -> None:
    with KnownBlocks(repository.known), pytest.raises(BusyError), KnownBlocks(repository.known):
        pass


def test_an_object_damaged_on_disk_is_named_and_healed_by_publishing_again(repository: Repository) -> None:
    artifact = repository.publish("a", content([1, 2, 3]))
    assert artifact.index is not None
    path = damage(repository, artifact.index)
    with pytest.raises(CorruptError) as caught:
        repository.store.read(artifact.index)
    assert caught.value.where == str(path)
    repository.publish("a", content([1, 2, 3]))
    repository.store.read(artifact.index)


def test_leftovers_are_no_objects_and_names_are_no_paths(repository: Repository) -> None:
    artifact = repository.publish("a", block(1))
    names = repository.objects()
    part = next((repository.store.repository / "objects").iterdir())
    (part / ".abc.new").write_bytes(b"x")
    (part / "README").write_bytes(b"x")
    assert repository.objects() == names
    assert artifact.index is not None
    assert not repository.store.has(artifact.index.model_copy(update={"size": 1}))
    with pytest.raises(MissingObject):
        repository.store.remove("sha256:" + "0" * 64)
    with pytest.raises(CorruptError, match="is not a digest"):
        repository.store.remove("sha256:../../etc/passwd")


def test_a_full_disk_while_publishing_leaves_the_repository_as_it_was(
    small_disk: Path, tmp_path: Path
) -> None:
    store = DirectoryStore(small_disk / "repository")
    (tmp_path / "a").write_bytes(content(range(1, 6000)))
    with KnownBlocks(tmp_path / "known") as known:
        with pytest.raises(StorageError, match="No space left"):
            publish_file(tmp_path / "a", store, known)
        assert known.empty
    for o in store.objects():
        store.read(o)
    assert not list(small_disk.rglob("*.new"))


def test_publishing_reports_every_byte(repository: Repository, tmp_path: Path) -> None:
    data = content([1, 0, 2], b"tail") + bytes(5_000_000)
    (tmp_path / "a").write_bytes(data)
    seen: list[int] = []
    with KnownBlocks(repository.known) as known:
        publish_file(tmp_path / "a", repository.store, known, seen.append)
    assert sum(seen) == len(data)
