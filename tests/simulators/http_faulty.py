"""A web server that misbehaves to order: each request takes the next fault from a list, then all is well.

It serves a repository's objects over real sockets and remembers every request.
"""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Fault = Callable[[socket.socket, bytes], None]
"""Answers instead of the server: given the connection and the body that would have been right."""


def status(code: int) -> Fault:
    """An answer with this status and a page for people."""
    return lambda line, _: line.sendall(
        b"HTTP/1.1 %d Nope\r\nContent-Type: text/html\r\nContent-Length: 9\r\nConnection: close\r\n\r\n<p>no</p>"
        % code
    )


def answer(body: Callable[[bytes], bytes], length: Callable[[bytes], int] | None = None) -> Fault:
    """A 200 with another body, and perhaps another Content-Length than that body has."""

    def send(line: socket.socket, right: bytes) -> None:
        data = body(right)
        promised = length(right) if length else len(data)
        line.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (promised, data)
        )

    return send


def endless(line: socket.socket, _: bytes) -> None:
    """A 200 without a length whose body never ends."""
    line.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        line.sendall(bytes(1 << 16))


def trickle(line: socket.socket, right: bytes) -> None:
    """The right body, one byte at a time."""
    line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(right))
    for i in range(len(right)):
        line.sendall(right[i : i + 1])
        time.sleep(0.02)


def silent(line: socket.socket, _: bytes) -> None:
    """No answer for longer than anybody waits."""
    time.sleep(3)


def hang_up(line: socket.socket, _: bytes) -> None:
    """The connection is closed without an answer."""


HTML = answer(lambda _: b"<html><body>Please log in to the guest network</body></html>")
CUT = answer(lambda right: right[: len(right) // 2], len)
FLIPPED = answer(lambda right: right[:-1] + bytes([right[-1] ^ 1]))
SHORT = answer(lambda right: right[:-1])
LONG = answer(lambda right: right + b"x")
LYING_SHORT = answer(lambda right: right, lambda right: len(right) - 5)
LYING_HUGE = answer(lambda right: right, lambda right: 1 << 40)


class Faulty(socketserver.ThreadingTCPServer):
    """The server. `faults` are taken one a request; `requests` holds (path, headers) of all."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, repository: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repository = repository
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(socketserver.StreamRequestHandler):
    server: Faulty

    def handle(self) -> None:
        words = self.rfile.readline().decode("ascii", "replace").split()
        headers: dict[str, str] = {}
        while line := self.rfile.readline().decode("ascii", "replace").strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if len(words) != 3:
            return
        path = words[1].removeprefix(self.server.url)
        with self.server.lock:
            self.server.requests.append((path, headers))
            fault = self.server.faults.pop(0) if self.server.faults else None
        file = self.server.repository / path[1:]
        right = file.read_bytes() if file.is_file() else None
        try:
            if fault is not None:
                fault(self.connection, right or b"")
            elif right is None:
                status(404)(self.connection, b"")
            else:
                answer(lambda body: body if words[0] == "GET" else b"", len)(self.connection, right)
        except OSError:
            pass  # the client went away


@contextmanager
def faulty(repository: Path) -> Iterator[Faulty]:
    """A faulty server, running while the block lasts."""
    with Faulty(repository) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
