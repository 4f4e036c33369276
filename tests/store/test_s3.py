"""Objects in a bucket: kept and read back whole; what is denied, missing, slow, cut or wrong is told apart."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiosk.bucket import MULTIPART, Patience
from kiosk.config import S3Options
from kiosk.errors import CorruptError, KioskError, NetworkError, NotFoundError, UsageError
from kiosk.model.manifest import Object
from kiosk.store import locate
from kiosk.store.api import DirectoryStore, HttpStore, MissingObject
from kiosk.store.fetch import fetch
from kiosk.store.objects import path_of
from kiosk.store.s3 import S3Store
from tests.simulators import http_faulty as http
from tests.store.engines import ENGINES, QUICK, Engine, started, using
from tests.store.files import Repository, content

NOTHING = Object(digest="sha256:" + "0" * 64, size=1)
DATA = content(range(1, 30))


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with started(request.param) as running:
        yield running


@pytest.fixture(autouse=True)
def credentials(request: pytest.FixtureRequest) -> Iterator[None]:
    if "engine" in request.fixturenames:
        running: Engine = request.getfixturevalue("engine")
        key, secret = running.key, running.secret
    else:
        key, secret = "AKNOBODY", "NOSECRET"
    with using(key, secret):
        yield


def test_objects_are_kept_listed_read_and_removed(engine: Engine) -> None:
    store, other = engine.store(), None
    made = [store.write(content([i])) for i in range(1, 6)]
    assert store.write(content([1])) == made[0]
    assert [o.digest for o in store.objects()] == sorted(o.digest for o in made)
    assert all(o.size == 4096 for o in store.objects())
    for i, one in enumerate(made, 1):
        assert store.has(one)
        assert store.read(one) == content([i])
    other = engine.store(store.bucket.name, "another")
    assert not other.has(made[0])
    assert list(other.objects()) == []
    store.remove(made[0].digest)
    assert not store.has(made[0])
    with pytest.raises(MissingObject):
        store.remove(made[0].digest)


def test_the_bucket_says_how_long_an_object_may_be_cached(engine: Engine) -> None:
    store = engine.store()
    one = store.write(DATA)
    head = engine.client().head_object(Bucket=store.bucket.name, Key=f"kiosk/{path_of(one.digest)}")  # type: ignore[attr-defined]
    assert head["CacheControl"] == "public, max-age=31536000, immutable"


def test_a_large_object_goes_in_parts(engine: Engine) -> None:
    store, data = engine.store(), os.urandom(MULTIPART + 5_000_000)
    one = store.write(data)
    head = engine.client().head_object(Bucket=store.bucket.name, Key=f"kiosk/{path_of(one.digest)}")  # type: ignore[attr-defined]
    assert head["ETag"].strip('"').endswith("-3")
    assert store.read(one) == data
    assert store.write(data) == one


def test_missing_is_missing(engine: Engine) -> None:
    store = engine.store()
    assert not store.has(NOTHING)
    with pytest.raises(MissingObject) as caught:
        store.read(NOTHING)
    assert caught.value.where == store.bucket.url(path_of(NOTHING.digest))


@pytest.mark.parametrize("wrong", ["flipped", "short", "long"])
def test_wrong_bytes_are_corrupt_and_healed_by_writing(engine: Engine, wrong: str) -> None:
    store = engine.store()
    one = store.write(DATA)
    bad = {"flipped": DATA[:-1] + bytes([DATA[-1] ^ 1]), "short": DATA[:-1], "long": DATA + bytes(50_000)}
    store.bucket.put(path_of(one.digest), bad[wrong])
    with pytest.raises(CorruptError) as caught:
        store.read(one)
    if wrong == "long":
        assert f"has {len(DATA) + 1} bytes" in caught.value.what, "one byte more, never further"
    assert store.has(one) == (wrong == "flipped")
    store.write(DATA)
    assert store.read(one) == DATA


def test_a_missing_bucket_is_not_a_missing_object(engine: Engine) -> None:
    store = engine.store("kiosk-nowhere")
    for call in (lambda: store.read(NOTHING), lambda: store.write(DATA), lambda: list(store.objects())):
        with pytest.raises(NetworkError, match="there is no bucket kiosk-nowhere"):
            call()


def test_a_file_is_published_to_a_bucket_and_fetched_from_it(
    engine: Engine, repository: Repository, tmp_path: Path
) -> None:
    artifact = repository.publish("a", content(range(1, 3000)))
    store = engine.store()
    for one in repository.store.objects():
        store.write(repository.store.read(one))
    report = fetch(artifact, tmp_path / "host" / "a", store)
    assert (tmp_path / "host" / "a").read_bytes() == content(range(1, 3000))
    assert report.requests == 4


@pytest.mark.parametrize(("key", "secret"), [(None, "THEWRONGSECRET"), ("kiosk:nobody", "THEWRONGSECRET")])
def test_wrong_credentials_are_refused_and_in_no_message(
    engine: Engine, key: str | None, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    if engine.name == "moto":
        pytest.skip("moto checks no signature")
    bucket = engine.bucket()
    with using(key or engine.key, secret), caplog.at_level(logging.DEBUG, logger="kiosk"):
        store = engine.store(bucket)
        for call in (lambda: store.read(NOTHING), lambda: store.write(DATA), lambda: store.has(NOTHING)):
            with pytest.raises(
                NetworkError, match=r"does not accept the credentials|denies access"
            ) as caught:
                call()
            said = str(caught.value) + repr(caught.value) + caplog.text
            assert "THEWRONG" not in said
            assert (key or engine.key) not in said
            assert caught.value.__cause__ is None
            assert not isinstance(caught.value, NotFoundError)


def test_no_credentials_at_all(engine: Engine) -> None:
    bucket = engine.bucket()
    with using("", ""), pytest.raises(NetworkError, match="no credentials") as caught:
        engine.store(bucket).read(NOTHING)
    assert "AWS_PROFILE" in str(caught.value)


def test_nobody_listens() -> None:
    with pytest.raises(NetworkError, match="can't be reached"):
        S3Store("b", endpoint="http://127.0.0.1:9", patience=QUICK).read(NOTHING)


# -- a service that misbehaves ----------------------------------------------------------------------------------


def refused(status: int, code: str) -> http.Fault:
    """An S3 error, with a message that repeats the key as some engines do."""
    body = (
        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>key AKNOBODY, secret NOSECRET</Message></Error>"
    ).encode()
    head = (
        b"HTTP/1.1 %d X\r\nContent-Type: application/xml\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    )
    return lambda line, _: line.sendall(head % (status, len(body)) + body)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[http.Faulty]:
    (tmp_path / "s3" / "bucket").mkdir(parents=True)
    with http.faulty(tmp_path / "s3") as running:
        yield running


@pytest.fixture
def wanted(server: http.Faulty) -> Object:
    return DirectoryStore(server.repository / "bucket").write(DATA)


def faulty_store(server: http.Faulty, tries: int = 1) -> S3Store:
    patience = Patience(connect=0.4, read=0.4, slowest=1_000_000, tries=tries)
    return S3Store("bucket", endpoint=server.url, patience=patience)


ANSWERS: dict[str, tuple[http.Fault, type[KioskError], str]] = {
    "slow down": (refused(503, "SlowDown"), NetworkError, r"asks to slow down \(503 SlowDown\)"),
    "too many": (refused(429, "TooManyRequests"), NetworkError, "asks to slow down"),
    "denied": (refused(403, "AccessDenied"), NetworkError, r"denies access \(403 AccessDenied\)"),
    "wrong secret": (refused(403, "SignatureDoesNotMatch"), NetworkError, "does not accept the credentials"),
    "unknown key": (refused(403, "InvalidAccessKeyId"), NetworkError, "does not accept the credentials"),
    "clock": (refused(403, "RequestTimeTooSkewed"), NetworkError, "time of day"),
    "no bucket": (refused(404, "NoSuchBucket"), NetworkError, "there is no bucket bucket"),
    "another region": (refused(301, "PermanentRedirect"), NetworkError, "another region"),
    "broken": (refused(500, "InternalError"), NetworkError, "answered 500 InternalError"),
    "a page for people": (http.status(502), NetworkError, "502"),
    "no such key": (refused(404, "NoSuchKey"), MissingObject, "does not have"),
    "a page under its name": (http.HTML, CorruptError, "bytes instead of"),
    "a flipped bit": (http.FLIPPED, CorruptError, "digest"),
    "a byte less": (http.SHORT, CorruptError, "instead of"),
    "without end": (http.endless, CorruptError, "instead of"),
    "cut": (http.CUT, NetworkError, "cut|broke"),
    "no answer": (http.hang_up, NetworkError, "broke|reached"),
    "silence": (http.silent, NetworkError, "no answer in time"),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_each_answer_has_its_error_without_secrets(server: http.Faulty, wanted: Object, what: str) -> None:
    fault, kind, says = ANSWERS[what]
    server.faults = [fault]
    with pytest.raises(kind, match=says) as caught:
        faulty_store(server).read(wanted)
    assert type(caught.value).__name__ != "KioskError"
    assert "NOSECRET" not in str(caught.value)
    assert "AKNOBODY" not in str(caught.value)
    assert len(server.requests) == (2 if what == "another region" else 1)


def test_a_slow_down_and_a_cut_body_are_tried_again(server: http.Faulty, wanted: Object) -> None:
    server.faults = [refused(503, "SlowDown"), http.CUT]
    assert faulty_store(server, tries=3).read(wanted) == DATA
    assert len(server.requests) == 3


def test_a_trickle_does_not_hold_a_reader_for_ever(server: http.Faulty) -> None:
    one = DirectoryStore(server.repository / "bucket").write(content([1]))
    server.faults = [http.trickle]
    with pytest.raises(NetworkError, match="too slowly"):
        faulty_store(server).read(one)


def test_a_page_in_place_of_a_list(server: http.Faulty) -> None:
    server.faults = [http.HTML]
    with pytest.raises(NetworkError, match="does not answer as S3 does"):
        list(faulty_store(server).objects())


def test_a_name_becomes_a_source(tmp_path: Path) -> None:
    assert isinstance(locate.source("http://kiosk/x/"), HttpStore)
    for folder in (tmp_path, str(tmp_path), f"file://{tmp_path}"):
        found = locate.source(folder)
        assert isinstance(found, DirectoryStore)
        assert found.repository == tmp_path
    store = locate.store("s3://bucket/a/b/", S3Options("http://127.0.0.1:9", "us-east-1"))
    assert isinstance(store, S3Store)
    assert store.url == "s3://bucket/a/b"
    assert locate.store("s3://bucket").url == "s3://bucket"  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="nothing can be written"):
        locate.store("https://kiosk")
    bad = [
        "ftp://kiosk",
        "kiosk",
        "",
        "s3://",
        "s3:///x",
        "s3://b/../c",
        "s3://b/a?x=1",
        "http://",
        "http://u:pw@k",
    ]
    for name in bad:
        with pytest.raises(UsageError) as caught:
            locate.source(name)
        assert "pw" not in str(caught.value)
    for endpoint in ("ftp://x", "http://u:pw@x", "nonsense"):
        with pytest.raises(UsageError, match="s3_endpoint"):
            locate.store("s3://bucket", S3Options(endpoint))
