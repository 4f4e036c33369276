"""A guest that fetches the signed metadata itself: from a real web server, through a real Squid, and from servers
that mean it no good."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadError, DownloadHTTPError, DownloadLengthMismatchError

from contextualize.context import Repository
from contextualize.fetch import Remote
from kiosk.serve import squid
from tests.contextualize.guest import Guest

Squashfs = Callable[[dict[str, str]], bytes]
LAYER = "experiment/demo/software"


@dataclass
class Web:
    """A web server on a folder. `instead` answers for a path in its own way."""

    folder: Path
    url: str = ""
    asked: list[str] = field(default_factory=list)
    instead: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        if request.path in self.instead:
            self.instead[request.path](request)
            return
        file = self.folder / request.path.lstrip("/")
        if not file.is_file():
            request.send_error(404)
            return
        data = file.read_bytes()
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    site = Web(tmp_path / "web")
    site.folder.mkdir()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                site.answer(self)
            except OSError:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries go on for half a second here, and not for minutes."""
    short = {"patience": 0.5, "file": 0.3, "pause": 0.02}
    monkeypatch.setattr(Remote.__init__, "__kwdefaults__", short)


@pytest.fixture
def remote(guest: Guest, squashfs: Squashfs, web: Web) -> Guest:
    """A guest with one layer and no metadata on its context disk, whose repository is on the web."""
    guest.add_layer(LAYER, squashfs({"share/version": "4.2\n"}))
    guest.context["repository"] = {"url": f"{web.url}/repository"}
    return guest


def published(guest: Guest, web: Web) -> Guest:
    """Signs the repository and moves it from the context disk to the web."""
    guest.sign()
    shutil.copytree(guest.disk / "kiosk", web.folder / "repository", dirs_exist_ok=True)
    shutil.rmtree(guest.disk / "kiosk")
    return guest


def test_metadata_and_manifests_are_fetched(remote: Guest, web: Web) -> None:
    assert published(remote, web).boot(signed=True) == 0
    assert "/repository/metadata/timestamp.json" in web.asked
    assert any(path.startswith(f"/repository/targets/layers/{LAYER}/") for path in web.asked)


def test_through_the_sites_squid(remote: Guest, web: Web) -> None:
    with tempfile.TemporaryDirectory(prefix="kiosk-") as home:
        folder = Path(home)
        folder.chmod(0o755)  # Squid gives up root
        with squid.running(folder, port=squid.free_port(), kiosk=web.url, cache_mb=16) as proxy:
            remote.context["repository"]["proxy"] = proxy
            assert published(remote, web).boot(signed=True) == 0
        log = (folder / "access.log").read_text()
    asked = [url for line in log.splitlines() if (url := line.split()[6]).startswith("http")]
    assert asked == [f"{web.url}{path}" for path in web.asked]
    assert f"{web.url}/repository/metadata/timestamp.json" in asked


def test_the_environment_does_not_choose_the_proxy(
    remote: Guest, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setitem(os.environ, name, "http://127.0.0.1:9")
    assert published(remote, web).boot(signed=True) == 0


def test_without_metadata_and_without_a_repository_there_is_no_machine(guest: Guest) -> None:
    guest.sign()
    shutil.rmtree(guest.disk / "kiosk")
    assert guest.boot(signed=True) == 1
    assert "brought no signed metadata, and names no repository" in guest.refused()


def test_what_was_handed_over_is_used_and_nothing_is_fetched(remote: Guest, web: Web) -> None:
    assert remote.boot() == 0
    assert web.asked == []


def test_a_server_that_does_not_answer_ends_the_boot_in_time(remote: Guest, web: Web) -> None:
    published(remote, web)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        remote.context["repository"]["url"] = f"http://127.0.0.1:{unused.getsockname()[1]}"
        (remote.disk / "user-data").write_text(json.dumps(remote.context))
        assert remote.boot(signed=True) == 1
    assert "Connection refused (for 0 s)" in remote.refused()


def test_a_server_that_comes_up_late_is_waited_for(remote: Guest, web: Web) -> None:
    failures = iter(range(3))

    def busy(request: BaseHTTPRequestHandler) -> None:
        if next(failures, None) is None:
            del web.instead[request.path]
            web.answer(request)
        else:
            request.send_error(503)

    web.instead["/repository/metadata/timestamp.json"] = busy
    assert published(remote, web).boot(signed=True) == 0
    assert web.asked.count("/repository/metadata/timestamp.json") == 5


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "images", "experiment-demo"])
def test_expired_metadata(remote: Guest, web: Web, role: str) -> None:
    remote.repository.expires[role] = -0.1
    assert published(remote, web).boot(signed=True) == 1
    assert "ExpiredMetadataError" in remote.refused()


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "images", "experiment-demo"])
def test_the_wrong_roles_key(remote: Guest, web: Web, role: str) -> None:
    remote.repository.signed_by[role] = "site-example"
    assert published(remote, web).boot(signed=True) == 1
    assert "UnsignedMetadataError" in remote.refused()


def test_a_root_that_is_put_back_to_an_older_one(remote: Guest, web: Web) -> None:
    old = remote.repository.root()
    remote.repository.keys["timestamp"] = CryptoSigner.generate_ed25519()
    remote.write("/usr/lib/kiosk/root.json", remote.repository.root(version=2))
    published(remote, web)
    (web.folder / "repository/metadata/3.root.json").write_bytes(old)
    assert remote.boot(signed=True) == 1
    assert "root version" in remote.refused()


def test_the_keys_of_an_older_root_sign_nothing_any_more(remote: Guest, web: Web) -> None:
    published(remote, web)
    remote.repository.keys["timestamp"] = CryptoSigner.generate_ed25519()
    remote.write("/usr/lib/kiosk/root.json", remote.repository.root(version=2))
    assert remote.boot(signed=True) == 1
    assert "UnsignedMetadataError" in remote.refused()


def endless(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(b" " * 65536)


def test_data_without_end(remote: Guest, web: Web) -> None:
    web.instead["/repository/metadata/timestamp.json"] = endless
    assert published(remote, web).boot(signed=True) == 1
    assert "DownloadLengthMismatchError" in remote.refused()


def ask(web: Web, path: str = "/x", most: int = 1000) -> bytes:
    return Remote(Repository(web.url)).download_bytes(f"{web.url}{path}", most)


def dripping_headers(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
    while True:
        request.wfile.write(b"x")
        time.sleep(0.01)


def dripping_body(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(b"x")
        time.sleep(0.01)


@pytest.mark.parametrize("drip", [dripping_headers, dripping_body])
def test_bytes_that_come_one_by_one_end_too(web: Web, drip: Callable[[BaseHTTPRequestHandler], None]) -> None:
    web.instead["/x"] = drip
    begin = time.monotonic()
    with pytest.raises(DownloadError, match="not done within"):
        ask(web, most=1 << 20)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("proxied", [True, False])
def test_an_answer_to_connect_and_a_handshake_that_come_byte_by_byte_end_too(proxied: bool) -> None:
    begins = b"HTTP/1.0 200 OK\r\nX: " if proxied else b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc"
    taken = []

    def drip() -> None:
        with contextlib.suppress(OSError):
            while True:
                taken.append(server.accept()[0])
                threading.Thread(target=drip_on, args=(taken[-1],), daemon=True).start()

    def drip_on(one: socket.socket) -> None:
        with contextlib.suppress(OSError):
            one.sendall(begins)
            while True:
                one.sendall(b"x")
                time.sleep(0.01)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=drip, daemon=True).start()
        here = f"127.0.0.1:{server.getsockname()[1]}"
        repository = (
            Repository("https://192.0.2.1", f"http://{here}") if proxied else Repository(f"https://{here}")
        )
        begin = time.monotonic()
        with pytest.raises(DownloadError, match="not done within"):
            Remote(repository, patience=0.5, file=0.3, pause=0.05).download_bytes(f"{repository.url}/x", 10)
        assert time.monotonic() - begin < 5
        server.shutdown(socket.SHUT_RDWR)
    for one in taken:
        one.close()
    assert taken


def test_a_file_that_is_cut_off_is_asked_for_again(web: Web) -> None:
    tries = []

    def cut(request: BaseHTTPRequestHandler) -> None:
        tries.append(1)
        request.send_response(200)
        request.send_header("Content-Length", "6")
        request.end_headers()
        request.wfile.write(b"whole!" if len(tries) == 3 else b"who")

    web.instead["/x"] = cut
    assert ask(web) == b"whole!"


def redirect(to: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", to)
        request.end_headers()

    return answer


def test_redirects_stay_on_the_host(web: Web) -> None:
    (web.folder / "y").write_bytes(b"here")
    web.instead["/x"] = redirect(f"{web.url}/y")
    assert ask(web) == b"here"
    port = squid.free_port()
    for elsewhere in (f"http://127.0.0.1:{port}/y", "http://169.254.169.254/y", "file:///etc/passwd"):
        web.instead["/x"] = redirect(elsewhere)
        with pytest.raises(DownloadError):
            ask(web)


def test_redirects_in_a_circle_end(web: Web) -> None:
    web.instead["/x"] = redirect("/x")
    with pytest.raises(DownloadHTTPError):
        ask(web)
    assert len(web.asked) < 20


def test_what_is_not_there_is_said_at_once(web: Web) -> None:
    with pytest.raises(DownloadHTTPError) as refused:
        ask(web, "/gone")
    assert refused.value.status_code == 404
    assert web.asked == ["/gone"]


def test_a_file_of_another_host_is_not_asked_for(web: Web) -> None:
    with pytest.raises(DownloadError, match="not of the repository"):
        Remote(Repository("http://192.0.2.1")).download_bytes(f"{web.url}/x", 10)
    assert web.asked == []


def test_too_large_is_said_at_once(web: Web) -> None:
    (web.folder / "x").write_bytes(b"x" * 1001)
    with pytest.raises(DownloadLengthMismatchError):
        ask(web)
    assert web.asked == ["/x"]
