"""Objects: immutable stored bytes named by their SHA-256, and the small interface of what holds them.

A source only gives objects; a store also takes them. Whatever `read` returns has been checked against the
object's size and digest. *Missing* (the place does not have the object) is kept apart from *corrupt* (the
place has other bytes under that name): the first may be asked elsewhere, the second is reported.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from threading import Event
from typing import Protocol

from kiosk.errors import CorruptError, NotFoundError
from kiosk.model.manifest import Object

Progress = Callable[[int], object]
"""Told how many more bytes of the file are done; a progress bar's `update`."""

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class MissingObject(NotFoundError):
    """The source answers, and does not have this object."""


class ObjectSource(Protocol):
    """Where objects can be read."""

    def read(self, wanted: Object, stop: Event | None = None) -> bytes:
        """The object's bytes, verified. Raises MissingObject, CorruptError, or what reaching it raises.

        Once `stop` is set, no more tries are made.
        """

    def has(self, wanted: Object) -> bool:
        """Whether the source has an object of this name and size (its bytes are not checked)."""


class ObjectStore(ObjectSource, Protocol):
    """Where objects can be kept as well."""

    def write(self, data: bytes) -> Object:
        """Keeps bytes durably and returns the object; what is there already is not written again."""

    def objects(self) -> Iterator[Object]:
        """Everything in the store, by name."""

    def remove(self, digest: str) -> None:
        """Removes an object; MissingObject when there is none."""


def quiet(_done: int) -> None:
    """A progress that tells nobody."""


def named(data: bytes) -> Object:
    """The object that these bytes are."""
    return Object(digest="sha256:" + hashlib.sha256(data).hexdigest(), size=len(data))


def path_of(digest: str) -> str:
    """Where an object stands below a repository: `objects/ab/abcdef...`."""
    if not DIGEST.fullmatch(digest):
        raise CorruptError(f"{digest[:80]!r} is not a digest")
    name = digest.removeprefix("sha256:")
    return f"objects/{name[:2]}/{name}"


def check(data: bytes, wanted: Object, where: str) -> bytes:
    """The bytes, if they are what was wanted; CorruptError naming `where` if they are not."""
    if len(data) != wanted.size:
        raise CorruptError(f"has {len(data)} bytes instead of {wanted.size}", where=where)
    found = "sha256:" + hashlib.sha256(data).hexdigest()
    if found != wanted.digest:
        raise CorruptError(f"has the digest {found} instead of {wanted.digest}", where=where)
    return data
