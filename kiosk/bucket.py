"""Files in an S3 bucket, through boto3: what S3Store, the reading of metadata, and a mirror's target stand on.

* Credentials come from boto3's own chain (environment, profile, instance role) and are in no message: of what
  the service answers, only the status and the error's code are repeated.
* A body is read to one byte more than wanted, never further, and in bounded time; a cut one is asked for again.
* *Missing* (MissingKey), *can't be used* (NetworkError: unreachable, denied, no such bucket, slow down) are kept
  apart. What the bytes are is for the caller to check.
* Nothing rests on conditional writes: the engines answer them in four different ways.

boto3 retries what passes (its `standard` mode, or the `adaptive` one where its configuration says so).
"""

from __future__ import annotations

import base64
import hashlib
import io
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import boto3.session
import botocore.session
import tenacity
import urllib3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from kiosk.config import S3Options
from kiosk.errors import NetworkError, NotFoundError, UsageError

MAX_KEYS = 10_000_000
CHUNK = 1 << 16
MULTIPART = 16 << 20
"""Bytes from which a file is sent in parts."""
FOREVER = "public, max-age=31536000, immutable"
CHANGES = "no-cache"
MISSING = {"NoSuchKey", "404", "NotFound"}
SLOW = {
    "SlowDown",
    "503",
    "ServiceUnavailable",
    "RequestLimitExceeded",
    "Throttling",
    "TooManyRequests",
    "429",
}
KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"}
DENIED = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled", "401", "Unauthorized"}
CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}
ELSEWHERE = {
    "PermanentRedirect",
    "301",
    "307",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}


class MissingKey(NotFoundError):
    """The bucket answers, and has nothing under this key."""


class Denied(NetworkError):
    """The key may not do this; or it may not list the bucket, and asked for what is not there."""


class _Cut(NetworkError):
    """A body that did not arrive whole: worth another try."""


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds: for a connection, for the next bytes, and in all for one file at the slowest
    acceptable rate (bytes a second); how often to try."""

    connect: float = 10
    read: float = 20
    slowest: float = 20_000
    tries: int = 5

    def total(self, size: int) -> float:
        """Seconds for a file of `size` bytes."""
        return self.connect + self.read + size / self.slowest


class Bucket:
    """The keys below a prefix of one bucket. May be used by several threads at a time."""

    def __init__(
        self, name: str, prefix: str = "", options: S3Options | None = None, patience: Patience | None = None
    ) -> None:
        self.name = name
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.patience = patience or Patience()
        self._client = _client(options or S3Options(), self.patience)

    def url(self, key: str = "") -> str:
        """A key as messages show it."""
        return f"s3://{self.name}/{self.prefix}{key}"

    def read(self, key: str, limit: int, stop: Event | None = None) -> bytes:
        """The bytes under a key, at most `limit` and one more. MissingKey or NetworkError."""
        stop = stop or Event()
        tries = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.patience.tries) | tenacity.stop_when_event_set(stop),
            sleep=tenacity.sleep_using_event(stop),
            wait=tenacity.wait_exponential(multiplier=0.2, max=5) + tenacity.wait_random(0, 0.2),
            retry=tenacity.retry_if_exception_type(_Cut),
            reraise=True,
        )
        return tries(lambda: b"".join(self.chunks(key, limit)))

    def chunks(self, key: str, limit: int) -> Iterator[bytes]:
        """The same in pieces as they arrive, without another try for a body that is cut."""
        deadline = time.monotonic() + self.patience.total(limit)
        with self._errors(key):
            answer = self._client.get_object(Bucket=self.name, Key=self.prefix + key)
            promised, left = answer.get("ContentLength"), limit + 1
            with answer["Body"] as raw:
                while left > 0 and (part := raw.read1(min(CHUNK, left), decode_content=False)):
                    left -= len(part)
                    yield part
                    if time.monotonic() > deadline:
                        raise _Cut("the answer comes too slowly", where=self.url(key))
        arrived = limit + 1 - left
        if left > 0 and promised is not None and arrived != promised:
            raise _Cut(f"the connection was cut after {arrived} of {promised} bytes", where=self.url(key))

    def size(self, key: str) -> int | None:
        """The size of what is under a key in bytes, or None when there is nothing."""
        head = self._head(key)
        return None if head is None else self._length(key, head)

    def holds(self, key: str, data: bytes) -> bool:
        """Whether a key has these very bytes: by size and ETag, else (an ETag need not be a digest) by reading."""
        head = self._head(key)
        if head is None or self._length(key, head) != len(data):
            return False
        if head.get("ETag", "").strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest():
            return True
        return self.read(key, len(data)) == data

    def put(
        self, key: str, data: bytes, *, cache: str = FOREVER, kind: str = "application/octet-stream"
    ) -> None:
        """Puts bytes under a key, whole or not at all, with headers for those who read the bucket over HTTP."""
        headers = {"CacheControl": cache, "ContentType": kind}
        place = {"Bucket": self.name, "Key": self.prefix + key}
        with self._errors(key):
            if len(data) < MULTIPART:
                md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
                self._client.put_object(Body=data, ContentMD5=md5, **place, **headers)
                return
            parts = TransferConfig(
                multipart_threshold=MULTIPART, multipart_chunksize=MULTIPART // 2, max_concurrency=4
            )
            self._client.upload_fileobj(io.BytesIO(data), ExtraArgs=headers, Config=parts, **place)

    def list(self, under: str) -> Iterator[tuple[str, int]]:
        """The keys that begin with `under`, and their sizes, by name; page by page."""
        where, keys = self.url(under), 0
        with self._errors(under):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.name, Prefix=self.prefix + under):
                if "Name" not in page:  # boto3 reads any page that is XML as an empty list
                    raise NetworkError("does not answer as S3 does (a page of another server?)", where=where)
                for entry in page.get("Contents", ()):
                    key, size = str(entry.get("Key", "")), entry.get("Size")
                    keys += 1
                    if not key.startswith(self.prefix) or size is None or keys > MAX_KEYS:
                        raise NetworkError("does not list its keys as S3 does", where=where)
                    yield key.removeprefix(self.prefix), int(size)

    def remove(self, key: str) -> None:
        """Removes a key; one that is not there is fine."""
        with self._errors(key):
            self._client.delete_object(Bucket=self.name, Key=self.prefix + key)

    def _length(self, key: str, head: Mapping[str, Any]) -> int:
        if "ContentLength" not in head:
            raise NetworkError("does not say how long it is, as S3 does", where=self.url(key))
        return int(head["ContentLength"])

    def _head(self, key: str) -> dict[str, Any] | None:
        try:
            with self._errors(key):
                return dict(self._client.head_object(Bucket=self.name, Key=self.prefix + key))
        except MissingKey:
            return None

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        where = self.url(key)
        try:
            yield
        except ClientError as e:
            raise _answered(e, where, self.name) from None
        except (NoCredentialsError, PartialCredentialsError):
            raise NetworkError(
                "boto3 finds no credentials",
                where=where,
                hint="Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. "
                "A bucket that everybody may read is a web server: give its https:// URL.",
            ) from None
        except (BotoCoreError, Boto3Error, urllib3.exceptions.HTTPError, OSError) as e:
            kind = _Cut if isinstance(e, urllib3.exceptions.HTTPError) else NetworkError
            hint = "Check s3_endpoint (KIOSK_S3_ENDPOINT), and that the service runs."
            raise kind(_words(e), where=where, hint=hint) from None


def _client(options: S3Options, patience: Patience) -> Any:
    """A client of its own session: boto3's default session must not be shared between threads."""
    if options.endpoint is not None:
        parts = urlsplit(options.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise UsageError(
                "s3_endpoint is not an http:// or https:// URL without a user", where="configuration"
            )
    try:
        session = botocore.session.get_session()
        configured = session.get_config_variable("retry_mode")
        config = Config(
            connect_timeout=patience.connect,
            read_timeout=patience.read,
            max_pool_connections=32,
            retries={
                "mode": configured if configured in ("standard", "adaptive") else "standard",
                "total_max_attempts": patience.tries,
            },
            # not every engine knows the newer checksums; kiosk checks digests itself
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            user_agent_extra="kiosk",
        )
        own = boto3.session.Session(botocore_session=session)
        return own.client(
            "s3", endpoint_url=options.endpoint, region_name=options.region, config=config, verify=options.ca
        )
    except (BotoCoreError, ValueError) as e:
        raise UsageError(f"boto3 can't be set up: {e}", where="configuration of boto3") from None


def _answered(error: ClientError, where: str, bucket: str) -> NetworkError | MissingKey:
    """What the service's answer means. Its message is left out: some engines repeat the key in it."""
    code = str(error.response.get("Error", {}).get("Code", ""))[:60]
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    said = f"{status} {code}".strip()
    if code == "NoSuchBucket":
        return NetworkError(
            f"there is no bucket {bucket}",
            where=where,
            hint="Check the URL and the endpoint, or make the bucket.",
        )
    if code in MISSING:
        return MissingKey("the bucket does not have it", where=where)
    if code in SLOW or status in (429, 503):
        return NetworkError(f"asks to slow down ({said})", where=where, hint="Run the command again later.")
    if code in KEYS:
        return NetworkError(
            f"does not accept the credentials ({said})",
            where=where,
            hint="The key is unknown or its secret is wrong; `aws configure list` shows where boto3 takes them from.",
        )
    if code in CLOCK:
        return NetworkError(
            f"refuses the time of day ({said})", where=where, hint="Set this machine's clock."
        )
    if code in DENIED or status in (401, 403):
        return Denied(
            f"denies access ({said})",
            where=where,
            hint="The key may not do this, or it may not list the bucket and the file is not there.",
        )
    if code in ELSEWHERE:
        return NetworkError(
            f"the bucket is in another region ({said})", where=where, hint="Set s3_region (KIOSK_S3_REGION)."
        )
    return NetworkError(f"the service answered {said}", where=where)


def _words(error: Exception) -> str:
    """What a library's error means. Its text is not repeated: it may hold a signed URL."""
    name = type(error).__name__
    known = {
        "EndpointConnectionError": "can't be reached",
        "ConnectTimeoutError": "no answer in time",
        "ReadTimeoutError": "no answer in time",
        "ConnectionClosedError": "the connection broke",
        "ResponseParserError": "does not answer as S3 does (a page of another server?)",
        "SSLError": "the certificate does not hold",
        "IncompleteRead": "the connection was cut in the middle of the answer",
        "ProtocolError": "the connection was cut in the middle of the answer",
        "S3UploadFailedError": "the upload failed",
    }
    return known.get(name, f"can't be used: {name}")
