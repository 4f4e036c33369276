"""A store in an S3 bucket: `PREFIX/objects/ab/abcdef...`, the same names as everywhere.

An object appears whole under its name or not at all, and is kept by the service when `write` returns. Two
writers of one object write the same bytes, so neither needs a lock. What is read is checked against size and
digest; a bucket is trusted no more than any other place.
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

from kiosk.bucket import Bucket, MissingKey, Patience
from kiosk.config import S3Options
from kiosk.model.manifest import Object
from kiosk.store.objects import DIGEST, MissingObject, check, named, path_of


class S3Store:
    """The objects below a prefix of a bucket. May be used by several threads at a time."""

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str | None = None,
        region: str | None = None,
        ca: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.bucket = Bucket(bucket, prefix, S3Options(endpoint, region, ca), patience)
        self.url = self.bucket.url().rstrip("/")

    def read(self, wanted: Object, stop: Event | None = None) -> bytes:
        """Gets an object. MissingObject, CorruptError, or NetworkError for all that boto3 could not overcome."""
        key = path_of(wanted.digest)
        try:
            data = self.bucket.read(key, wanted.size, stop)
        except MissingKey:
            raise MissingObject("the bucket does not have the object", where=self.bucket.url(key)) from None
        return check(data, wanted, self.bucket.url(key))

    def has(self, wanted: Object) -> bool:
        """Asks for the object's headers. A bucket that is not there has nothing: `read` and `write` say so."""
        return self.bucket.size(path_of(wanted.digest)) == wanted.size

    def write(self, data: bytes) -> Object:
        """Puts the object, unless it is there with the same bytes; a damaged one is replaced."""
        made = named(data)
        key = path_of(made.digest)
        if not self.bucket.holds(key, data):
            self.bucket.put(key, data)
        return made

    def objects(self) -> Iterator[Object]:
        """Every object by name; other keys are not objects."""
        for key, size in self.bucket.list("objects/"):
            digest = f"sha256:{key.rpartition('/')[2]}"
            if DIGEST.fullmatch(digest) and key == path_of(digest):
                yield Object(digest=digest, size=size)

    def remove(self, digest: str) -> None:
        """Removes an object's key."""
        key = path_of(digest)
        if self.bucket.size(key) is None:
            raise MissingObject("the bucket does not have the object", where=self.bucket.url(key))
        self.bucket.remove(key)
