"""Which objects a version needs. The one place that knows: what copies, keeps, or counts asks here."""

from __future__ import annotations

from collections.abc import Iterator

from kiosk.errors import CorruptError
from kiosk.log import logger
from kiosk.model.manifest import Artifact, Manifest, Object
from kiosk.store import difference
from kiosk.store.index import Index, load
from kiosk.store.objects import MissingObject, ObjectSource

log = logger(__name__)


def needs(source: ObjectSource, manifest: Manifest) -> Iterator[Object]:
    """Every object of a version once; what an object names comes before it, so that whoever copies in this
    order has an index only when its packs are there. Indexes are read from `source`, whose errors are passed
    on, as is CorruptError for an index that is not sound. A difference whose list can't be read is passed over."""
    seen: set[str] = set()
    for artifact in manifest.artifacts.values():
        for needed in _of_artifact(source, artifact):
            if needed.digest not in seen:
                seen.add(needed.digest)
                yield needed
    if manifest.torrent is not None and manifest.torrent.file.digest not in seen:
        yield manifest.torrent.file


def shortcuts(source: ObjectSource, manifest: Manifest) -> Iterator[Object]:
    """Those of them that readers can do without: sums, the groups and lists of differences, and the torrent."""
    for artifact in manifest.artifacts.values():
        if artifact.index is not None:
            yield from _shortcuts(source, artifact, load(source, artifact.index))
    if manifest.torrent is not None:
        yield manifest.torrent.file


def lists(manifest: Manifest) -> Iterator[Object]:
    """The lists of groups that a version's differences have."""
    return (d.groups for artifact in manifest.artifacts.values() for d in artifact.differences)


def _of_artifact(source: ObjectSource, artifact: Artifact) -> Iterator[Object]:
    if artifact.index is None:
        return
    index = load(source, artifact.index)
    yield from (pack.object for pack in index.packs)
    yield artifact.index
    yield from _shortcuts(source, artifact, index)


def _shortcuts(source: ObjectSource, artifact: Artifact, index: Index) -> Iterator[Object]:
    yield from index.sums.objects
    for offered in artifact.differences:
        try:
            groups = difference.load(source, offered.groups, index).groups
        except (MissingObject, CorruptError) as e:
            log.warning("a difference to %s is passed over: %s", offered.base, e)
            continue
        yield from (group.object for group in groups)
        yield offered.groups
