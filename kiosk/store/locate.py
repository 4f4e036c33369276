"""From the name of a repository to its objects: a folder, a web server, or a bucket (see kiosk.place)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kiosk.config import S3Options
from kiosk.errors import UsageError
from kiosk.place import Folder, Place, Web, place
from kiosk.store.directory import DirectoryStore
from kiosk.store.http import HttpStore
from kiosk.store.objects import ObjectSource, ObjectStore

if TYPE_CHECKING:
    from kiosk.store.s3 import S3Store


def source(where: str | Path, proxy: str | None = None, s3: S3Options | None = None) -> ObjectSource:
    """Where a repository's objects are read; UsageError when `where` names no repository."""
    found = place(where)
    if isinstance(found, Web):
        return HttpStore(found.url, proxy=proxy, ca=s3.ca if s3 else None)
    return store(where, s3)


def store(where: str | Path, s3: S3Options | None = None) -> ObjectStore:
    """Where objects can be kept as well: UsageError for a web server."""
    return kept(place(where), s3)


def kept(found: Place, s3: S3Options | None = None) -> DirectoryStore | S3Store:
    """The store at a place; UsageError for a web server."""
    if isinstance(found, Folder):
        return DirectoryStore(found.path)
    if isinstance(found, Web):
        raise UsageError(
            "nothing can be written there", where=found.url, hint="Give a folder or s3://BUCKET/PREFIX"
        )
    from kiosk.store.s3 import S3Store  # boto3 takes its time to load

    options = s3 or S3Options()
    return S3Store(
        found.bucket, found.prefix, endpoint=options.endpoint, region=options.region, ca=options.ca
    )
