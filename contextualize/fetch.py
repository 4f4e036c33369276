"""Signed files over HTTP, through the site's proxy: bounded in size, time and tries, and never from another host.

Nothing that comes this way is believed: python-tuf checks all of it. What matters here is that a server or proxy
that is slow, endless, broken or hostile can delay a boot by at most PATIENCE seconds, and that one which is only
not there yet (the network comes up beside us) is asked again. Imported only where something is fetched.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import threading
import time
import urllib.error
import urllib.request
from typing import IO, Any, Iterator, List, Optional, Tuple
from urllib.parse import urlsplit

from tuf.api.exceptions import DownloadError, DownloadHTTPError
from tuf.ngclient import FetcherInterface

from contextualize.context import Repository

PATIENCE = 180.0
"""Seconds that all files together may take, with all tries."""
FILE = 60.0
"""Seconds that one try of one file may take."""
SILENCE = 15.0
"""Seconds without a byte after which a try is given up."""
PAUSE = 1.0
"""Seconds between two tries."""
CHUNK = 1 << 16


class Remote(FetcherInterface):
    """Fetches what is below a repository's URL. What a server says is not there, and what is too large, is an error
    at once; everything else after the last try."""

    def __init__(
        self, repository: Repository, *, patience: float = PATIENCE, file: float = FILE, pause: float = PAUSE
    ) -> None:
        self._host = urlsplit(repository.url)[:2]
        self._end = time.monotonic() + patience
        self._patience, self._file, self._pause = patience, file, pause
        self._watch = _Watch()
        proxies = {"http": repository.proxy, "https": repository.proxy} if repository.proxy else {}
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(proxies),  # the context's alone, whatever the environment says
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
            _SameHost(self._host),
            *_handlers(self._watch),
        ):
            self._opener.add_handler(handler)

    @contextlib.contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[bytes]]:
        """A file of at most `max_length` bytes, asked for again while that can help."""
        yield io.BytesIO(self._tried(url, max_length))

    def _tried(self, url: str, most: int) -> bytes:
        while True:
            try:
                with super().download_file(url, most) as file:
                    return bytes(file.read())
            except DownloadHTTPError as e:
                if e.status_code < 500 or not self._again():
                    raise
            except (OSError, http.client.HTTPException) as e:
                if not self._again():
                    raise DownloadError(f"{url:.200}: {_words(e)} (for {self._patience:.0f} s)") from None

    def _again(self) -> bool:
        """Waits for the next try; False when there is no time for one."""
        if self._end - time.monotonic() <= self._pause:
            return False
        time.sleep(self._pause)
        return True

    def _fetch(self, url: str) -> Iterator[bytes]:
        if urlsplit(url)[:2] != self._host:
            raise DownloadError(f"{url!r:.200} is not of the repository")
        left = max(0.1, min(self._file, self._end - time.monotonic()))
        request = urllib.request.Request(url, headers={"User-Agent": "kiosk-contextualize"})  # noqa: S310
        with self._watch.limit(left):
            try:
                response = self._opener.open(request, timeout=min(SILENCE, left))
            except urllib.error.HTTPError as e:
                with e:
                    raise DownloadHTTPError(f"{url:.200}: HTTP status {e.code}", e.code) from None
            with response:
                yield from _body(response)


def _body(response: Any) -> Iterator[bytes]:
    said, size = response.headers.get("Content-Length"), 0
    while True:
        data = response.read1(CHUNK)
        if not data:
            break
        size += len(data)
        yield data
    if said is not None and said.isdecimal() and size != int(said):
        raise OSError(f"ended after {size} of {said} bytes")


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return f"{getattr(reason, 'strerror', None) or reason or type(error).__name__}"[:200]


class _Watch:
    """Opens connections, and ends one that goes on for too long, however slowly its bytes come: those of a proxy's
    answer to CONNECT, of a TLS handshake, of headers too."""

    def __init__(self) -> None:
        self._held: Optional[socket.socket] = None
        self._end = 0.0

    @contextlib.contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Raises OSError when the block's connection had to be ended after some seconds."""
        late = threading.Event()
        self._hold(None)
        self._end = time.monotonic() + seconds

        def end() -> None:
            late.set()
            held = self._held
            if held is not None:
                with contextlib.suppress(OSError):
                    held.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, http.client.HTTPException):
            if not late.is_set():
                raise
        finally:
            timer.cancel()
            timer.join()
            self._hold(None)
        if late.is_set():
            raise OSError(f"not done within {seconds:.0f} s")

    def connect(self, address: Tuple[str, int], timeout: float, _source: object = None) -> socket.socket:
        """Connects to the first address of a host that answers, in the time that is left for all of them."""
        fault: OSError = OSError(f"{address[0]} has no address")
        for family, kind, protocol, _name, where in socket.getaddrinfo(*address, 0, socket.SOCK_STREAM):
            left = self._end - time.monotonic()
            if left <= 0:
                break
            one = socket.socket(family, kind, protocol)
            try:
                one.settimeout(min(timeout, left))
                one.connect(where)
                one.settimeout(timeout)
                self._hold(one.dup())  # TLS takes the socket itself away
            except OSError as e:
                one.close()
                fault = e
            else:
                if time.monotonic() < self._end:
                    return one
                one.close()
        raise fault

    def _hold(self, one: Optional[socket.socket]) -> None:
        before, self._held = self._held, one
        if before is not None:
            before.close()


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows redirects on the repository's own host."""

    max_redirections = 3

    def __init__(self, host: Any) -> None:
        self._host = host

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl)[:2] != self._host:
            raise DownloadError(f"{req.full_url:.200}: redirects to another host")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _handlers(watch: _Watch) -> List[Any]:
    """What opens connections, for the watch to see."""

    class Http(http.client.HTTPConnection):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            self._create_connection = watch.connect

    class Https(http.client.HTTPSConnection):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            self._create_connection = watch.connect

    class OpenHttp(urllib.request.HTTPHandler):
        def http_open(self, req: Any) -> Any:
            return self.do_open(Http, req)

    class OpenHttps(urllib.request.HTTPSHandler):
        def https_open(self, req: Any) -> Any:
            return self.do_open(Https, req)

    return [OpenHttp(), OpenHttps()]
