"""Which objects a version needs. The one place that knows: what copies, keeps, or counts asks here."""

from __future__ import annotations

from collections.abc import Iterator

from kiosk.model.manifest import Manifest, Object
from kiosk.store.index import load
from kiosk.store.objects import ObjectSource


def needs(source: ObjectSource, manifest: Manifest) -> Iterator[Object]:
    """Every object of a version once; what an object names comes before it, so that whoever copies in this
    order has an index only when its packs are there. Indexes are read from `source`, whose errors are passed
    on, as is CorruptError for an index that is not sound."""
    seen: set[str] = set()
    for artifact in manifest.artifacts.values():
        if artifact.index is None or artifact.index.digest in seen:
            continue
        for pack in load(source, artifact.index).packs:
            if pack.object.digest not in seen:
                seen.add(pack.object.digest)
                yield pack.object
        seen.add(artifact.index.digest)
        yield artifact.index
