"""A source of objects over plain HTTP, through a proxy if there is one. Nothing on the way is trusted.

What the answer may be, and what becomes of it:

* the object: its size and digest hold; a body is read to one byte more than the object's size, never further;
* 404 or 410: MissingObject, at once;
* no connection, a time-out, a cut body, 408, 429, 5xx: tried again with growing pauses, then NetworkError;
* anything else under the object's name (a captive portal's page, a damaged copy): asked for once more with
  `Cache-Control: no-cache`, which makes a proxy replace its copy, then CorruptError.

Only `Settings.proxy` decides on a proxy: proxies and passwords in the environment are not used.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from threading import Event
from types import TracebackType
from typing import Self

import requests
import tenacity
import urllib3
from requests.adapters import HTTPAdapter

from kiosk import tls
from kiosk.errors import CorruptError, NetworkError
from kiosk.log import logger
from kiosk.model.manifest import Object
from kiosk.store.objects import MissingObject, check, path_of

log = logger(__name__)

CHUNK = 1 << 16
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
GONE = {404, 410}
WIRE_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class _Transient(NetworkError):
    """Worth another try."""


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds: for a connection, for the next bytes, and in all for one object at the
    slowest acceptable rate (bytes a second); how often to try, and the first pause between tries."""

    connect: float = 10
    read: float = 20
    slowest: float = 20_000
    tries: int = 5
    pause: float = 0.3

    def total(self, size: int) -> float:
        """Seconds for one object of `size` bytes."""
        return self.connect + self.read + size / self.slowest


class HttpStore:
    """The objects below a repository's URL. May be used by several threads at a time."""

    def __init__(
        self,
        url: str,
        session: requests.Session | None = None,
        *,
        proxy: str | None = None,
        ca: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.patience = patience or Patience()
        self._own = session is None
        self._session = session or new_session(proxy, ca)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections, where they are our own."""
        if self._own:
            self._session.close()

    def read(self, wanted: Object, stop: Event | None = None) -> bytes:
        """Gets an object; see the module for what can happen."""
        url = f"{self.url}/{path_of(wanted.digest)}"
        try:
            return check(self._patiently(url, wanted, {}, stop), wanted, url)
        except CorruptError as first:
            log.warning("%s; asking again past every cache", first)
        try:
            return check(self._patiently(url, wanted, {"Cache-Control": "no-cache"}, stop), wanted, url)
        except CorruptError as e:
            hint = "The server or a proxy before it gives wrong data under this name; nothing of it was used."
            raise CorruptError(e.what, where=url, hint=hint) from None

    def has(self, wanted: Object) -> bool:
        """Asks for the object's headers."""
        url = f"{self.url}/{path_of(wanted.digest)}"
        limits = (self.patience.connect, self.patience.read)
        try:
            answer = self._session.head(url, timeout=limits, headers={"Accept-Encoding": "identity"})
        except WIRE_ERRORS as e:
            raise NetworkError(words(e), where=url) from None
        if answer.status_code in GONE:
            return False
        if answer.status_code != 200:
            raise NetworkError(f"the server answered {answer.status_code}", where=url)
        return answer.headers.get("Content-Length") == str(wanted.size)

    def _patiently(self, url: str, wanted: Object, headers: dict[str, str], stop: Event | None) -> bytes:
        stop = stop or Event()
        pause = self.patience.pause
        tries = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.patience.tries) | tenacity.stop_when_event_set(stop),
            sleep=tenacity.sleep_using_event(stop),
            wait=tenacity.wait_exponential(multiplier=pause, max=10) + tenacity.wait_random(0, pause),
            retry=tenacity.retry_if_exception_type(_Transient),
            reraise=True,
        )
        return tries(self._once, url, wanted, headers)

    def _once(self, url: str, wanted: Object, headers: dict[str, str]) -> bytes:
        deadline = time.monotonic() + self.patience.total(wanted.size)
        limits = (self.patience.connect, self.patience.read)
        headers = {"Accept-Encoding": "identity", **headers}
        try:
            with self._session.get(url, stream=True, timeout=limits, headers=headers) as answer:
                _refuse(answer, url)
                return _body(answer, url, wanted, deadline)
        except requests.TooManyRedirects:
            raise NetworkError("the server sends from one address to the next", where=url) from None
        except WIRE_ERRORS as e:
            raise _Transient(words(e), where=url) from None


def new_session(proxy: str | None, ca: str | None = None) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.verify = tls.authorities(ca)
    session.max_redirects = 3
    session.headers["User-Agent"] = "kiosk"
    if proxy:
        session.proxies = {"http": proxy, "https": proxy}
    adapter = HTTPAdapter(pool_connections=4, pool_maxsize=32)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _refuse(answer: requests.Response, url: str) -> None:
    status = answer.status_code
    if status in GONE:
        raise MissingObject("the server does not have the object", where=url)
    if status in TRANSIENT:
        raise _Transient(f"the server answered {status} {answer.reason}", where=url)
    if status != 200:
        raise NetworkError(f"the server answered {status} {answer.reason}", where=url)


def _body(answer: requests.Response, url: str, wanted: Object, deadline: float) -> bytes:
    """The body, to one byte more than wanted. A body shorter than its own Content-Length is a cut connection."""
    promised = answer.headers.get("Content-Length", "")
    if promised.isdecimal() and int(promised) > wanted.size:
        kind = answer.headers.get("Content-Type", "unknown type")[:60]
        raise CorruptError(f"answers {promised} bytes ({kind}) instead of {wanted.size}", where=url)
    parts: list[bytes] = []
    left = wanted.size + 1
    while left > 0 and (part := answer.raw.read1(min(CHUNK, left), decode_content=False)):
        parts.append(part)
        left -= len(part)
        if time.monotonic() > deadline:
            raise _Transient("the answer comes too slowly", where=url)
    data = b"".join(parts)
    if promised.isdecimal() and len(data) < int(promised):
        raise _Transient(f"the connection was cut after {len(data)} of {promised} bytes", where=url)
    return data


def words(error: Exception) -> str:
    """What a library's error means, in a few words."""
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy can't be reached"
    if (fault := tls.fault(error)) is not None:
        return f"{fault}. {tls.HINT}"
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "can't connect, or the connection broke"
    if isinstance(error, urllib3.exceptions.IncompleteRead | urllib3.exceptions.ProtocolError):
        return "the connection was cut in the middle of the answer"
    return f"{type(error).__name__}: {str(error)[:200]}"
