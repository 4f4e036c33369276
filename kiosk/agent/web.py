"""Small HTTP calls with the standard library alone: the daemon's polls, reports, leases, and its event stream.

Every call is bounded in time and in bytes, whatever the other side does. Whatever goes wrong is a WebError.
Like everywhere in kiosk, proxies of the environment are not used.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from kiosk.errors import KioskError
from kiosk.tls import context, fault

CONNECT = 10.0
WHOLE = 30.0
"""Seconds for a whole call."""
SILENCE = 70.0
"""Seconds without a byte after which an event stream is taken for dead: comments come every 25."""
LARGEST = 1 << 20


class WebError(Exception):
    """A call that got no answer."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Web:
    """One server, reached directly or through an HTTP proxy."""

    def __init__(self, url: str, proxy: str | None = None, ca: str | None = None) -> None:
        at = urlsplit(url)
        self.url = url.rstrip("/")
        self.path = at.path.rstrip("/")
        self._tls = at.scheme == "https"
        self._host = at.hostname or ""
        self._port = at.port or (443 if self._tls else 80)
        self._proxy = proxy
        self._ca = ca
        self._context: ssl.SSLContext | None = None

    def call(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request and its answer."""
        with self._open(method, path, body, headers or {}, WHOLE) as (answer, until):
            parts: list[bytes] = []
            size = 0
            while part := answer.read1(1 << 16):
                parts.append(part)
                size += len(part)
                if size > LARGEST or time.monotonic() > until:
                    raise WebError("the answer is too long, or comes too slowly")
            if answer.length or time.monotonic() > until:  # cut, perhaps by ourselves
                raise WebError("the answer was cut")
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, b"".join(parts))

    def stream(self, path: str, headers: Mapping[str, str]) -> Iterator[bytes]:
        """The bytes of an answer without an end, as they come. WebError when it is not 200, and when it breaks."""
        with self._open("GET", path, None, headers, None) as (answer, _):
            if answer.status != 200:
                raise WebError(f"the server answered {answer.status}")
            yield b""
            while part := answer.read1(1 << 14):
                yield part

    @contextlib.contextmanager
    def _open(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        seconds: float | None,
    ) -> Iterator[tuple[http.client.HTTPResponse, float]]:
        try:
            connection, target = self._connection(path)
        except KioskError as e:
            raise WebError(str(e)) from None
        until = time.monotonic() + (seconds or 0)
        timer: threading.Timer | None = None
        try:
            connection.connect()
            if connection.sock is not None:
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                if seconds is None:
                    connection.sock.settimeout(SILENCE)
                else:
                    timer = threading.Timer(seconds, _cut, (connection.sock,))
                    timer.daemon = True
                    timer.start()
            whole = {"User-Agent": "kiosk", "Accept-Encoding": "identity", **headers}
            connection.request(method, target, body=body, headers=whole)
            yield connection.getresponse(), until
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise WebError(fault(e) or str(e) or type(e).__name__) from None
        finally:
            if timer is not None:
                timer.cancel()
            connection.close()

    def _connection(self, path: str) -> tuple[http.client.HTTPConnection, str]:
        target = self.path + path
        if self._proxy is None:
            return self._to(self._host, self._port, tls=self._tls), target
        at = urlsplit(self._proxy if "://" in self._proxy else f"http://{self._proxy}")
        made = self._to(at.hostname or "", at.port or 3128, tls=self._tls)
        if self._tls:
            made.set_tunnel(self._host, self._port)
            return made, target
        return made, self.url + path

    def _to(self, host: str, port: int, *, tls: bool) -> http.client.HTTPConnection:
        if not tls:
            return http.client.HTTPConnection(host, port, timeout=CONNECT)
        if self._context is None:
            self._context = context(self._ca)
        return http.client.HTTPSConnection(host, port, timeout=CONNECT, context=self._context)


def _cut(sock: socket.socket) -> None:
    """Ends a call that takes too long, from another thread."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
