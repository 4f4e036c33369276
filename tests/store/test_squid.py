"""The site's Squid, as it is installed: it keeps objects, revalidates the timestamp, and asks the kiosk once."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from kiosk.errors import KioskError
from kiosk.serve import squid, static
from kiosk.serve.listen import Server
from kiosk.store.api import HttpStore
from kiosk.store.fetch import Seed, fetch
from kiosk.store.objects import path_of
from tests.store.files import Repository, content


class Origin(static.Files):
    """The kiosk's own files, which also counts what it is asked and can be slow."""

    asked: list[str]
    pause = 0.0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        tag = dict(scope["headers"]).get(b"if-none-match", b"")
        self.asked.append(f"{scope['path']} {tag.decode()}".strip())
        await asyncio.sleep(self.pause)
        await super().__call__(scope, receive, send)


@dataclass
class Site:
    repository: Repository
    origin: Origin
    url: str
    proxy: str
    log: Path

    def get(self, path: str, **headers: str) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            return session.get(
                f"{self.url}/{path}", proxies={"http": self.proxy}, headers=headers, timeout=20
            )

    def results(self, path: str, field: int = 3) -> list[str]:
        """What Squid's log says of a path: TCP_MISS/200 and so on; another field: whence it came."""
        time.sleep(0.1)
        return [
            line.split()[field]
            for line in self.log.read_text().splitlines()
            if line.split()[6].endswith(path)
        ]


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    repository = Repository(folder)
    (folder / "repository" / "metadata").mkdir(parents=True)
    origin = Origin(folder / "repository")
    origin.asked = []
    with (
        Server(origin, ("127.0.0.1", 0)) as server,
        server.running() as url,
        squid.running(folder / "squid", port=squid.free_port(), kiosk=url, cache_mb=100) as proxy,
    ):
        yield Site(repository, origin, url, proxy, folder / "squid" / "access.log")


@pytest.fixture(scope="module")
def running() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="kiosk-squid-") as name:
        Path(name).chmod(0o755)  # Squid's own user goes through it
        with site(Path(name)) as made:
            yield made


def test_an_object_is_kept_and_the_timestamp_asked_for_each_time(running: Site) -> None:
    one = running.repository.store.write(content([1, 2, 3]))
    stamp = running.repository.store.repository / "metadata" / "timestamp.json"
    stamp.write_text('{"version": 1}\n')
    for _ in range(2):
        assert running.get(path_of(one.digest)).content == content([1, 2, 3])
        assert running.get("metadata/timestamp.json").json() == {"version": 1}
    stamp.with_suffix(".new").write_text('{"version": 2}\n')
    stamp.with_suffix(".new").replace(stamp)
    assert running.get("metadata/timestamp.json").json() == {"version": 2}
    assert running.results(path_of(one.digest)) in (
        ["TCP_MISS/200", "TCP_MEM_HIT/200"],
        ["TCP_MISS/200", "TCP_HIT/200"],  # from the disk: it was not yet in memory
    )
    assert running.results("timestamp.json") == [
        "TCP_MISS/200",
        "TCP_REFRESH_UNMODIFIED/200",
        "TCP_REFRESH_MODIFIED/200",
    ]
    asked = [a for a in running.origin.asked if "timestamp" in a]
    assert len(asked) == 3
    assert '"' in asked[1], "the second was asked with the ETag of the first"


def test_many_hypervisors_at_once_are_one_request_to_the_kiosk(running: Site) -> None:
    one = running.repository.store.write(os.urandom(3_000_000))
    running.origin.pause = 0.5
    try:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: running.get(path_of(one.digest)).content, range(8)))
    finally:
        running.origin.pause = 0
    assert len(set(answers)) == 1
    assert len([a for a in running.origin.asked if one.digest[7:] in a]) == 1
    results = running.results(path_of(one.digest))
    assert sorted(results)[-1] == "TCP_MISS/200"
    assert results.count("TCP_MISS/200") == 1


def test_two_hosts_fetch_an_image_and_the_kiosk_sends_it_once(running: Site) -> None:
    artifact = running.repository.publish("a", content(range(100, 6000)))
    with HttpStore(running.url, proxy=running.proxy) as source:
        for host in ("one", "two"):
            report = fetch(artifact, running.repository.folder / host / "a", source)
            assert report.requests == 7
    objects = [a for a in running.origin.asked if artifact.index and "/objects/" in a]
    assert len(objects) == len(set(objects))


def test_fifty_hosts_fetch_the_same_update_at_once_and_the_kiosk_sends_each_object_once(
    running: Site,
) -> None:
    """Seen in the kiosk's log, and in Squid's own."""
    folder = running.repository.folder
    before = running.repository.publish("day-1", content(range(20_000, 22_000)))
    after = running.repository.publish("day-2", content([*range(20_000, 21_000), *range(30_000, 32_500)]))
    fetch(before, folder / "hosts" / "day-1", running.repository.store)
    assert before.index
    seed = Seed(folder / "hosts" / "day-1", before.index, before.digest)
    running.origin.asked.clear()

    def host(number: int) -> int:
        with HttpStore(running.url, proxy=running.proxy) as source:
            return fetch(after, folder / "hosts" / str(number), source, [seed], workers=2).requests

    with ThreadPoolExecutor(50) as pool:
        requests_made = list(pool.map(host, range(50)))
    assert set(requests_made) == {4}  # the index and three packs
    sent = Counter(running.origin.asked)
    assert len(sent) == 4
    assert set(sent.values()) == {1}
    for path in sent:
        assert [r for r in running.results(path) if not r.endswith("/200")] == []
        whence = running.results(path, field=8)
        assert len(whence) == 50
        assert sum(not w.startswith("HIER_NONE") for w in whence) == 1, "the others came from the cache"


def test_a_damaged_copy_in_the_cache_is_replaced(running: Site) -> None:
    """The kiosk gave wrong bytes once, Squid kept them for a year: one reader's second question heals it."""
    data = content([7, 8, 9])
    one = running.repository.store.write(data)
    path = running.repository.store.repository / path_of(one.digest)
    path.write_bytes(b"wrong" + data[5:])
    assert running.get(path_of(one.digest)).content != data
    path.write_bytes(data)
    assert running.get(path_of(one.digest)).content != data, "the cache has the wrong one"
    with HttpStore(running.url, proxy=running.proxy) as source:
        assert source.read(one) == data
    assert running.get(path_of(one.digest)).content == data
    assert running.results(path_of(one.digest))[-1] in ("TCP_MEM_HIT/200", "TCP_HIT/200")


def test_what_is_missing_now_is_found_when_it_is_there(running: Site) -> None:
    running.origin.asked.clear()
    assert running.get("metadata/2.root.json").status_code == 404
    (running.repository.store.repository / "metadata" / "2.root.json").write_text("{}")
    assert running.get("metadata/2.root.json").status_code == 200
    assert running.get("metadata/2.root.json").status_code == 200
    assert len(running.origin.asked) == 2


def test_it_is_a_way_to_the_kiosk_and_to_nothing_else(running: Site) -> None:
    other = static.serve(running.repository.store.repository, "127.0.0.1", 0)
    with other:
        for url in (
            f"http://127.0.0.1:{other.server_port}/metadata/timestamp.json",
            "http://localhost:8080/x",
        ):
            answer = requests.get(url, proxies={"http": running.proxy}, timeout=10)
            assert answer.status_code == 403
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(f"{running.url}/x", data=b"x", proxies={"http": running.proxy}, timeout=10)
    assert answer.status_code == 403


def test_the_lines_to_edit_are_there_once() -> None:
    text = (Path(__file__).parents[2] / "server" / "squid.conf").read_text()
    assert len(re.findall(r"^# -- EDIT", text, flags=re.MULTILINE)) == 5
    changed = squid.adapted(text, {"http_port": "10.0.0.1:80"})
    assert "\nhttp_port 10.0.0.1:80\n" in changed
    with pytest.raises(KioskError, match="has 0 lines"):
        squid.adapted(text, {"cache_pear": "x"})
