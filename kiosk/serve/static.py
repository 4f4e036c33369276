"""A plain web server for a repository: GET and HEAD of the files below metadata/, targets/ and objects/.

Small sites and the demo serve with it; a large kiosk puts nginx in its place. It guarantees:

* only files of a repository's shape are given: no listings, no hidden files, nothing through `..` or a link;
* what is named by a digest or a number never changes and is cacheable for ever; timestamp.json, the one
  file that changes, is revalidated by its ETag; what is missing now is not remembered as missing;
* a silent client is dropped, and a fixed number is served at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import threading
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

from kiosk.log import logger

log = logger(__name__)

CLIENTS = 128
SILENCE = 60
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}"
SERVED = re.compile(
    rf"/(?:metadata/{NAME}\.json|targets/(?:{NAME}/){{1,8}}{NAME}|objects/[0-9a-f]{{2}}/[0-9a-f]{{64}})"
)
CHANGES = re.compile(r"/metadata/[^0-9][^/]*")
FOREVER = "public, max-age=31536000, immutable"


class Server(ThreadingHTTPServer):
    """Serves the repository `root`; `clients` connections at a time."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], root: Path, *, clients: int = CLIENTS) -> None:
        self.root = root.resolve()
        self._free = threading.BoundedSemaphore(clients)
        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Waits for a free place, then answers in a thread."""
        self._free.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers, then gives the place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is not worth a traceback."""
        log.info("a request from %s ended early", client_address, exc_info=True)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "kiosk"
    sys_version = ""
    timeout = SILENCE
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Gives a file."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """Gives a file's headers."""
        self._answer(body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """One line a request, for --verbose."""
        log.info("%s %s", self.address_string(), format % args)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        f = _open(self.server.root, path) if SERVED.fullmatch(path) else None
        if f is None:
            self._nothing(HTTPStatus.NOT_FOUND)
            return
        with f:
            state = os.fstat(f.fileno())
            tag = _tag(path, f)
            unchanged = tag in re.findall(r'"[^"]*"', self.headers.get("If-None-Match", ""))
            self.send_response(HTTPStatus.NOT_MODIFIED if unchanged else HTTPStatus.OK)
            self.send_header("ETag", tag)
            self.send_header("Last-Modified", formatdate(state.st_mtime, usegmt=True))
            self.send_header("Cache-Control", "no-cache" if CHANGES.fullmatch(path) else FOREVER)
            if not unchanged:
                kind = "application/json" if path.endswith(".json") else "application/octet-stream"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(state.st_size))
            self.end_headers()
            if body and not unchanged and state.st_size:
                self._send(f, state.st_size)

    def _send(self, f: BinaryIO, size: int) -> None:
        f.seek(0)
        if self.connection.sendfile(f, 0, size) != size:
            self.close_connection = True

    def _nothing(self, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Length", "0")
        self.end_headers()


def _open(root: Path, path: str) -> BinaryIO | None:
    """The file of a path that has a repository's shape; None when it is not there or a link leads to it."""
    full = root / path[1:]
    with contextlib.suppress(OSError):
        if full.resolve(strict=True) == full and full.is_file():
            return full.open("rb")
    return None


def _tag(path: str, f: BinaryIO) -> str:
    """A file's ETag: an object's name is its digest already, the others are small."""
    if path.startswith("/objects/"):
        return f'"{path[-64:]}"'
    return f'"{hashlib.file_digest(f, "sha256").hexdigest()}"'  # type: ignore[arg-type]


def serve(root: Path, host: str, port: int) -> Server:
    """A server that is bound and listens; `serve_forever` runs it. Port 0 takes a free one."""
    Server.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return Server((host, port), root)
