"""Which objects a version needs: the one answer, for all that keep, count, copy, or remove objects."""

from __future__ import annotations

from collections.abc import Iterator

from kiosk.model.manifest import Artifact, Manifest, Object
from kiosk.store.index import load
from kiosk.store.objects import ObjectSource


def needs(source: ObjectSource, manifest: Manifest) -> Iterator[Object]:
    """Every object that makes a version's files; one that several files need may come several times.

    An index is given before it is read from `source`; MissingObject or CorruptError when it can't be.
    """
    for artifact in manifest.artifacts.values():
        yield from needs_of(source, artifact)


def needs_of(source: ObjectSource, artifact: Artifact) -> Iterator[Object]:
    """The same for one file."""
    if artifact.index is not None:
        yield artifact.index
        yield from (pack.object for pack in load(source, artifact.index).packs)
