"""A fetched file is right or it is not there: killed, out of space, given lies by the disk or by the source."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiosk.errors import BusyError, CorruptError, NetworkError, StorageError, UsageError
from kiosk.model.manifest import Artifact, Object
from kiosk.store.api import DirectoryStore, MissingObject
from kiosk.store.fetch import Seed, fetch
from kiosk.store.index import load
from kiosk.store.partial import Partial, index_file
from tests.store.files import BLOCK, Repository, content

OLD = list(range(1, 3000))
NEW = [*OLD[:1000], *range(7000, 7020), *OLD[1020:2000], 0, 0, *OLD[2002:], 8000]


def indexed(artifact: Artifact) -> Object:
    assert artifact.index is not None
    return artifact.index


class Counting(DirectoryStore):
    """A source that remembers what was read, and can be made slow or to fail."""

    def __init__(self, repository: Path, fail_after: int | None = None, pause: float = 0) -> None:
        super().__init__(repository)
        self.asked: list[str] = []
        self.fail_after = fail_after
        self.pause = pause

    def read(self, wanted: Object, stop: threading.Event | None = None) -> bytes:
        self.asked.append(wanted.digest)
        time.sleep(self.pause)
        if self.fail_after is not None and len(self.asked) > self.fail_after:
            raise NetworkError("the line is cut")
        return super().read(wanted, stop)


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_the_target_and_its_index_are_all_that_is_left(repository: Repository, tmp_path: Path) -> None:
    artifact = repository.publish("a", content(OLD, b"tail"))
    seen: list[int] = []
    report = fetch(artifact, tmp_path / "host" / "a", repository.store, progress=seen.append)
    assert names(tmp_path / "host") == {"a", ".a.index"}
    assert (tmp_path / "host" / "a").read_bytes() == content(OLD, b"tail")
    assert (tmp_path / "host" / "a").stat().st_mode & 0o777 == 0o644
    assert sum(seen) == artifact.size
    assert report.requests == len(repository.objects()) == 4
    assert report.bytes_moved == sum(o.size for o in repository.store.objects())


def test_the_index_of_an_older_file_is_not_fetched_again(repository: Repository, tmp_path: Path) -> None:
    old = repository.publish("old", content(OLD))
    new = repository.publish("new", content(NEW))
    fetch(old, tmp_path / "host" / "old", repository.store)
    seed = Seed(tmp_path / "host" / "old", indexed(old))
    source = Counting(repository.store.repository)
    fetch(new, tmp_path / "host" / "new", source, [seed])
    assert len(source.asked) == 2
    index_file(seed.path).unlink()
    source = Counting(repository.store.repository)
    fetch(new, tmp_path / "again" / "new", source, [seed])
    assert len(source.asked) == 3


def test_several_older_files_each_give_what_they_have(repository: Repository, tmp_path: Path) -> None:
    host = tmp_path / "host"
    seeds = []
    for name, numbers in [("a", list(range(1, 2000))), ("b", list(range(3000, 5000)))]:
        artifact = repository.publish(name, content(numbers))
        fetch(artifact, host / name, repository.store)
        seeds.append(Seed(host / name, indexed(artifact)))
    numbers = [*range(4024, 5000), 1500, *range(1030, 2000), 1500, 9000]
    report = fetch(repository.publish("c", content(numbers)), host / "c", repository.store, seeds)
    assert report.requests == 2
    assert report.bytes_reused == 1948 * BLOCK
    assert (host / "c").read_bytes() == content(numbers)


LIES = ["changed", "shorter", "emptied", "another file", "gone", "a folder"]


@pytest.mark.parametrize("lie", LIES)
def test_an_older_file_that_lies_costs_bytes_and_nothing_else(
    repository: Repository, tmp_path: Path, lie: str
) -> None:
    host = tmp_path / "host"
    old = repository.publish("old", content(OLD))
    new = repository.publish("new", content(NEW))
    fetch(old, host / "old", repository.store)
    if lie == "changed":
        with (host / "old").open("r+b") as f:
            for at in (5, 9_000_000):
                f.seek(at)
                f.write(b"changed!")
    elif lie == "shorter":
        os.truncate(host / "old", 4_000_001)
    elif lie == "emptied":
        os.truncate(host / "old", 0)
    elif lie == "another file":
        (host / "old").write_bytes(content(range(20_000, 23_000)))
    else:
        (host / "old").unlink()
        if lie == "a folder":
            (host / "old").mkdir()
    report = fetch(new, host / "new", repository.store, [Seed(host / "old", indexed(old))])
    assert (host / "new").read_bytes() == content(NEW)
    if lie == "changed":
        assert report.regions_repaired == 2
        assert report.requests == 2 + 2
    elif lie in ("gone", "a folder"):
        assert report.bytes_reused == 0
    else:
        assert report.regions_repaired > 5


def test_an_index_kept_beside_an_older_file_is_checked(repository: Repository, tmp_path: Path) -> None:
    host = tmp_path / "host"
    old = repository.publish("old", content(OLD))
    new = repository.publish("new", content(NEW))
    fetch(old, host / "old", repository.store)
    index_file(host / "old").write_bytes(b"garbage")
    report = fetch(new, host / "new", repository.store, [Seed(host / "old", indexed(old))])
    assert (report.requests, report.regions_repaired) == (3, 0)


def test_a_missing_pack_is_missing_and_a_damaged_one_corrupt(repository: Repository, tmp_path: Path) -> None:
    artifact = repository.publish("a", content(OLD))
    lost = load(repository.store, indexed(artifact)).packs[2].object
    path = repository.store.repository / f"objects/{lost.digest[7:9]}/{lost.digest[7:]}"
    good = path.read_bytes()
    for bad in (good[:-1], good + b"x", good[:100] + b"\0" + good[101:], b""):
        path.write_bytes(bad)
        with pytest.raises(CorruptError, match="instead of") as caught:
            fetch(artifact, tmp_path / "host" / "a", repository.store)
        assert caught.value.where == str(path)
        assert not (tmp_path / "host" / "a").exists()
    path.unlink()
    with pytest.raises(MissingObject):
        fetch(artifact, tmp_path / "host" / "a", repository.store)
    path.write_bytes(good)
    source = Counting(repository.store.repository)
    fetch(artifact, tmp_path / "host" / "a", source)
    assert len(source.asked) < 4  # what the failed attempts brought was used


def test_an_index_of_another_file_never_becomes_the_target(repository: Repository, tmp_path: Path) -> None:
    """Signed by mistake: the manifest's digest and its index disagree."""
    a = repository.publish("a", content([1, 2, 3]))
    b = repository.publish("b", content([1, 2, 4]))
    c = repository.publish("c", content([1, 2, 3, 4]))
    with pytest.raises(CorruptError, match="its index is of a file with other regions"):
        fetch(a.model_copy(update={"index": b.index}), tmp_path / "x", repository.store)
    with pytest.raises(CorruptError, match="its index makes the digest"):
        fetch(a.model_copy(update={"index": b.index, "regions": None}), tmp_path / "x", repository.store)
    assert fetch(a.model_copy(update={"regions": None}), tmp_path / "y", repository.store).bytes_moved
    with pytest.raises(CorruptError, match="makes 16384 bytes instead of 12288"):
        fetch(a.model_copy(update={"index": c.index}), tmp_path / "x", repository.store)
    with pytest.raises(UsageError, match="never published"):
        fetch(a.model_copy(update={"index": None}), tmp_path / "x", repository.store)
    assert not (tmp_path / "x").exists()


def test_an_interrupted_fetch_goes_on_where_it_was(repository: Repository, tmp_path: Path) -> None:
    artifact = repository.publish("a", content(OLD))
    with pytest.raises(NetworkError):
        fetch(
            artifact, tmp_path / "host" / "a", Counting(repository.store.repository, fail_after=3), workers=1
        )
    assert not (tmp_path / "host" / "a").exists()
    source = Counting(repository.store.repository)
    fetch(artifact, tmp_path / "host" / "a", source)
    assert len(source.asked) == 1 + 3 - 2  # the index again, and the packs that had not come
    assert (tmp_path / "host" / "a").read_bytes() == content(OLD)


def test_whatever_an_unfinished_file_holds_the_target_is_right(
    repository: Repository, tmp_path: Path
) -> None:
    """The unfinished file is of another version, larger, and has data where the new one is zero."""
    artifact = repository.publish("a", content([1, *[0] * 600, 2, *[0] * 600], b"end"))
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / ".a.partial").write_bytes(content(range(1, 3000)))
    fetch(artifact, tmp_path / "host" / "a", repository.store)
    assert (tmp_path / "host" / "a").read_bytes() == content([1, *[0] * 600, 2, *[0] * 600], b"end")
    assert (tmp_path / "host" / "a").stat().st_blocks * 512 < 10 * BLOCK


FETCHER = """
import sys, threading
from pathlib import Path
from kiosk.model.manifest import Artifact
from kiosk.store.api import DirectoryStore
from kiosk.store.fetch import Seed, fetch
class Stuck(DirectoryStore):
    left = int(sys.argv[1])
    def read(self, wanted, stop=None):
        if self.left == 0:
            print("stuck", flush=True)
            threading.Event().wait()
        self.left -= 1
        return super().read(wanted, stop)
repository, target, artifact = sys.argv[2:5]
seeds = []
if len(sys.argv) > 5:
    old = Artifact.model_validate_json(sys.argv[6])
    seeds = [Seed(Path(sys.argv[5]), old.index)]
fetch(Artifact.model_validate_json(artifact), Path(target), Stuck(Path(repository)), seeds, workers=1)
"""


@contextlib.contextmanager
def stuck(repository: Repository, target: Path, artifact: Artifact, reads: int, *seed: str) -> Iterator[None]:
    """A fetch in another process that has read so many objects and waits for the next one; killed at the end."""
    words = [str(reads), str(repository.store.repository), str(target), artifact.model_dump_json(), *seed]
    with subprocess.Popen([sys.executable, "-c", FETCHER, *words], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"stuck\n"
            yield
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def test_a_fetch_killed_at_any_time_leaves_nothing_or_goes_on(repository: Repository, tmp_path: Path) -> None:
    """kill -9 of a real process, later and later, with and without an older file to copy from."""
    host = tmp_path / "host"
    old = repository.publish("old", content(OLD))
    new = repository.publish("new", content([*range(9000, 11000), *OLD[2000:]]))
    fetch(old, host / "old", repository.store)
    with_seed = (str(host / "old"), old.model_dump_json())
    resumed = 0
    for reads, seed in [(0, ()), (1, ()), (2, ()), (3, ()), (1, with_seed), (2, with_seed)]:
        with stuck(repository, host / "new", new, reads, *seed):
            pass
        assert not (host / "new").exists()
        partial = host / ".new.partial"
        resumed += partial.exists() and partial.stat().st_blocks > 0
        source = Counting(repository.store.repository)
        fetch(new, host / "new", source)
        assert (host / "new").read_bytes() == content([*range(9000, 11000), *OLD[2000:]])
        assert names(host) == {"old", ".old.index", "new", ".new.index"}
        (host / "new").unlink()
        index_file(host / "new").unlink()
    assert resumed >= 3


def test_a_second_fetch_of_the_same_target_is_told(repository: Repository, tmp_path: Path) -> None:
    artifact = repository.publish("a", content(OLD))
    with Partial(tmp_path / "host" / "a", 10), pytest.raises(BusyError, match="already fetching"):
        fetch(artifact, tmp_path / "host" / "a", repository.store)
    with (
        stuck(repository, tmp_path / "host" / "a", artifact, 2),
        pytest.raises(BusyError, match="already fetching"),
    ):
        fetch(artifact, tmp_path / "host" / "a", repository.store)
    fetch(artifact, tmp_path / "host" / "a", repository.store)
    assert (tmp_path / "host" / "a").read_bytes() == content(OLD)


def test_what_can_not_fit_is_refused_before_anything_moves(repository: Repository, small_disk: Path) -> None:
    artifact = repository.publish("a", content(OLD))
    source = Counting(repository.store.repository)
    with pytest.raises(StorageError, match=r"needs 11 MiB and there are [56] MiB"):
        fetch(artifact, small_disk / "a", source)
    assert source.asked == [indexed(artifact).digest]
    assert names(small_disk) == set()


def test_a_disk_that_fills_up_on_the_way_is_freed_again(
    repository: Repository, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others write to it as well: there seemed to be room."""
    artifact = repository.publish("a", content(OLD))
    monkeypatch.setattr(Partial, "free", lambda self: 1 << 40)
    with pytest.raises(StorageError, match="No space left") as caught:
        fetch(artifact, small_disk / "a", repository.store)
    assert caught.value.exit_code == 7
    assert names(small_disk) == set()
    small = repository.publish("b", content([1, 2, 3]))
    fetch(small, small_disk / "b", repository.store)


PEAK = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_memory_stays_far_below_the_size_of_the_file(repository: Repository, tmp_path: Path) -> None:
    """100 MB of data that hardly compresses, by eight workers in a process of their own."""
    path = tmp_path / "large"
    with path.open("wb") as f:
        for _ in range(25):
            f.write(os.urandom(4 << 20))
    artifact = repository.publish_path(path)
    target = tmp_path / "host" / "large"
    words = ["-1", str(repository.store.repository), str(target), artifact.model_dump_json()]  # never stuck
    code = FETCHER.replace("workers=1", "workers=8") + PEAK
    done = subprocess.run([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, check=True)
    assert int(done.stdout.split()[-1]) < 150_000  # kB, 45,000 of them before the fetch
    assert (tmp_path / "host" / "large").stat().st_size == path.stat().st_size


def test_a_file_system_that_shares_blocks_shares_them(repository: Repository, tmp_path: Path) -> None:
    """On XFS the copy of an older version takes no space."""
    image, disk = tmp_path / "xfs.img", tmp_path / "xfs"
    with image.open("wb") as f:
        f.truncate(320 << 20)
    try:
        subprocess.run(["mkfs.xfs", "-q", image], check=True)
        disk.mkdir()
        subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as e:
        pytest.skip(f"no XFS here: {e}")
    try:
        old = repository.publish("old", content(OLD))
        new = repository.publish("new", content(NEW))
        fetch(old, disk / "old", repository.store)
        before = os.statvfs(disk).f_bfree
        fetch(new, disk / "new", repository.store, [Seed(disk / "old", indexed(old))])
        os.sync()
        assert (before - os.statvfs(disk).f_bfree) * 4096 < 2 << 20
        assert (disk / "new").read_bytes() == content(NEW)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_the_lock_is_on_the_file_that_has_the_name(tmp_path: Path) -> None:
    """A fetch that waited for a lock while another finished does not write into the finished file."""
    with Partial(tmp_path / "a", 5) as first:
        first.finish()
        with Partial(tmp_path / "a", 5) as second:
            assert os.fstat(first.fd).st_ino != os.fstat(second.fd).st_ino
            fcntl.flock(second.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
