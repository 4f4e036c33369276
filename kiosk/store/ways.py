"""What a host would move to get a version, by each way that there is. Pure: it counts, and moves nothing.

A way is one row; another way is one more function in `WAYS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kiosk.model.manifest import Artifact
from kiosk.store import plan
from kiosk.store.index import BLOCK, Index


@dataclass(frozen=True)
class Wanted:
    """A file that a host needs, its index, and the index of the same file in the version that the host holds
    (None: it holds none)."""

    artifact: Artifact
    index: Index
    held: Index | None


@dataclass(frozen=True)
class Way:
    """One way to a version: compressed bytes and objects to move, indexes included; how many of those bytes
    are indexes; and the bytes of the files that come from what the host holds."""

    way: str
    bytes: int
    requests: int
    index_bytes: int
    reused: int


def ways(wanted: Sequence[Wanted]) -> list[Way]:
    """Every way, the cheapest first."""
    return sorted((way(wanted) for way in WAYS), key=lambda w: (w.bytes, w.requests))


def blocks(wanted: Sequence[Wanted]) -> Way:
    """Blocks that the host holds are used, and the packs that have the others are moved."""
    return _packs("blocks", wanted, use_held=True)


def whole(wanted: Sequence[Wanted]) -> Way:
    """What a host moves that holds nothing."""
    return _packs("whole", wanted, use_held=False)


WAYS = (blocks, whole)


def _packs(name: str, wanted: Sequence[Wanted], *, use_held: bool) -> Way:
    moved = requests = indexes = reused = 0
    for one in wanted:
        held = [plan.Held(one.held)] if use_held and one.held is not None else []
        todo = plan.make(one.index, b"\1" * one.index.region_count, held)
        assert one.artifact.index is not None
        indexes += one.artifact.index.size
        moved += sum(one.index.packs[number].object.size for number in todo.order)
        requests += 1 + len(todo.order)
        reused += todo.reused * BLOCK
    return Way(name, moved + indexes, requests, indexes, reused)
