"""How much of each pack is used by the files that are kept, and how much is dead content."""

from __future__ import annotations

from collections.abc import Iterable

from kiosk.model.manifest import Manifest, Object
from kiosk.store.index import Pack, load
from kiosk.store.objects import ObjectSource
from kiosk.store.repack import Share, used_slots


def indexes(manifests: Iterable[Manifest]) -> list[Object]:
    """The index objects that these manifests name, each once."""
    found = {a.index.digest: a.index for m in manifests for a in m.artifacts.values() if a.index}
    return list(found.values())


def shares(source: ObjectSource, indexes: Iterable[Object]) -> dict[str, Share]:
    """Each pack that any of these indexes names, by its digest. MissingObject or CorruptError when an index
    can't be read."""
    packs: dict[str, Pack] = {}
    used: dict[str, int] = {}
    for wanted in indexes:
        index = load(source, wanted)
        slots = used_slots(index.runs)
        for number, pack in enumerate(index.packs):
            digest = pack.object.digest
            packs[digest] = pack
            used[digest] = used.get(digest, 0) | slots.get(number, 0)
    return {d: Share(p.object.size, p.blocks, used[d].bit_count()) for d, p in packs.items()}
