"""A repository's files for readers: GET and HEAD of what is below metadata/, targets/ and objects/.

Small sites and the demo serve with it; a large kiosk puts nginx in front. It guarantees:

* only files of a repository's shape are given: no listings, no hidden files, nothing through `..` or a link;
* what is named by a digest or a number never changes and is cacheable for ever; timestamp.json, the one
  file that changes, is revalidated by its ETag; what is missing now is not remembered as missing;
* one range of an object is given where one is asked for (206), all of it where several are.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Any

from kiosk.log import logger
from kiosk.serve.listen import Server

log = logger(__name__)

CHUNK = 256 << 10
THREADS = 32
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}"
SERVED = re.compile(
    rf"/(?:metadata/{NAME}\.json|targets/(?:{NAME}/){{1,8}}{NAME}|objects/[0-9a-f]{{2}}/[0-9a-f]{{64}})"
)
CHANGES = re.compile(r"/metadata/[^0-9][^/]*")
FOREVER = "public, max-age=31536000, immutable"
RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")

Scope = Any
Prepare = Callable[[str, bool], HTTPStatus | None]


@dataclass(frozen=True)
class Found:
    """An open file that may be given, and what is said of it."""

    fd: int
    size: int
    modified: float
    tag: str


class Files:
    """The files below `root`, as an ASGI application.

    `prepare(path, doubted)` is called in a thread before a file is looked for; a status that it returns is the
    answer. `threads` answers at a time wait for the disk or for `prepare`. `sent` counts objects' bytes.
    """

    def __init__(self, root: Path, *, prepare: Prepare | None = None, threads: int = THREADS) -> None:
        self.root = root.resolve()
        self.sent = 0
        self._prepare = prepare
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="kiosk-files")

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answers one request."""
        path = scope["raw_path"].decode("latin-1")
        if scope["method"] not in ("GET", "HEAD"):
            await nothing(send, HTTPStatus.METHOD_NOT_ALLOWED, ("Allow", "GET, HEAD"))
        elif not SERVED.fullmatch(path):
            await nothing(send, HTTPStatus.NOT_FOUND)
        else:
            headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
            await self._answer(scope, path, headers, send)

    async def _answer(self, scope: Scope, path: str, headers: dict[str, str], send: Any) -> None:
        loop = asyncio.get_running_loop()
        doubted = "no-cache" in headers.get("cache-control", "")
        found = await loop.run_in_executor(self._threads, self._look, path, doubted)
        if isinstance(found, HTTPStatus):
            log.info("%s %s %d", scope["method"], path, found)
            await nothing(send, found)
            return
        try:
            unchanged = found.tag in re.findall(r'"[^"]*"', headers.get("if-none-match", ""))
            part = None if unchanged else wanted(path, headers, found)
            status, answer = head(path, found, part, unchanged=unchanged)
            log.info("%s %s %d", scope["method"], path, status)
            await send({"type": "http.response.start", "status": int(status), "headers": answer})
            body = scope["method"] == "GET" and status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT)
            if body:
                gone = scope.get("state", {}).get("gone", lambda: False)
                await self._send(path, found.fd, part or range(found.size), gone, send)
            await send({"type": "http.response.body", "body": b""})
        finally:
            os.close(found.fd)

    async def _send(self, path: str, fd: int, part: range, gone: Callable[[], bool], send: Any) -> None:
        loop, at = asyncio.get_running_loop(), part.start
        counts = path.startswith("/objects/")
        while at < part.stop and not gone():
            length = min(CHUNK, part.stop - at)
            data = await loop.run_in_executor(self._threads, os.pread, fd, length, at)
            if not data:
                raise OSError(f"{path} was cut while it was read")
            await send({"type": "http.response.body", "body": data, "more_body": True})
            at += len(data)
            self.sent += len(data) if counts else 0

    def _look(self, path: str, doubted: bool) -> Found | HTTPStatus:
        refused = self._prepare(path, doubted) if self._prepare else None
        return refused or _open(self.root, path) or HTTPStatus.NOT_FOUND


def wanted(path: str, headers: dict[str, str], found: Found) -> range | None:
    """The part of an object that is asked for, empty where it has no such part; None for all of it."""
    match = RANGE.fullmatch(headers.get("range", ""))
    if match is None or not path.startswith("/objects/") or headers.get("if-range", found.tag) != found.tag:
        return None
    first, last, final = match.groups()
    if final is not None:
        return range(max(0, found.size - int(final)), found.size)
    if last and int(last) < int(first):
        return None
    return range(min(int(first), found.size), min(int(last) + 1 if last else found.size, found.size))


def head(
    path: str, found: Found, part: range | None, *, unchanged: bool
) -> tuple[HTTPStatus, list[tuple[bytes, bytes]]]:
    """An answer's status and headers."""
    lines = {
        "ETag": found.tag,
        "Last-Modified": formatdate(found.modified, usegmt=True),
        "Cache-Control": "no-cache" if CHANGES.fullmatch(path) else FOREVER,
    }
    status = HTTPStatus.NOT_MODIFIED if unchanged else HTTPStatus.OK
    if path.startswith("/objects/"):
        lines["Accept-Ranges"] = "bytes"
    if not unchanged:
        lines["Content-Type"] = "application/json" if path.endswith(".json") else "application/octet-stream"
        lines["Content-Length"] = str(found.size if part is None else len(part))
    if part is not None and part:
        status = HTTPStatus.PARTIAL_CONTENT
        lines["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{found.size}"
    elif part is not None:
        status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        lines |= {"Content-Range": f"bytes */{found.size}", "Cache-Control": "no-store"}
    return status, [(k.lower().encode(), v.encode("latin-1")) for k, v in lines.items()]


async def nothing(send: Any, status: HTTPStatus, *more: tuple[str, str]) -> None:
    """An answer without a body, which nobody keeps."""
    lines = [("Cache-Control", "no-store"), ("Content-Length", "0"), *more]
    headers = [(k.lower().encode(), v.encode()) for k, v in lines]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _open(root: Path, path: str) -> Found | None:
    """The file of a path that has a repository's shape; None when it is not there or a link leads to it."""
    full = root / path[1:]
    with contextlib.suppress(OSError):
        if full.resolve(strict=True) == full and full.is_file():
            fd = os.open(full, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                state = os.fstat(fd)
                return Found(fd, state.st_size, state.st_mtime, _tag(path, fd))
            except BaseException:
                os.close(fd)
                raise
    return None


def _tag(path: str, fd: int) -> str:
    """A file's ETag: an object's name is its digest already, the others are small."""
    if path.startswith("/objects/"):
        return f'"{path[-64:]}"'
    with os.fdopen(os.dup(fd), "rb") as f:
        return f'"{hashlib.file_digest(f, "sha256").hexdigest()}"'


def serve(root: Path, host: str, port: int) -> Server:
    """A server that is bound and listens; `serve_forever` runs it, and so does `with server.running() as url`.
    Port 0 takes a free one."""
    return Server(Files(root), (host, port))
