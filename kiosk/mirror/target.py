"""Where a mirror is made: a folder or a bucket. Each file appears whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kiosk import files
from kiosk.config import S3Options
from kiosk.errors import VerificationError
from kiosk.mirror.state import State
from kiosk.place import Place
from kiosk.store import locate
from kiosk.store.directory import DirectoryStore
from kiosk.store.objects import ObjectStore

if TYPE_CHECKING:
    from kiosk.store.s3 import S3Store

LARGEST = 1 << 20
TIMESTAMP = "metadata/timestamp.json"


class Target(Protocol):
    """A repository that is being written, by paths below it."""

    store: ObjectStore

    def read(self, path: str) -> bytes | None:
        """A small file (to 1 MiB and a byte), or None when it is not there."""

    def holds(self, path: str, data: bytes) -> bool:
        """Whether a file is there with these very bytes."""

    def put(self, path: str, data: bytes) -> None:
        """Writes a file, atomically and durably."""


class FolderTarget:
    """A folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store: ObjectStore = DirectoryStore(folder)

    def read(self, path: str) -> bytes | None:
        """See Target."""
        try:
            with (self.folder / path).open("rb") as f:
                return f.read(LARGEST + 1)
        except FileNotFoundError:
            return None

    def holds(self, path: str, data: bytes) -> bool:
        """See Target."""
        try:
            with (self.folder / path).open("rb") as f:
                return f.read(len(data) + 1) == data
        except FileNotFoundError:
            return False

    def put(self, path: str, data: bytes) -> None:
        """See Target."""
        files.write(self.folder / path, data)


class BucketTarget:
    """A bucket, with the headers that caches need when it is read over HTTP."""

    def __init__(self, store: S3Store) -> None:
        from kiosk.bucket import CHANGES, FOREVER, MissingKey

        self.store: ObjectStore = store
        self._bucket = store.bucket
        self._missing = MissingKey
        self._caching = {True: CHANGES, False: FOREVER}

    def read(self, path: str) -> bytes | None:
        """See Target."""
        try:
            return self._bucket.read(path, LARGEST)
        except self._missing:
            return None

    def holds(self, path: str, data: bytes) -> bool:
        """See Target."""
        return self._bucket.holds(path, data)

    def put(self, path: str, data: bytes) -> None:
        """See Target."""
        self._bucket.put(path, data, cache=self._caching[path == TIMESTAMP], kind="application/json")


def target(where: Place, s3: S3Options | None = None) -> Target:
    """The target of a name; UsageError where nothing can be written."""
    store = locate.kept(where, s3)
    return FolderTarget(store.repository) if isinstance(store, DirectoryStore) else BucketTarget(store)


def check(to: Target, where: Place, state: State) -> None:
    """VerificationError unless the target is empty or holds this repository in no newer state. What it says is
    not verified: it can keep a mirror from being written, not get anything into it."""
    first = dict(state.metadata).get("metadata/1.root.json")
    there = to.read("metadata/1.root.json")
    if there is not None and first is not None and there != first:
        raise VerificationError(
            "another repository is there",
            where=str(where),
            hint="Give an empty folder or prefix to a mirror.",
        )
    try:
        shown = int(json.loads(to.read(TIMESTAMP) or b"0")["signed"]["version"])
    except (ValueError, KeyError, TypeError):
        return
    if shown > state.version:
        raise VerificationError(
            f"shows state {shown} already, and {state.version} was read to put in its place",
            where=str(where),
            hint="The source is behind its own mirror: a stale mirror, or a repository put back from a backup.",
        )


def missing(to: Target, wanted: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Those files that are not there as they should be, in the same order."""
    return [(path, data) for path, data in wanted if not to.holds(path, data)]
