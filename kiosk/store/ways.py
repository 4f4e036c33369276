"""What a host would move to get a version, by each way that there is. Pure: it counts, and moves nothing.

A way is one row; another way is one more function in `WAYS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kiosk.model.manifest import Artifact
from kiosk.store import plan
from kiosk.store.difference import Difference
from kiosk.store.index import BLOCK, Index


@dataclass(frozen=True)
class Wanted:
    """A file that a host needs, its index, the index of the same file in the version that the host holds (None:
    it holds none), and the difference between the two, where there is one, with its list's bytes."""

    artifact: Artifact
    index: Index
    held: Index | None
    difference: Difference | None = None
    difference_size: int = 0


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
    """Every way that there is, the cheapest first."""
    there = [w for w in WAYS if w is not difference or any(one.difference for one in wanted)]
    return sorted((way(wanted) for way in there), key=lambda w: (w.bytes, w.requests))


def packs(wanted: Sequence[Wanted]) -> Way:
    """Blocks that the host holds are used, and the packs that have the others are moved."""
    return _way("packs", wanted, use_held=True)


def difference(wanted: Sequence[Wanted]) -> Way:
    """The same, but a file that has a difference to the one that the host holds is made by it."""
    return _way("difference", wanted, use_held=True, use_differences=True)


def whole(wanted: Sequence[Wanted]) -> Way:
    """What a host moves that holds nothing."""
    return _way("whole", wanted)


WAYS = (packs, difference, whole)


def _way(
    name: str, wanted: Sequence[Wanted], *, use_held: bool = False, use_differences: bool = False
) -> Way:
    moved = requests = indexes = reused = 0
    for one in wanted:
        held = [plan.Held.by(one.held)] if use_held and one.held is not None else []
        groups = one.difference if use_differences else None
        todo = plan.make(one.index, b"\1" * one.index.region_count, held, groups)
        assert one.artifact.index is not None
        indexes += one.artifact.index.size + (one.difference_size if groups else 0)
        moved += todo.moved
        requests += (2 if groups else 1) + len(todo.packs.order) + len(todo.groups.order)
        reused += todo.reused * BLOCK
    return Way(name, moved + indexes, requests, indexes, reused)
