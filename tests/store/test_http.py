"""Objects over HTTP from a server that misbehaves: what passes is tried again, what lies is named, no more."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiosk.errors import CorruptError, NetworkError
from kiosk.model.manifest import Object
from kiosk.store.api import HttpStore, MissingObject
from kiosk.store.fetch import fetch
from kiosk.store.http import Patience
from tests.simulators import http_faulty as http
from tests.store.files import Repository, content

QUICK = Patience(connect=1, read=1, slowest=1_000_000, tries=3, pause=0.01)

RIGHT = http.answer(lambda right: right)


@pytest.fixture
def server(repository: Repository) -> Iterator[http.Faulty]:
    repository.folder.joinpath("repository").mkdir()
    with http.faulty(repository.store.repository) as running:
        yield running


@pytest.fixture
def wanted(repository: Repository, server: http.Faulty) -> Object:
    return repository.store.write(content(range(1, 30)))


@pytest.fixture
def source(server: http.Faulty) -> Iterator[HttpStore]:
    with HttpStore(server.url + "/", patience=QUICK) as store:
        yield store


def test_an_object_is_read_and_asked_for_plainly(
    source: HttpStore, server: http.Faulty, wanted: Object
) -> None:
    assert source.read(wanted) == content(range(1, 30))
    ((path, headers),) = server.requests
    assert path == f"/objects/{wanted.digest[7:9]}/{wanted.digest[7:]}"
    assert headers["accept-encoding"] == "identity"
    assert "cache-control" not in headers


PASSING: dict[str, list[http.Fault]] = {
    "503, then 500": [http.status(503), http.status(500)],
    "429": [http.status(429)],
    "a cut connection, twice": [http.CUT, http.CUT],
    "no answer": [http.hang_up, http.hang_up],
    "silence": [http.silent],
    "a trickle": [http.trickle],
}


@pytest.mark.parametrize("what", PASSING)
def test_what_passes_is_tried_again(
    source: HttpStore, server: http.Faulty, wanted: Object, what: str
) -> None:
    server.faults = list(PASSING[what])
    assert source.read(wanted) == content(range(1, 30))
    assert len(server.requests) == len(PASSING[what]) + 1
    assert all("cache-control" not in headers for _, headers in server.requests)


STAYING: dict[str, tuple[list[http.Fault], str, int]] = {
    "5xx for ever": ([http.status(502)] * 9, "answered 502", 3),
    "403": ([http.status(403)] * 9, "answered 403", 1),
    "cut for ever": ([http.CUT] * 9, "cut", 3),
    "silence for ever": ([http.silent] * 9, "no answer in time", 3),
    "a redirection in circles": (
        [
            lambda line, _: line.sendall(
                b"HTTP/1.1 302 Go\r\nLocation: /x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
        ]
        * 20,
        "from one address to the next",
        4,
    ),
}


@pytest.mark.parametrize("what", STAYING)
def test_what_stays_is_a_network_error(
    source: HttpStore, server: http.Faulty, wanted: Object, what: str
) -> None:
    faults, words, requests = STAYING[what]
    server.faults = list(faults)
    with pytest.raises(NetworkError, match=words) as caught:
        source.read(wanted)
    assert caught.value.where is not None
    assert caught.value.where.startswith(server.url)
    assert len(server.requests) == requests


LIES: dict[str, http.Fault] = {
    "a page of HTML": http.HTML,
    "a flipped bit": http.FLIPPED,
    "a byte less": http.SHORT,
    "a byte more": http.LONG,
    "a Content-Length below the body": http.LYING_SHORT,
    "a Content-Length of a terabyte": http.LYING_HUGE,
    "a body without end": http.endless,
    "an empty body": http.answer(lambda _: b""),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_asked_past_the_caches_once(
    source: HttpStore, server: http.Faulty, wanted: Object, lie: str
) -> None:
    server.faults = [LIES[lie]]
    assert source.read(wanted) == content(range(1, 30))
    assert [headers.get("cache-control") for _, headers in server.requests] == [None, "no-cache"]


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_that_stays_is_corrupt(
    source: HttpStore, server: http.Faulty, wanted: Object, lie: str
) -> None:
    server.faults = [LIES[lie]] * 9
    with pytest.raises(CorruptError) as caught:
        source.read(wanted)
    assert len(server.requests) == 2
    assert caught.value.where is not None
    assert wanted.digest[7:] in caught.value.where
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("code", [404, 410])
def test_missing_is_not_corrupt_and_not_tried_again(
    source: HttpStore, server: http.Faulty, wanted: Object, code: int
) -> None:
    server.faults = [http.status(code)]
    with pytest.raises(MissingObject):
        source.read(wanted)
    assert len(server.requests) == 1


def test_whether_it_has_an_object(source: HttpStore, server: http.Faulty, wanted: Object) -> None:
    assert source.has(wanted)
    assert not source.has(Object(digest=wanted.digest, size=wanted.size + 1))
    assert not source.has(Object(digest="sha256:" + "0" * 64, size=1))
    server.faults = [http.status(500)]
    with pytest.raises(NetworkError):
        source.has(wanted)


def test_nobody_listens() -> None:
    with (
        HttpStore("http://127.0.0.1:9", patience=QUICK) as source,
        pytest.raises(NetworkError, match="can't connect"),
    ):
        source.read(Object(digest="sha256:" + "0" * 64, size=1))
    with (
        HttpStore("http://127.0.0.1:9", proxy="http://127.0.0.1:9", patience=QUICK) as source,
        pytest.raises(NetworkError, match="proxy"),
    ):
        source.read(Object(digest="sha256:" + "0" * 64, size=1))


def test_the_environments_proxy_is_not_used(
    source: HttpStore, wanted: Object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert source.read(wanted)


def test_once_told_to_stop_it_tries_no_more(source: HttpStore, server: http.Faulty, wanted: Object) -> None:
    patient = HttpStore(server.url, patience=Patience(tries=50, pause=5))
    server.faults = [http.status(503)] * 50
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()
    with pytest.raises(NetworkError):
        patient.read(wanted, stop)
    assert time.monotonic() - began < 3
    patient.close()


def test_a_file_is_fetched_in_spite_of_it_all(
    repository: Repository, server: http.Faulty, tmp_path: Path
) -> None:
    artifact = repository.publish("a", content(range(1, 6000)))
    server.faults = [
        *[http.status(503), http.CUT, http.HTML, http.hang_up, RIGHT, http.FLIPPED, RIGHT],
        *[http.SHORT, http.CUT, RIGHT, http.LYING_HUGE, http.status(500)],
    ]
    with HttpStore(server.url, patience=Patience(read=2, tries=8, pause=0.01)) as source:
        report = fetch(artifact, tmp_path / "host" / "a", source, workers=1)
    assert (tmp_path / "host" / "a").read_bytes() == content(range(1, 6000))
    assert report.requests == 7


def test_a_source_that_lies_for_ever_makes_no_target_and_what_came_is_kept(
    repository: Repository, server: http.Faulty, tmp_path: Path
) -> None:
    artifact = repository.publish("a", content(range(1, 6000)))
    server.faults = [RIGHT, RIGHT, RIGHT, *[http.HTML] * 100]
    with HttpStore(server.url, patience=QUICK) as source:
        with pytest.raises(CorruptError, match=r"answers 60 bytes|instead of"):
            fetch(artifact, tmp_path / "host" / "a", source, workers=1)
        assert not (tmp_path / "host" / "a").exists()
        server.faults.clear()
        assert fetch(artifact, tmp_path / "host" / "a", source).requests == 1 + 6 - 2
