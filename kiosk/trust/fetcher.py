"""How metadata and target files are read: over HTTP, from a bucket, or from a folder on this machine.

Nothing here is trusted; python-tuf bounds every file's length and checks what comes back. This module
bounds the time, and remembers the last file read so that an error can name it and look into it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from tuf.api.exceptions import DownloadError, DownloadHTTPError, SlowRetrievalError
from tuf.ngclient import FetcherInterface
from urllib3.util import Retry

from kiosk import tls
from kiosk.config import S3Options
from kiosk.place import Folder, Web, place

CHUNK = 64 << 10
CONNECT_SECONDS = 10
SILENCE_SECONDS = 30
FILE_SECONDS = 120
REMEMBERED = 1 << 20


def session(proxy: str | None, ca: str | None = None) -> requests.Session:
    """An HTTP session that uses the given proxy or none (never one from the environment), asks for plain
    bytes, and retries what a restarting server or proxy answers."""
    made = requests.Session()
    made.trust_env = False
    made.verify = tls.authorities(ca)
    made.proxies = {"http": proxy, "https": proxy} if proxy else {}
    made.max_redirects = 3
    made.headers.update({"User-Agent": "kiosk", "Accept-Encoding": "identity"})
    retry = Retry(3, backoff_factor=0.3, status_forcelist=(502, 503, 504), raise_on_status=False)
    for scheme in ("http://", "https://"):
        made.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=16))
    return made


class Fetcher(FetcherInterface):
    """What both kinds share: the name and first bytes of the last file that was read."""

    def __init__(self) -> None:
        self.last_url = ""
        self.last_name = ""
        self.last_bytes = b""
        self.past_caches = False

    def _fetch(self, url: str) -> Iterator[bytes]:
        self.last_url = url
        self.last_name = url.rsplit("/", 1)[-1]
        self.last_bytes = b""
        return self._remember(self._open(url))

    def _remember(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if len(self.last_bytes) < REMEMBERED:
                self.last_bytes += chunk
            yield chunk

    def _open(self, url: str) -> Iterator[bytes]:
        raise NotImplementedError


class HttpFetcher(Fetcher):
    """Reads over HTTP. What changes under its name (timestamp.json, the next root) is asked for anew."""

    def __init__(self, http: requests.Session) -> None:
        super().__init__()
        self._http = http

    def _open(self, url: str) -> Iterator[bytes]:
        changing = self.last_name == "timestamp.json" or self.last_name.endswith(".root.json")
        headers = {"Cache-Control": "no-cache"} if changing or self.past_caches else {}
        try:
            response = self._http.get(
                url, stream=True, timeout=(CONNECT_SECONDS, SILENCE_SECONDS), headers=headers
            )
        except requests.Timeout as e:
            raise SlowRetrievalError(f"no answer from {url}") from e
        if response.status_code != 200:
            response.close()
            raise DownloadHTTPError(f"{url} answers {response.status_code}", response.status_code)
        return self._stream(url, response)

    def _stream(self, url: str, response: requests.Response) -> Iterator[bytes]:
        end = time.monotonic() + FILE_SECONDS
        with response:
            try:
                for chunk in response.iter_content(CHUNK):
                    if time.monotonic() > end:
                        raise SlowRetrievalError(f"{url} is not complete after {FILE_SECONDS} s")
                    yield chunk
            except requests.RequestException as e:
                raise DownloadError(f"{url} broke off: {e}") from e


class FolderFetcher(Fetcher):
    """Reads from a repository's folder; a "URL" is `file://` and a path."""

    def _open(self, url: str) -> Iterator[bytes]:
        path = Path(url.removeprefix("file://"))
        try:
            f = path.open("rb")
        except FileNotFoundError as e:
            raise DownloadHTTPError(f"there is no {path}", 404) from e

        def chunks() -> Iterator[bytes]:
            with f:
                while chunk := f.read(CHUNK):
                    yield chunk

        return chunks()


def fetcher(where: str | Path, proxy: str | None = None, s3: S3Options | None = None) -> tuple[Fetcher, str]:
    """The fetcher for a repository, and its base URL without a slash at the end."""
    found = place(where)
    if isinstance(found, Folder):
        return FolderFetcher(), str(found).rstrip("/")
    if isinstance(found, Web):
        return HttpFetcher(session(proxy, s3.ca if s3 else None)), found.url
    from kiosk.trust.s3 import BucketFetcher  # boto3 takes its time to load

    return BucketFetcher(found, s3), str(found)
