"""A metadata service as EC2 has it, in its second version, for one machine. Not for use by hand.

    python -m kiosk.cloud.metadata SOCKET FOLDER

A token is asked for with PUT and a time to live, and without a valid one every answer is 401; what came through a
proxy (X-Forwarded-For) gets 403. It serves one stream, over which QEMU sends what the guest sends to the service's
address, and ends with it. A guest that sends garbage ends its own service. `FOLDER` has `user-data`,
`instance-id` and `local-hostname`, which only its owner can read.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import sys
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

TTL, TOKEN = "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token"
LONGEST = 21_600
MOST_TOKENS = 1000
CONNECT = 30.0
"""Seconds within which QEMU must have its end of the stream."""


class Service:
    """What is served: paths below /latest/ and their content; and the tokens that were given out."""

    def __init__(self, content: Mapping[str, bytes]) -> None:
        self.content = dict(content)
        self._tokens: dict[str, float] = {}

    def token(self, seconds: int) -> str:
        """A new token, good for so many seconds."""
        now = time.monotonic()
        self._tokens = {t: end for t, end in self._tokens.items() if end > now}
        if len(self._tokens) >= MOST_TOKENS:
            self._tokens.clear()
        token = secrets.token_urlsafe(32)
        self._tokens[token] = now + seconds
        return token

    def holds(self, token: str) -> bool:
        """Whether a token is one that was given out and is still good."""
        return self._tokens.get(token, 0.0) > time.monotonic()


class Handler(BaseHTTPRequestHandler):
    """One connection. The class is made anew for each service (see `handler`)."""

    protocol_version = "HTTP/1.1"
    service: Service

    def do_PUT(self) -> None:
        seconds = self.headers.get(TTL, "")
        if self.headers.get("X-Forwarded-For") is not None:
            self._answer(403)
        elif self.path != "/latest/api/token":
            self._answer(404)
        elif not seconds.isascii() or not seconds.isdecimal() or not 1 <= int(seconds[:9]) <= LONGEST:
            self._answer(400)
        else:
            self._answer(200, self.service.token(int(seconds)).encode(), {TTL: seconds})

    def do_GET(self) -> None:
        if not self.service.holds(self.headers.get(TOKEN, "")):
            self._answer(401)
            return
        content = self.service.content.get(self.path.removeprefix("/latest/"))
        self._answer(404 if content is None else 200, content or b"")

    def _answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: what a guest sends is its own affair."""


def handler(service: Service) -> type[Handler]:
    """The handler of a service, as servers of the standard library take it."""
    return type("ServiceHandler", (Handler,), {"service": service})


class Stream(Handler):
    """The stream from QEMU: connections of the guest come one after the other on it, so no answer closes it."""

    raw_requestline = b""
    garbage = False

    def handle_one_request(self) -> None:
        super().handle_one_request()
        if self.raw_requestline and not self.garbage:
            self.close_connection = False

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What can't be understood ends the stream: nobody knows where the next request begins."""
        self.garbage = True
        super().send_error(code, message, explain)


def read(folder: Path) -> Service:
    """The service of a machine's folder."""
    names = {"user-data": "user-data", **{f"meta-data/{n}": n for n in ("instance-id", "local-hostname")}}
    return Service({path: (folder / name).read_bytes() for path, name in names.items()})


def main(path: Path, folder: Path) -> int:
    """Serves until the other end is gone; 1 where it never was there."""
    service = read(folder)
    end = time.monotonic() + CONNECT
    with socket.socket(socket.AF_UNIX) as stream:
        while True:
            try:
                stream.connect(str(path))
                break
            except OSError:
                if time.monotonic() > end:
                    return 1
                time.sleep(0.05)
        with contextlib.suppress(OSError):
            type("ServiceStream", (Stream,), {"service": service})(stream, ("guest", 0), None)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
