"""Which objects a version needs. The one place that knows: what copies, keeps, or counts asks here."""

from __future__ import annotations

from collections.abc import Iterator

from kiosk.model.manifest import Artifact, Manifest, Object
from kiosk.store import difference
from kiosk.store.index import load
from kiosk.store.objects import ObjectSource


def needs(source: ObjectSource, manifest: Manifest) -> Iterator[Object]:
    """Every object of a version once; what an object names comes before it, so that whoever copies in this
    order has an index only when its packs are there. Indexes are read from `source`, whose errors are passed
    on, as is CorruptError for an index that is not sound."""
    seen: set[str] = set()
    for artifact in manifest.artifacts.values():
        for needed in of_artifact(source, artifact):
            if needed.digest not in seen:
                seen.add(needed.digest)
                yield needed


def of_artifact(source: ObjectSource, artifact: Artifact) -> Iterator[Object]:
    """The same of one file: packs, sums, the index, and for each difference its groups and their list."""
    if artifact.index is None:
        return
    index = load(source, artifact.index)
    yield from (pack.object for pack in index.packs)
    yield from index.sums.objects
    yield artifact.index
    for offered in artifact.differences:
        yield from (group.object for group in difference.load(source, offered.groups, index).groups)
        yield offered.groups
