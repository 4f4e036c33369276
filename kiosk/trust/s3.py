"""How metadata and target files are read from a bucket. Nothing there is trusted: see kiosk.trust.fetcher."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tuf.api.exceptions import DownloadError, DownloadHTTPError, SlowRetrievalError

from kiosk.bucket import Bucket, Denied, MissingKey
from kiosk.config import S3Options
from kiosk.errors import NetworkError
from kiosk.place import S3
from kiosk.trust.fetcher import FILE_SECONDS, Fetcher

LARGEST = 1 << 30
"""Whoever reads stops long before."""


class BucketFetcher(Fetcher):
    """Reads below a bucket's prefix; a "URL" is `s3://BUCKET/PREFIX/` and a path."""

    def __init__(self, place: S3, options: S3Options | None) -> None:
        super().__init__()
        self._bucket = Bucket(place.bucket, place.prefix, options)

    def _open(self, url: str) -> Iterator[bytes]:
        end = time.monotonic() + FILE_SECONDS
        try:
            for chunk in self._bucket.chunks(url.removeprefix(self._bucket.url()), LARGEST):
                if time.monotonic() > end:
                    raise SlowRetrievalError(f"{url} is not complete after {FILE_SECONDS} s")
                yield chunk
        except MissingKey as e:
            raise DownloadHTTPError(f"there is no {url}", 404) from e
        except Denied as e:  # also what a bucket that may not be listed answers for what is not there
            raise DownloadHTTPError(f"{url}: {e.what}", 403) from e
        except NetworkError as e:
            raise DownloadError(url) from e
