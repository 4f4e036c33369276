"""Where a repository is: a folder, a web server, or a bucket. The one reader of such names.

    /srv/kiosk   ./mirror   file:///srv/kiosk      a folder
    http://kiosk.example.org   https://...         a web server
    s3://BUCKET   s3://BUCKET/PREFIX               a bucket, and what stands before every key in it

A name that holds a password is refused: names are shown in messages and logs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kiosk.errors import UsageError

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_PREFIX = re.compile(r"[A-Za-z0-9_.=+-]{1,200}")


@dataclass(frozen=True)
class Folder:
    """A folder on this machine."""

    path: Path

    def __str__(self) -> str:
        return f"file://{self.path}"


@dataclass(frozen=True)
class Web:
    """A web server's URL, without a slash at the end."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class S3:
    """A bucket, and a prefix without slashes at its ends (empty for none)."""

    bucket: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


Place = Folder | Web | S3


def place(where: str | Path) -> Place:
    """Reads a name; UsageError when it is none of these. A folder is a Path, or text that begins with / or dot."""
    if isinstance(where, Path):
        return Folder(where.absolute())
    scheme, separator, rest = where.partition("://")
    if not separator and (where in (".", "..") or where.startswith(("/", "./", "../"))):
        return Folder(Path(where).absolute())
    if scheme == "file" and rest.startswith("/"):
        return Folder(Path(rest))
    if scheme in ("http", "https") and rest:
        return Web(_plain(where).rstrip("/"))
    if scheme == "s3":
        return _bucket(where, rest)
    raise UsageError(
        f"{where!r} is not a repository", hint="Give an http://, https:// or s3:// URL, or a folder."
    )


def _plain(url: str) -> str:
    """The URL, if it names no user and no password."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "a URL with a user or a password in it is not used, since URLs are shown and logged",
            where=parts.hostname,
        )
    return url


def _bucket(where: str, rest: str) -> S3:
    bucket, _, prefix = rest.partition("/")
    parts = [p for p in prefix.split("/") if p]
    sound = all(_PREFIX.fullmatch(p) and p not in (".", "..") for p in parts)
    if not _BUCKET.fullmatch(bucket) or not sound:
        raise UsageError("is not the URL of a bucket", where=where[:200], hint="Write s3://BUCKET/PREFIX")
    return S3(bucket, "/".join(parts))
