"""The versions before the one that is published: their indexes, and their files to make differences to.

An older file is the built one where that is still there, else it is made anew from the repository's own objects
in a private folder. Whatever can't be had is no fault: the version is published without that difference.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kiosk.config import Settings
from kiosk.errors import CorruptError, NotFoundError, StorageError
from kiosk.files import scratch
from kiosk.log import logger
from kiosk.model.manifest import Artifact, Difference, Manifest
from kiosk.publish import differ
from kiosk.store.api import DirectoryStore, MissingObject
from kiosk.store.fetch import fetch
from kiosk.store.index import Index, load

log = logger(__name__)

LEAST = 16 << 20
"""Files smaller than this get no difference."""


@dataclass(frozen=True)
class Before:
    """A file of an older version, with its index."""

    manifest: Manifest
    artifact: Artifact
    index: Index

    def built(self, settings: Settings) -> Path | None:
        """The built file, where it is still there (its bytes are looked at by whoever uses them)."""
        path = settings.images / self.manifest.ref.base / str(self.manifest.ref.version) / self.artifact.file
        return path if path.is_file() and path.stat().st_size == self.artifact.size else None


def before(store: DirectoryStore, manifests: Sequence[Manifest], name: str) -> list[Before]:
    """What older versions, newest first, have under an artifact's name."""
    found: list[Before] = []
    for manifest in manifests:
        artifact = manifest.artifacts.get(name)
        if artifact is None or artifact.index is None:
            continue
        try:
            found.append(Before(manifest, artifact, load(store, artifact.index)))
        except (MissingObject, CorruptError) as e:
            log.warning("%s is not compared with: %s", manifest.ref, e)
    return found


def differences(
    settings: Settings, path: Path, artifact: Artifact, older: Sequence[Before], store: DirectoryStore
) -> tuple[Difference, ...]:
    """The differences of a published file to older ones, those that pay."""
    if artifact.index is None or artifact.size < LEAST:
        return ()
    index = load(store, artifact.index)
    found: dict[str, Difference] = {}
    for one in older:
        if one.artifact.digest in (artifact.digest, *found):
            continue
        try:
            with _file(settings, one, store) as old:
                made = differ.make(
                    path,
                    index,
                    differ.Older(old, one.artifact.digest, one.index),
                    store,
                    seconds=settings.difference_seconds,
                )
        except (NotFoundError, CorruptError, StorageError, OSError) as e:
            log.warning("no difference to %s is made: %s", one.manifest.ref, e)
            continue
        if made is not None:
            found[made.base] = made
    return tuple(found.values())


@contextlib.contextmanager
def _file(settings: Settings, one: Before, store: DirectoryStore) -> Iterator[Path]:
    if (built := one.built(settings)) is not None:
        yield built
        return
    with scratch(settings.home / "scratch", prefix="older-") as folder:
        fetch(one.artifact, folder / one.artifact.file, store)
        yield folder / one.artifact.file
