"""Cache and failover: what moves on to the next source, what is put aside, and what is kept."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kiosk.errors import CorruptError, NetworkError, StorageError
from kiosk.model.manifest import Object
from kiosk.store.api import Cache, DirectoryStore, Failover, HttpStore, MissingObject
from kiosk.store.failover import REST
from kiosk.store.http import Patience
from kiosk.store.objects import ObjectSource, path_of
from tests.simulators import http_faulty as http
from tests.store.files import content

DATA = content(range(1, 9))
QUICK = Patience(connect=1, read=1, tries=1)


class Counted:
    """A source that counts its reads."""

    def __init__(self, source: ObjectSource, before: Callable[[], object] = lambda: None) -> None:
        self.source, self.before, self.reads = source, before, 0

    def read(self, wanted: Object, stop: threading.Event | None = None) -> bytes:
        self.reads += 1
        self.before()
        return self.source.read(wanted, stop)

    def has(self, wanted: Object) -> bool:
        return self.source.has(wanted)


@pytest.fixture
def full(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "full")


@pytest.fixture
def empty(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "empty")


def unreachable() -> HttpStore:
    return HttpStore("http://127.0.0.1:9", patience=QUICK)


def test_a_cache_reads_each_object_once(full: DirectoryStore, empty: DirectoryStore) -> None:
    one, source = full.write(DATA), Counted(full)
    cache = Cache(source, empty)
    assert [cache.read(one) for _ in range(3)] == [DATA] * 3
    assert source.reads == 1
    assert empty.read(one) == DATA
    full.remove(one.digest)
    assert cache.has(one)


def test_a_damaged_copy_in_the_cache_is_fetched_again(full: DirectoryStore, empty: DirectoryStore) -> None:
    one = full.write(DATA)
    cache = Cache(full, empty)
    cache.read(one)
    (empty.repository / path_of(one.digest)).write_bytes(bytes(len(DATA)))
    assert cache.read(one) == DATA
    assert empty.read(one) == DATA


def test_a_cache_keeps_nothing_that_is_wrong(full: DirectoryStore, empty: DirectoryStore) -> None:
    one = full.write(DATA)
    (full.repository / path_of(one.digest)).write_bytes(bytes(len(DATA)))
    with pytest.raises(CorruptError):
        Cache(full, empty).read(one)
    assert list(empty.objects()) == []


def test_a_cache_that_is_full_still_reads(full: DirectoryStore, small_disk: Path) -> None:
    big = [full.write(content([i]) * 500) for i in range(1, 6)]  # 2 MB each, on 6 MiB
    cache = Cache(full, DirectoryStore(small_disk))
    for one in big:
        assert len(cache.read(one)) == one.size
    assert 0 < len(list(DirectoryStore(small_disk).objects())) < 5
    with pytest.raises(StorageError):
        DirectoryStore(small_disk).write(bytes(4 << 20))


def test_readers_at_once_make_one_request(full: DirectoryStore, empty: DirectoryStore) -> None:
    one, gate = full.write(DATA), threading.Event()
    source = Counted(full, lambda: gate.wait(10))
    cache = Cache(source, empty)
    with ThreadPoolExecutor(5) as pool:
        reads = [pool.submit(cache.read, one) for _ in range(5)]
        gate.set()
        assert [r.result() for r in reads] == [DATA] * 5
    assert source.reads == 1
    assert not cache._flights._locks


def test_missing_and_unreachable_move_on(full: DirectoryStore, empty: DirectoryStore) -> None:
    one = full.write(DATA)
    sources = Failover({"peer": unreachable(), "cache": empty, "kiosk": full})
    assert sources.read(one) == DATA
    assert sources.has(one)
    assert sources.corrupt == []


def test_corrupt_is_reported_and_that_source_is_not_asked_again(
    full: DirectoryStore, empty: DirectoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = full.write(DATA), full.write(content([9]))
    empty.write(content([9]))
    path = empty.repository / path_of(one.digest)
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(len(DATA)))
    bad = Counted(empty)
    sources = Failover({"mirror": bad, "kiosk": full})
    with caplog.at_level(logging.WARNING, logger="kiosk"):
        assert sources.read(one) == DATA
    assert "mirror gives wrong data and is not asked again" in caplog.text
    assert [(c.source, c.digest) for c in sources.corrupt] == [("mirror", one.digest)]
    assert sources.read(other) == content([9])
    assert bad.reads == 1


def test_what_nobody_gives_is_missing_only_if_all_say_so(full: DirectoryStore, empty: DirectoryStore) -> None:
    one = full.write(DATA)
    full.remove(one.digest)
    with pytest.raises(MissingObject):
        Failover({"a": full, "b": empty}).read(one)
    assert not Failover({"a": full, "b": empty}).has(one)
    down = Failover({"a": full, "b": unreachable()})
    for call in (down.read, down.has):
        with pytest.raises(NetworkError):
            call(one)
    path = empty.repository / path_of(one.digest)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"?")
    bad = Failover({"a": unreachable(), "b": empty})
    with pytest.raises(CorruptError, match="instead of"):
        bad.read(one)
    with pytest.raises((CorruptError, NetworkError)):
        bad.read(one)
    only = Failover({"b": empty})
    for says in ("instead of", "gave wrong data before"):
        with pytest.raises(CorruptError, match=says):
            only.read(one)


def test_a_source_that_is_down_is_asked_last_for_a_while(full: DirectoryStore, tmp_path: Path) -> None:
    one, now = full.write(DATA), [0.0]
    with http.faulty(full.repository) as server, HttpStore(server.url, patience=QUICK) as near:
        server.faults = [http.status(503)]
        sources = Failover({"near": near, "kiosk": full}, monotonic=lambda: now[0])
        for _ in range(3):
            assert sources.read(one) == DATA
        assert len(server.requests) == 1
        now[0] = REST + 1
        assert sources.read(one) == DATA
        assert len(server.requests) == 2
