"""A file by HTTP whose size and SHA-512 are known before: streamed, bounded, and checked while it comes.

A connection that breaks is taken up again where it broke. The server, and whoever stands before it, may do what they
like: more bytes, fewer, others, or addresses that are not HTTP end in an error and no file.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import requests
import tenacity

from kiosk.errors import CorruptError, NetworkError, NotFoundError, UsageError
from kiosk.files import storage_errors
from kiosk.store.http import CHUNK, GONE, TRANSIENT, WIRE_ERRORS, Patience, new_session, words

PATIENCE = Patience(read=30, slowest=50_000)
STRANGE = (
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidURL,
)


class _Again(NetworkError):
    """Worth another try."""


@dataclass(frozen=True)
class Expected:
    """What a file has to be."""

    size: int
    sha512: str


class Arriving:
    """A file that arrives in pieces: its digest goes along, and it never becomes larger than it may."""

    def __init__(
        self, target: Path, out: BinaryIO, expected: Expected, where: str, progress: Callable[[int], object]
    ) -> None:
        self._target, self._out = target, out
        self._expected, self._where, self._progress = expected, where, progress
        self._digest = hashlib.sha512()
        self.size = 0

    def take(self, piece: bytes) -> None:
        """Takes the next piece; CorruptError when it is more than there may be."""
        self.size += len(piece)
        if self.size > self._expected.size:
            raise CorruptError(
                f"is larger than the {self._expected.size} bytes that are signed", where=self._where
            )
        self._digest.update(piece)
        with storage_errors(self._target):  # a full disk is not the network's fault
            self._out.write(piece)
        self._progress(len(piece))

    def restart(self) -> None:
        """Forgets what came so far."""
        self._progress(-self.size)
        self._out.seek(0)
        self._out.truncate()
        self._digest, self.size = hashlib.sha512(), 0

    def finish(self) -> None:
        """CorruptError unless all is there and right."""
        if self.size != self._expected.size:
            raise CorruptError(f"has {self.size} bytes, signed are {self._expected.size}", where=self._where)
        if self._digest.hexdigest() != self._expected.sha512.lower():
            raise CorruptError(
                "has another SHA-512 than is signed", where=self._where, hint="Nothing of it was used."
            )


def fetch_bounded(url: str, proxy: str | None, most: int) -> bytes:
    """A small document of unknown size, of at most `most` bytes. NetworkError, NotFoundError, or CorruptError."""
    refuse_strange(url)
    with new_session(proxy) as http:
        parts: list[bytes] = []
        size = 0
        deadline = time.monotonic() + PATIENCE.total(most)
        try:
            headers = {"Accept-Encoding": "identity"}
            limits = (PATIENCE.connect, PATIENCE.read)
            with http.get(url, stream=True, timeout=limits, headers=headers) as answer:
                _refuse(answer, url)
                while piece := answer.raw.read1(CHUNK, decode_content=False):
                    parts.append(piece)
                    size += len(piece)
                    if size > most:
                        raise CorruptError(f"is larger than {most} bytes", where=url)
                    if time.monotonic() > deadline:
                        raise NetworkError("the answer comes too slowly", where=url)
        except STRANGE:
            raise _strange(url) from None
        except WIRE_ERRORS as e:
            raise NetworkError(words(e), where=url) from None
    return b"".join(parts)


def download(
    url: str,
    target: Path,
    expected: Expected,
    proxy: str | None,
    progress: Callable[[int], object],
    patience: Patience = PATIENCE,
) -> None:
    """Fetches a file to a new file `target`. CorruptError when it is not the one expected, NetworkError or
    NotFoundError when it can't be had; then `target` holds nothing that is of use."""
    refuse_strange(url)
    deadline = time.monotonic() + patience.total(expected.size)
    with new_session(proxy) as http, target.open("xb") as out, storage_errors(target):
        file = Arriving(target, out, expected, url, progress)
        tries = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(patience.tries),
            wait=tenacity.wait_exponential(multiplier=patience.pause, max=10),
            retry=tenacity.retry_if_exception_type(_Again),
            reraise=True,
        )
        tries(_once, http, url, file, expected, deadline, patience)
        file.finish()


def copy(source: Path, target: Path, expected: Expected, progress: Callable[[int], object]) -> None:
    """The same from a file of this machine."""
    try:
        with source.open("rb") as f, target.open("xb") as out, storage_errors(target):
            file = Arriving(target, out, expected, str(source), progress)
            while piece := f.read(1 << 20):
                file.take(piece)
            file.finish()
    except FileNotFoundError:
        raise NotFoundError("there is no such file", where=str(source)) from None


def refuse_strange(url: str) -> None:
    """UsageError for an address that is not HTTP or that holds a password."""
    if not re.match(r"https?://[^/@]+(?:/|$)", url):
        raise UsageError("is not an http or https address (without a password)", where=url[:200])


def _once(
    http: requests.Session, url: str, file: Arriving, expected: Expected, deadline: float, patience: Patience
) -> None:
    headers = {"Accept-Encoding": "identity"}
    if file.size:
        headers["Range"] = f"bytes={file.size}-"
    try:
        with http.get(url, stream=True, timeout=(patience.connect, patience.read), headers=headers) as answer:
            _refuse(answer, url)
            promised = answer.headers.get("Content-Length", "")
            if answer.status_code == 206:
                if not answer.headers.get("Content-Range", "").startswith(f"bytes {file.size}-"):
                    file.restart()
                    raise _Again("the server gives another part than was asked for", where=url)
            else:
                file.restart()
            if promised.isdecimal() and file.size + int(promised) != expected.size:
                raise CorruptError(
                    f"the server has {file.size + int(promised)} bytes, signed are {expected.size}", where=url
                )
            while piece := answer.raw.read1(CHUNK, decode_content=False):
                file.take(piece)
                if time.monotonic() > deadline:
                    raise NetworkError("the answer comes too slowly", where=url)
            if file.size < expected.size:
                raise _Again(f"the connection was cut after {file.size} of {expected.size} bytes", where=url)
    except requests.TooManyRedirects:
        raise NetworkError("the server sends from one address to the next", where=url) from None
    except STRANGE:
        raise _strange(url) from None
    except WIRE_ERRORS as e:
        raise _Again(words(e), where=url) from None


def _strange(url: str) -> NetworkError:
    return NetworkError(
        "the server sends to an address that is not http or https", where=url, hint="That is not followed."
    )


def _refuse(answer: requests.Response, url: str) -> None:
    status = answer.status_code
    if status in GONE:
        raise NotFoundError(f"the server answered {status}", where=url)
    if status in TRANSIENT:
        raise _Again(f"the server answered {status} {answer.reason}", where=url)
    if status not in (200, 206):
        raise NetworkError(f"the server answered {status} {answer.reason}", where=url)
