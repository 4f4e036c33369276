"""The metadata service: a real one by its second version, and all that a service can do wrong."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from contextualize.context import LIMIT, Instance
from contextualize.errors import Refused
from contextualize.sources import ec2
from contextualize.sources.find import unpacked
from contextualize.stages import context as stage
from kiosk.cloud.metadata import TOKEN, TTL, Service, handler
from tests.contextualize.guest import Guest

Serve = Callable[[type[BaseHTTPRequestHandler]], int]
INSTANCE = {"meta-data/instance-id": b"i-0123456789abcdef0"}


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves on a port of this machine while the test lasts."""
    with contextlib.ExitStack() as stack:

        def start(handler: type[BaseHTTPRequestHandler]) -> int:
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            stack.callback(server.shutdown)
            return int(server.server_address[1])

        yield start


def read(port: int, patience: float = 5) -> bytes:
    return ec2.read("127.0.0.1", port, patience).document


def answering(status: int, body: bytes = b"", **headers: str) -> type[BaseHTTPRequestHandler]:
    """A service that gives a token, and this answer to everything else."""

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            self.answer(200, b"token", {})

        def do_GET(self) -> None:
            self.answer(status, body, headers)

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Answering


def test_a_token_is_asked_for_and_then_the_document(serve: Serve) -> None:
    assert read(serve(handler(Service({"user-data": b"{}", **INSTANCE})))) == b"{}"


def test_the_service_knows_the_instance_and_where_it_can_its_name(serve: Serve) -> None:
    known = {"user-data": b"{}", **INSTANCE}
    named = Service({**known, "meta-data/local-hostname": b"ip-10-0-0-7.ec2.internal"})
    assert ec2.read("127.0.0.1", serve(handler(Service(known)))).instance == Instance(
        "ec2", "i-0123456789abcdef0"
    )
    assert ec2.read("127.0.0.1", serve(handler(named))).instance == Instance(
        "ec2", "i-0123456789abcdef0", "ip-10-0-0-7.ec2.internal"
    )


def test_the_document_may_be_packed(serve: Serve) -> None:
    packed = gzip.compress(b'{"a": 1}')
    assert unpacked(read(serve(handler(Service({"user-data": packed, **INSTANCE}))))) == b'{"a": 1}'


def test_an_instance_without_user_data_ends(serve: Serve) -> None:
    with pytest.raises(Refused, match="has no /latest/user-data: this instance was started without any"):
        read(serve(handler(Service(INSTANCE))))


def test_no_redirect_is_followed(serve: Serve) -> None:
    elsewhere = serve(handler(Service({"user-data": b"{}", **INSTANCE})))
    with pytest.raises(Refused, match="gave status 302"):
        read(serve(answering(302, Location=f"http://127.0.0.1:{elsewhere}/latest/user-data")))


def test_no_more_is_read_than_a_context_may_have(serve: Serve) -> None:
    big = Service({"user-data": b"x" * (LIMIT + 1), **INSTANCE})
    with pytest.raises(Refused, match=f"gave more than {LIMIT} bytes"):
        read(serve(handler(big)))


def test_a_service_of_the_first_version_alone_is_none(serve: Serve) -> None:
    class First(answering(200, b"{}")):  # type: ignore[misc]
        def do_PUT(self) -> None:
            self.answer(405, b"", {})

    with pytest.raises(Refused, match="gave status 405 for /latest/api/token"):
        read(serve(First))


def test_a_token_that_would_be_more_than_a_header_is_refused(serve: Serve) -> None:
    class Splitting(answering(200, b"{}")):  # type: ignore[misc]
        def do_PUT(self) -> None:
            self.answer(200, b"a\r\nX-More: 1", {})

    with pytest.raises(Refused, match="a token that is none"):
        read(serve(Splitting))


def test_a_busy_service_is_asked_again(serve: Serve) -> None:
    good, asked = handler(Service({"user-data": b"{}", **INSTANCE})), []

    class Busy(good):  # type: ignore[valid-type, misc]
        def do_PUT(self) -> None:
            asked.append(self.path)
            super()._answer(503) if len(asked) < 3 else super().do_PUT()

    assert read(serve(Busy)) == b"{}"
    assert len(asked) == 3


def test_a_network_that_does_not_come_up_is_waited_for_and_then_given_up() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(Refused, match="did not answer within 0 s: ConnectionRefusedError"):
            read(nobody.getsockname()[1], patience=0.3)


def test_a_service_that_drips_is_cut_off(serve: Serve) -> None:
    class Dripping(answering(200)):  # type: ignore[misc]
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"x")
                    time.sleep(0.05)

    start = time.monotonic()
    with pytest.raises(Refused, match="did not answer within 1 s"):
        read(serve(Dripping), patience=0.7)
    assert time.monotonic() - start < 3


# -- the service itself -----------------------------------------------------------------------------------


def ask(port: int, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    return response.status, response.read()


def test_the_service_answers_as_ec2_does(serve: Serve) -> None:
    port = serve(handler(Service({"user-data": b"{}", **INSTANCE})))
    assert ask(port, "GET", "/latest/user-data", {})[0] == 401
    assert ask(port, "GET", "/latest/user-data", {TOKEN: "guessed"})[0] == 401
    assert ask(port, "PUT", "/latest/api/token", {})[0] == 400
    for seconds in ("0", "21601", "-1", "1e3", "x"):
        assert ask(port, "PUT", "/latest/api/token", {TTL: seconds})[0] == 400
    assert ask(port, "PUT", "/latest/api/token", {TTL: "60", "X-Forwarded-For": "10.0.0.1"})[0] == 403
    status, token = ask(port, "PUT", "/latest/api/token", {TTL: "60"})
    assert status == 200
    held = {TOKEN: token.decode()}
    assert ask(port, "GET", "/latest/meta-data/instance-id", held) == (200, INSTANCE["meta-data/instance-id"])
    assert ask(port, "GET", "/latest/meta-data/iam", held)[0] == 404


def test_one_stream_carries_one_connection_of_the_guest_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "user-data").write_bytes(b"{}")
    (tmp_path / "instance-id").write_bytes(b"i-0")
    (tmp_path / "local-hostname").write_bytes(b"node-1")
    with socket.socket(socket.AF_UNIX) as qemu:
        qemu.bind(str(tmp_path / "sock"))
        qemu.listen()
        qemu.settimeout(20)
        argv = [sys.executable, "-m", "kiosk.cloud.metadata", str(tmp_path / "sock"), str(tmp_path)]
        with subprocess.Popen(argv) as process:
            stream = qemu.accept()[0]
            put = f"PUT /latest/api/token HTTP/1.1\r\n{TTL}: 60\r\nConnection: close\r\n\r\n"
            stream.sendall(put.encode())
            token = stream.recv(4096).decode().rpartition("\r\n\r\n")[2] or stream.recv(4096).decode()
            for _ in range(2):
                get = f"GET /latest/user-data HTTP/1.1\r\n{TOKEN}: {token}\r\nConnection: close\r\n\r\n"
                stream.sendall(get.encode())
                answer = b""
                while not answer.endswith(b"{}"):
                    answer += stream.recv(4096)
                assert answer.startswith(b"HTTP/1.1 200")
            stream.close()
            assert process.wait(10) == 0


# -- chosen -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["word", "firmware"])
def test_the_service_is_asked_where_the_kernels_word_or_the_firmware_says_so(
    guest: Guest, serve: Serve, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    document = json.dumps(guest.context).encode()
    port = serve(handler(Service({"user-data": document, **INSTANCE})))
    monkeypatch.setattr(ec2.read, "__defaults__", ("127.0.0.1", port, 5.0))
    if how == "word":
        guest.write("/proc/cmdline", b"root=/dev/mapper/root kiosk.context=ec2\n")
    else:
        (guest.root / "dev/disk/by-label/CIDATA").unlink()
        guest.write("/sys/class/dmi/id/sys_vendor", b"Amazon EC2\n")
    found = stage.run(guest.machine)
    assert (found.source, found.bundle) == ("ec2:http://127.0.0.1", None)
    assert found.context.node_name == "node-7.example.org"


def test_a_disk_is_used_before_the_service(guest: Guest) -> None:
    guest.write("/sys/class/dmi/id/sys_vendor", b"Amazon EC2\n")
    guest.sign()
    assert stage.run(guest.machine).source == "nocloud:/dev/disk/by-label/CIDATA"
