"""The plain web server gives the repository's files and nothing else, with headers that caches understand."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiosk.errors import UsageError
from kiosk.serve import listen, static
from kiosk.serve.listen import Server
from tests.serve.fleet import until

HASH = "ab" + "0" * 62


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
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
    with static.serve(root, "127.0.0.1", 0) as running, running.running():
        yield running


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
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
def test_a_file_comes_with_its_headers(server: Server, path: str, caching: str) -> None:
    answer = ask(server, path)
    assert (answer.status, answer.headers["Cache-Control"]) == (200, caching)
    assert answer.body == (server.app.root / path[1:]).read_bytes()  # type: ignore[attr-defined]
    tag = answer.headers["ETag"]
    again = ask(server, path, If_None_Match=f'"x", {tag}')
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)  # type: ignore[attr-defined]
    head = ask(server, path, "HEAD")
    assert (head.status, head.body) == (200, b"")  # type: ignore[attr-defined]
    assert head.headers["Content-Length"] == str((server.app.root / path[1:]).stat().st_size)
    assert head.headers["Last-Modified"].endswith("GMT")


def test_a_changed_timestamp_has_another_tag(server: Server) -> None:
    tag = ask(server, "/metadata/timestamp.json").headers["ETag"]
    (server.app.root / "metadata" / "timestamp.json").write_text("[]")
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
]


@pytest.mark.parametrize("path", FORBIDDEN)
def test_nothing_else_is_given(server: Server, path: str) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as line:
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode("latin-1"))
        answer = b""
        while part := line.recv(65536):
            answer += part
    assert answer.split(b" ")[1] in (b"404", b"400")
    assert b"secret" not in answer
    assert b"cache-control: no-store" in answer.lower() or b"400" in answer


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_only_reading_is_understood(server: Server, method: str) -> None:
    assert ask(server, "/metadata/3.root.json", method).status == 405


def test_a_range_of_an_object_is_given(server: Server) -> None:
    path = f"/objects/ab/{HASH}"  # it holds b"object"
    for wanted, body, said in [
        ("bytes=0-2", b"obj", "bytes 0-2/6"),
        ("bytes=3-", b"ect", "bytes 3-5/6"),
        ("bytes=3-99", b"ect", "bytes 3-5/6"),
        ("bytes=-2", b"ct", "bytes 4-5/6"),
        ("bytes=-99", b"object", "bytes 0-5/6"),
    ]:
        answer = ask(server, path, Range=wanted)
        assert (answer.status, answer.body) == (206, body)  # type: ignore[attr-defined]
        assert answer.headers["Content-Range"] == said
        assert answer.headers["ETag"] == f'"{HASH}"'
        assert "immutable" in answer.headers["Cache-Control"]
    past = ask(server, path, Range="bytes=6-")
    assert (past.status, past.headers["Content-Range"]) == (416, "bytes */6")


@pytest.mark.parametrize(
    "wanted", ["bytes=0-1,3-4", "bytes=4-2", "bytes=-", "lines=1-2", "bytes=0-" + "9" * 50]
)
def test_what_is_no_single_range_gives_everything(server: Server, wanted: str) -> None:
    answer = ask(server, f"/objects/ab/{HASH}", Range=wanted)
    assert (answer.status, answer.body) == (200, b"object")  # type: ignore[attr-defined]


def test_a_range_of_other_bytes_than_the_reader_knows_gives_everything(server: Server) -> None:
    path = f"/objects/ab/{HASH}"
    assert ask(server, path, Range="bytes=0-1", If_Range='"other"').status == 200
    assert ask(server, path, Range="bytes=0-1", If_Range=f'"{HASH}"').status == 206
    assert ask(server, "/metadata/timestamp.json", Range="bytes=0-0").status == 200


def test_a_large_object_comes_whole_and_the_bytes_are_counted(server: Server) -> None:
    data = os.urandom(3_000_001)
    name = hashlib.sha256(data).hexdigest()
    (server.app.root / "objects" / name[:2]).mkdir(exist_ok=True)
    (server.app.root / "objects" / name[:2] / name).write_bytes(data)
    assert ask(server, f"/objects/{name[:2]}/{name}").body == data  # type: ignore[attr-defined]
    assert server.app.sent == len(data)


def test_no_more_clients_than_places(tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "1.root.json").write_text("{}")
    with Server(static.Files(tmp_path), ("127.0.0.1", 0), connections=3) as server, server.running():
        lines = [http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10) for _ in range(4)]
        answers = []
        for line in lines[:3]:
            line.request("GET", "/metadata/1.root.json")
            answer = line.getresponse()
            answer.read()
            answers.append(answer.status)
        assert answers == [200, 200, 503]
        for line in lines[:3]:
            line.close()
        until(lambda: ask(server, "/metadata/1.root.json").status == 200)


@pytest.mark.parametrize("said", [b"", b"GET /metadata/1.root.json HTTP/1.1\r\nHost: "])
def test_a_client_that_says_nothing_is_dropped(
    said: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "SILENCE", 0.2)
    with (
        static.serve(tmp_path, "127.0.0.1", 0) as server,
        server.running(),
        socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as line,
    ):
        line.sendall(said)
        with contextlib.suppress(ConnectionResetError):
            assert line.recv(100) == b""


def test_a_client_that_takes_nothing_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "SILENCE", 0.3)
    path = tmp_path / "objects/ab" / HASH
    path.parent.mkdir(parents=True)
    with path.open("wb") as f:
        f.truncate(1 << 30)
    with static.serve(tmp_path, "127.0.0.1", 0) as server, server.running():
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as line:
            line.sendall(f"GET /objects/ab/{HASH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            until(lambda: not server.connections)
        assert server.app.sent < 1 << 30


def test_a_head_without_an_end_is_dropped(tmp_path: Path) -> None:
    with (
        static.serve(tmp_path, "127.0.0.1", 0) as server,
        server.running(),
        socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as line,
    ):
        line.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(OSError):
            for number in range(10_000):
                line.sendall(f"X-{number}: {'a' * 1000}\r\n".encode())


def test_an_address_to_listen_on_is_read_strictly() -> None:
    from kiosk.cli.serve import address

    assert address("0.0.0.0:80") == ("0.0.0.0", 80)
    assert address("[::1]:8080") == ("::1", 8080)
    for bad in ("8080", ":80", "host:", "host:http", "host:99999", ""):
        with pytest.raises(UsageError):
            address(bad)
