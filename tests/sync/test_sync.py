"""Syncing: what arrives, what is not fetched twice, and what `current` does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from kiosk.errors import (
    CorruptError,
    ExpiredError,
    NetworkError,
    NotFoundError,
    UsageError,
    VerificationError,
)
from kiosk.files import sha256
from kiosk.model.names import parse_ref
from kiosk.sync import HostCache, sync
from tests.attacks.mutable import Attacker, expire
from tests.simulators.published import Kiosk, behind, ready


class Handler(SimpleHTTPRequestHandler):
    """A plain web server that writes down what it was asked for; what `spoil` says, it does to an answer once."""

    asked: ClassVar[list[tuple[str, str | None]]] = []
    endless = ""
    status = 0

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Cache-Control")))
        if self.status:
            self.send_error(self.status)
        elif self.endless and self.path.endswith(self.endless):
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"{" * 65536)
            except OSError:
                return
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def web(folder: Path) -> Iterator[tuple[str, type[Handler]]]:
    """Serves a folder on loopback."""
    handler = type("Fresh", (Handler,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()


def test_all_that_is_offered_arrives_and_is_current(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    done = kiosk.sync()
    assert [(r.name, r.version, r.state) for r in done.results] == [
        ("worker", "1", "fetched"),
        ("site/a/base", "1", "fetched"),
    ]
    host = kiosk.hypervisor.host
    built = kiosk.settings.images
    assert sorted(p.name for p in (host / "images/worker/current").iterdir() if p.name[0] != ".") == [
        "disk.raw",
        "initrd",
        "manifest.json",
        "vmlinuz",
    ]
    for file in ("disk.raw", "initrd", "vmlinuz"):
        assert sha256(host / "images/worker/current" / file) == sha256(built / "worker/1" / file)
    layer = host / "layers/site/a/base/current/layer.squashfs"
    assert sha256(layer) == sha256(built / "site/a/base/1/layer.squashfs")


def test_over_http_only_the_difference_moves(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    with web(kiosk.settings.repository) as (url, server):
        first = kiosk.sync(url=url)
        kiosk.image(version="2")
        server.asked.clear()
        second = kiosk.sync(url=url)
        objects = [path for path, _ in server.asked if path.startswith("/objects/")]
        server.asked.clear()
        third = kiosk.sync(url=url)
        asked = server.asked.copy()
    assert first.results[0].moved > 2_000_000
    assert second.results[0].moved < 400_000 < 2_000_000 < second.results[0].reused
    assert second.results[0].requests == len(objects) < 10
    assert sum(r.moved for r in third.results) == 0
    assert asked == [("/metadata/2.root.json", "no-cache"), ("/metadata/timestamp.json", "no-cache")]


def test_the_root_of_trust_is_given_once(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    with pytest.raises(UsageError, match="root of trust"):
        sync(kiosk.hypervisor)
    kiosk.sync()
    assert sync(kiosk.hypervisor).failure is None


@pytest.mark.parametrize(
    "root", [b"", b"{}", b"not JSON", b'{"signatures": [], "signed": {"_type": "root"}}']
)
def test_a_root_of_trust_that_is_none_is_refused(root: bytes, tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    with pytest.raises(VerificationError, match="not valid root metadata"):
        sync(kiosk.hypervisor, root=root)
    assert kiosk.sync().failure is None


def test_current_never_goes_back(tmp_path: Path) -> None:
    kiosk = behind(tmp_path)
    kiosk.sync()
    cache = HostCache(kiosk.hypervisor.host)
    pinned = kiosk.sync("worker@1")
    assert pinned.results[0].state == "current"
    assert str(cache.current(parse_ref("worker"))) == "2"


def test_a_pinned_older_version_is_fetched_and_does_not_become_current(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    kiosk.image(version="2")
    kiosk.sync("worker")
    cache = HostCache(kiosk.hypervisor.host)
    assert [str(v) for v in cache.versions(parse_ref("worker"))] == ["2"]
    assert kiosk.sync("worker@1").results[0].state == "fetched"
    assert [str(v) for v in cache.versions(parse_ref("worker"))] == ["1", "2"]
    assert str(cache.current(parse_ref("worker"))) == "2"


def test_a_withdrawn_version_leaves_current_alone_and_says_so(tmp_path: Path) -> None:
    kiosk = behind(tmp_path)
    kiosk.sync()
    attacker = Attacker(kiosk)  # here: the endorsers themselves

    def withdraw(images: object) -> None:
        images.version += 1  # type: ignore[attr-defined]
        del images.targets["images/worker/2.json"]  # type: ignore[attr-defined]

    number = int(attacker.newest("images").name.split(".")[0]) + 1
    attacker.edit("images", ["images"], withdraw, file=kiosk.metadata / f"{number}.images.json")
    attacker.chain("images")
    done = kiosk.sync("worker")
    assert "worker@1, and worker@2 is current here" in str(done.failure)
    assert kiosk.held()["images/worker/current"] == "2"


def test_expired_metadata_is_fail_static(tmp_path: Path) -> None:
    kiosk = behind(tmp_path)
    before = kiosk.held()
    Attacker(kiosk).edit("timestamp", ["timestamp"], expire)
    with pytest.raises(ExpiredError, match="timestamp has expired") as caught:
        kiosk.sync()
    assert caught.value.exit_code == 5
    assert "What is current on this host stays" in str(caught.value)
    assert kiosk.held() == before


def test_a_dry_run_fetches_nothing(tmp_path: Path) -> None:
    kiosk = behind(tmp_path)
    before = kiosk.held()
    done = kiosk.sync("worker", dry_run=True)
    assert (done.results[0].version, done.results[0].state) == ("2", "would fetch")
    assert kiosk.held() == before


def test_a_damaged_file_is_found_and_fetched_again(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    kiosk.sync()
    cache = HostCache(kiosk.hypervisor.host)
    disk = kiosk.hypervisor.host / "images/worker/1/disk.raw"
    Attacker(kiosk).flip(disk, at=5000)
    with pytest.raises(CorruptError, match=r"disk\.raw"):
        cache.check(cache.installed()[0])
    disk.unlink()
    assert kiosk.sync("worker").results[0].state == "fetched"
    cache.check(cache.installed()[0])
    assert str(cache.current(parse_ref("worker"))) == "1"


def test_what_is_not_offered_is_not_found(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    for name, says in (
        ("nothing", "not in the repository"),
        ("worker@7", "Versions: 1"),
        ("site/z/x", "not in"),
    ):
        done = kiosk.sync(name)
        assert type(done.failure) is NotFoundError
        assert says in str(done.failure)


@pytest.mark.parametrize("file", ["timestamp.json", "snapshot.json", "images.json", ".2.json"])
def test_a_server_that_never_stops_sending_is_cut_off(file: str, tmp_path: Path) -> None:
    kiosk: Kiosk = behind(tmp_path)
    before = kiosk.held()
    with web(kiosk.settings.repository) as (url, server):
        server.endless = file
        with pytest.raises(CorruptError, match="longer than"):
            raise kiosk.sync("worker", url=url).failure or AssertionError("not noticed")
    assert kiosk.held() == before


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_server_that_only_answers_errors(status: int, tmp_path: Path) -> None:
    kiosk = behind(tmp_path)
    with web(kiosk.settings.repository) as (url, server):
        server.status = status
        with pytest.raises(NetworkError, match=str(status)):
            kiosk.sync(url=url)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    kiosk = behind(tmp_path)
    with web(tmp_path) as (url, _):
        pass
    with pytest.raises(NetworkError, match="can't be reached: Connection refused"):
        kiosk.sync(url=url)
