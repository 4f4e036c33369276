"""`kiosk mirror --serve`: what is not here comes from upstream, verified; what is here stays when upstream does not."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from kiosk.config import Settings
from kiosk.errors import BusyError, CorruptError, NetworkError, UsageError, VerificationError
from kiosk.mirror import site
from kiosk.model.names import parse_ref
from kiosk.place import place
from kiosk.serve.listen import Server
from kiosk.store.api import DirectoryStore, HttpStore, MissingObject
from kiosk.store.http import Patience
from kiosk.store.objects import path_of
from kiosk.sync import Synced, sync
from tests.simulators import http_faulty as http
from tests.simulators.published import Kiosk, behind, ready
from tests.store.files import content

QUICK = Patience(connect=2, read=5, tries=1)


@dataclass
class Site:
    """A kiosk served by a server that can misbehave, and a mirror of it that asks anew each time."""

    kiosk: Kiosk
    origin: http.Faulty
    server: Server
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def get(self, path: str, **headers: str) -> requests.Response:
        return requests.get(f"{self.url}/{path}", headers=headers, timeout=20)

    def sync(self, host: str, *names: str) -> Synced:
        """A hypervisor of that name syncs through the mirror."""
        settings = Settings(home=self.kiosk.home / host, url=self.url)
        return sync(settings, [parse_ref(n) for n in names], root=self.kiosk.root.read_bytes())

    def asked(self, part: str) -> list[str]:
        """What upstream was asked for."""
        return [path for path, _ in self.origin.requests if part in path]

    def down(self) -> None:
        """Nobody answers upstream any more."""
        self.origin.faults = [http.status(500)] * 10_000


@contextmanager
def mirrored(kiosk: Kiosk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("FRESH", "REST"):
        monkeypatch.setattr(site, name, 0.0)
    folder = kiosk.home / "mirror"
    with (
        http.faulty(kiosk.settings.repository) as origin,
        site.serving(
            Settings(home=kiosk.home / "owner"),
            place(origin.url),
            folder,
            ("127.0.0.1", 0),
            root=kiosk.root.read_bytes(),
        ) as server,
        server.running(),
    ):
        yield Site(kiosk, origin, server, folder)


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with mirrored(ready(tmp_path), monkeypatch) as made:
        yield made


def test_the_second_host_asks_upstream_for_no_object(running: Site) -> None:
    assert running.sync("one").failure is None
    objects = running.asked("/objects/")
    assert len(objects) == len(set(objects)) > 5
    assert running.sync("two").failure is None
    assert running.asked("/objects/") == objects
    assert not running.asked("/targets/images/worker/")[1:], "a manifest is asked for once"


def test_headers_say_what_may_be_cached(running: Site) -> None:
    stamp = running.get("metadata/timestamp.json")
    assert (stamp.status_code, stamp.headers["Cache-Control"]) == (200, "no-cache")
    one = running.kiosk.settings.repository
    digest = next(DirectoryStore(one).objects()).digest
    answer = running.get(path_of(digest))
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["ETag"] == f'"{digest[7:]}"'
    assert running.get(path_of(digest), **{"If-None-Match": answer.headers["ETag"]}).status_code == 304
    nothing = running.get("objects/00/" + "0" * 64)
    assert (nothing.status_code, nothing.headers["Cache-Control"]) == (404, "no-store")
    assert running.get("metadata/../../owner/lock").status_code == 404


def test_many_readers_are_one_request_upstream(running: Site) -> None:
    one = DirectoryStore(running.kiosk.settings.repository).write(content(range(1, 500)))
    gate = threading.Event()

    def slow(line: object, right: bytes) -> None:
        gate.wait(10)
        http.answer(lambda body: body)(line, right)  # type: ignore[arg-type]

    running.origin.faults = [slow]
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(running.get, path_of(one.digest)) for _ in range(6)]
        gate.set()
        assert {a.result().content for a in answers} == {content(range(1, 500))}
    assert len(running.asked(one.digest[7:])) == 1


def test_a_new_version_comes_through(running: Site) -> None:
    running.sync("one")
    running.kiosk.image(version="2")
    assert [(r.version, r.state) for r in running.sync("one", "worker").results] == [("2", "fetched")]


def test_upstream_down_what_is_here_is_served(running: Site) -> None:
    running.sync("one")
    running.kiosk.image(version="2")
    running.down()
    assert running.sync("two").failure is None, "a new host gets the last state that the mirror has"
    new = DirectoryStore(running.kiosk.settings.repository).write(content([77]))
    assert running.get(path_of(new.digest)).status_code == 504
    with HttpStore(running.url, patience=QUICK) as store, pytest.raises(NetworkError) as caught:
        store.read(new)
    assert not isinstance(caught.value, MissingObject)
    running.origin.faults = []
    assert running.get(path_of(new.digest)).content == content([77])
    assert running.sync("two", "worker").results[0].version == "2"


def test_upstream_down_from_the_start_is_not_a_missing_repository(running: Site) -> None:
    running.down()
    assert running.get("metadata/timestamp.json").status_code == 504
    assert running.get("metadata/1.root.json").status_code == 504
    running.origin.faults = []
    assert running.sync("one").failure is None


LIES = {
    "a page of HTML": http.HTML,
    "a flipped bit": http.FLIPPED,
    "a byte less": http.SHORT,
    "a byte more": http.LONG,
    "an empty body": http.answer(lambda _: b""),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_wrong_object_is_neither_passed_on_nor_kept(running: Site, lie: str) -> None:
    data = content(range(1, 40))
    one = DirectoryStore(running.kiosk.settings.repository).write(data)
    running.origin.faults = [LIES[lie]] * 2
    answer = running.get(path_of(one.digest))
    assert (answer.status_code, answer.content) == (502, b"")
    assert running.origin.requests[-1][1]["cache-control"] == "no-cache"
    assert not (running.folder / path_of(one.digest)).exists()
    assert not list(running.folder.rglob(".*.new"))
    running.origin.faults = [LIES[lie]]  # once: past every cache it is right
    assert running.get(path_of(one.digest)).content == data


def test_a_cut_body_is_asked_for_again(running: Site) -> None:
    data = content(range(1, 40))
    one = DirectoryStore(running.kiosk.settings.repository).write(data)
    running.origin.faults = [http.CUT, http.hang_up]
    assert running.get(path_of(one.digest)).content == data


@pytest.mark.parametrize("lie", ["a page of HTML", "a byte more", "an empty body"])
def test_lies_about_the_state_leave_the_state_before(running: Site, lie: str) -> None:
    running.sync("one")
    before = running.get("metadata/timestamp.json").content
    running.kiosk.image(version="2")
    running.origin.faults = [LIES[lie]] * 50
    assert running.get("metadata/timestamp.json").content == before
    assert running.sync("two").failure is None
    running.origin.faults = []
    assert running.sync("two", "worker").results[0].version == "2"


def test_a_damaged_copy_is_replaced_when_a_reader_complains(running: Site) -> None:
    data = content(range(1, 40))
    one = DirectoryStore(running.kiosk.settings.repository).write(data)
    running.get(path_of(one.digest))
    (running.folder / path_of(one.digest)).write_bytes(b"x" * len(data))
    with HttpStore(running.url, patience=QUICK) as store:
        assert store.read(one) == data
    assert (running.folder / path_of(one.digest)).read_bytes() == data


def test_one_mirror_a_folder(running: Site) -> None:
    owner = Settings(home=running.kiosk.home / "owner")
    for address, kind in (
        (("127.0.0.1", 0), BusyError),
        (("127.0.0.1", running.server.server_port), NetworkError),
    ):
        folder = running.folder if kind is BusyError else running.kiosk.home / "other"
        with (
            pytest.raises(kind),
            site.serving(
                owner, place(running.origin.url), folder, address, root=running.kiosk.root.read_bytes()
            ),
        ):
            raise AssertionError
    with (
        pytest.raises(UsageError, match="root of trust"),
        site.serving(owner, place(running.origin.url), running.kiosk.home / "third", ("127.0.0.1", 0)),
    ):
        raise AssertionError


# -- mirrors that lie, and the reader's own eyes --------------------------------------------------------------------


def test_a_reader_finds_out_that_a_mirror_is_stale(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    shutil.copytree(kiosk.settings.repository, tmp_path / "stale")
    kiosk.image(version="2")
    kiosk.sync()
    before = kiosk.held()
    with http.faulty(tmp_path / "stale") as mirror, pytest.raises(VerificationError, match="rolled back"):
        kiosk.sync(url=mirror.url)
    assert kiosk.held() == before


@pytest.mark.parametrize("part", ["metadata", "objects"])
def test_a_reader_finds_out_that_a_mirror_answers_html(part: str, tmp_path: Path) -> None:
    kiosk = behind(tmp_path)
    before = kiosk.held()
    with http.faulty(kiosk.settings.repository) as mirror:
        right = http.answer(lambda body: body)
        kept = [http.status(404), right, right, right, right] if part == "objects" else []
        mirror.faults = [*kept, *[http.HTML] * 1000]
        with pytest.raises(CorruptError):
            raise kiosk.sync("worker", url=mirror.url).failure or AssertionError("not noticed")
        asked = mirror.requests[-1][0]
    assert part in asked
    assert kiosk.held() == before
