"""The plain web server gives the repository's files and nothing else, with headers that caches understand."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiosk.errors import UsageError
from kiosk.serve import static

HASH = "ab" + "0" * 62


@pytest.fixture
def server(tmp_path: Path) -> Iterator[static.Server]:
    root = tmp_path / "repository"
    for name, text in {
        "metadata/timestamp.json": "{}",
        "metadata/3.root.json": "{}",
        f"targets/images/worker/{HASH}.1.json": "{}",
        f"objects/ab/{HASH}": "object",
        "metadata/.hidden.json": "secret",
        "keys/targets.json": "secret",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "secret.json").write_text("secret")
    (root / "metadata" / "link.json").symlink_to(tmp_path / "secret.json")
    (root / "targets" / "linked").symlink_to(tmp_path)
    with static.serve(root, "127.0.0.1", 0) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield running
        running.shutdown()


def ask(server: static.Server, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    line = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    line.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    answer = line.getresponse()
    answer.body = answer.read()  # type: ignore[attr-defined]
    line.close()
    return answer


@pytest.mark.parametrize(
    ("path", "caching"),
    [
        ("/metadata/timestamp.json", "no-cache"),
        ("/metadata/3.root.json", "public, max-age=31536000, immutable"),
        (f"/targets/images/worker/{HASH}.1.json", "public, max-age=31536000, immutable"),
        (f"/objects/ab/{HASH}", "public, max-age=31536000, immutable"),
    ],
)
def test_a_file_comes_with_its_headers(server: static.Server, path: str, caching: str) -> None:
    answer = ask(server, path)
    assert (answer.status, answer.headers["Cache-Control"]) == (200, caching)
    assert answer.body == (server.root / path[1:]).read_bytes()  # type: ignore[attr-defined]
    tag = answer.headers["ETag"]
    again = ask(server, path, If_None_Match=f'"x", {tag}')
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)  # type: ignore[attr-defined]
    head = ask(server, path, "HEAD")
    assert (head.status, head.body) == (200, b"")  # type: ignore[attr-defined]
    assert head.headers["Content-Length"] == str((server.root / path[1:]).stat().st_size)
    assert head.headers["Last-Modified"].endswith("GMT")


def test_a_changed_timestamp_has_another_tag(server: static.Server) -> None:
    tag = ask(server, "/metadata/timestamp.json").headers["ETag"]
    (server.root / "metadata" / "timestamp.json").write_text("[]")
    assert ask(server, "/metadata/timestamp.json", If_None_Match=tag).status == 200


FORBIDDEN = [
    "/",
    "/metadata/",
    "/metadata",
    "/metadata/.hidden.json",
    "/metadata/link.json",
    "/targets/linked/secret.json",
    "/keys/targets.json",
    "/metadata/../keys/targets.json",
    "/metadata/..%2fkeys%2ftargets.json",
    "/metadata/%2e%2e/keys/targets.json",
    "/../secret.json",
    "//etc/passwd",
    "/targets/../../secret.json",
    "/objects/ab/../../metadata/3.root.json",
    f"/objects/ab/{HASH}/",
    f"/objects/AB/{HASH}",
    "/metadata/3.root.json\0.json",
    "/metadata/" + "a" * 5000 + ".json",
    "/metadata/missing.json",
    "http://other/metadata/3.root.json",
]


@pytest.mark.parametrize("path", FORBIDDEN)
def test_nothing_else_is_given(server: static.Server, path: str) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as line:
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode("latin-1"))
        answer = b""
        while part := line.recv(65536):
            answer += part
    assert answer.split(b" ")[1] in (b"404", b"400")
    assert b"secret" not in answer
    assert b"Cache-Control: no-store" in answer or b"400" in answer


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_only_reading_is_understood(server: static.Server, method: str) -> None:
    assert ask(server, "/metadata/3.root.json", method).status == 501


def test_no_more_clients_than_places(tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "1.root.json").write_text("{}")
    with static.Server(("127.0.0.1", 0), tmp_path, clients=2) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        idle = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(2)]
        third = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=0.5)
        third.request("GET", "/metadata/1.root.json")
        with pytest.raises(TimeoutError):
            third.getresponse()
        for line in idle:
            line.close()
        fourth = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        fourth.request("GET", "/metadata/1.root.json")
        assert fourth.getresponse().status == 200
        third.close()
        fourth.close()
        server.shutdown()


def test_an_address_to_listen_on_is_read_strictly() -> None:
    from kiosk.cli.serve import address

    assert address("0.0.0.0:80") == ("0.0.0.0", 80)
    assert address("[::1]:8080") == ("::1", 8080)
    for bad in ("8080", ":80", "host:", "host:http", "host:99999", ""):
        with pytest.raises(UsageError):
            address(bad)
