"""Which packs are worth their bytes: at publish time for a cold reader, later for the store. Pure.

A reader fetches packs whole. A new version that uses few blocks of an old pack makes a cold reader fetch all of
it, and keeps all of it in the store for as long as the version is kept. What is published and signed never
changes, so this is decided when a version is cut: where the packs that it needs would have more than `COLD`
times the bytes that the version alone would need, the blocks that it uses of the least used packs are stored
once more, in new packs, until the bound holds (`choose`).

What follows for one file, with sizes taken as if all blocks of a pack compressed alike:

* Its packs together never have more than `COLD` times the bytes that it uses of them; without that margin
  for blocks that compress differently, at most 1.2 times.
* Of the packs that a version needs, at most 1 - 1/COLD (15 %) is not used by it. With the last N versions of
  a name kept, what no kept version uses was unused by the oldest of them already, and so is below that, too.
* To get rid of E bytes that are not used, at most E * share / (1 - share) bytes are stored again, and one pack;
  share, of the fullest pack taken, stays below 1/COLD: the emptiest packs go first. Waste grows only by what a
  version stops using, so that is at most about six times what changed; with changes that are spread evenly, it
  was measured to be twice. They cost space and the publisher's time. A host that holds the version before does
  not move them: the index says where they stood (`Moved`). A host that skipped this version does.

Several names that share packs can together leave more dead content than each alone. `to_forget` then says
which packs later versions should not refer to any more, so that they go with the versions that name them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import NamedTuple, TypeVar

from kiosk.store.index import Runs

COLD = Fraction(117, 100)
"""Bytes that a cold reader fetches, to bytes that the file alone would need. Readers are promised 1.2."""
DEAD = Fraction(1, 5)
"""The largest part of the packs' bytes that may belong to blocks which no kept version uses."""
Key = TypeVar("Key", int, str)


class Share(NamedTuple):
    """A pack's stored bytes, how many blocks are in it, and how many of those are used."""

    size: int
    blocks: int
    used: int

    @property
    def used_bytes(self) -> Fraction:
        """The part of its bytes that is used."""
        return Fraction(self.size * self.used, self.blocks)

    @property
    def unused_bytes(self) -> Fraction:
        """The other part."""
        return self.size - self.used_bytes


def used_slots(runs: Runs) -> dict[int, int]:
    """Of each pack that is used, by its number in the index, the used slots as the bits of a number."""
    used: dict[int, int] = {}
    for pack, slot, count in zip(runs.pack, runs.slot, runs.count, strict=True):
        used[pack] = used.get(pack, 0) | ((1 << count) - 1) << slot
    return used


def choose(old: Mapping[Key, Share], new_bytes: int, cold: Fraction = COLD) -> frozenset[Key]:
    """The old packs whose used blocks to store once more, so that all packs have at most `cold` times the bytes
    that are used of them. `new_bytes` is the size of this file's new packs, which are used in full."""
    needed = new_bytes + sum(s.size for s in old.values())
    alone = new_bytes + sum(s.used_bytes for s in old.values())
    return _emptiest(old, needed - cold * alone)


def to_forget(packs: Mapping[Key, Share], dead: Fraction = DEAD) -> frozenset[Key]:
    """The packs that later versions should not use any more, so that of the other packs' bytes, together with
    what is used of these, at most the part `dead` is not used. `used` is what any kept version uses."""
    used = sum((s.used_bytes for s in packs.values()), Fraction())
    return _emptiest(packs, sum(s.size for s in packs.values()) - used / (1 - dead))


def dead_bytes(packs: Iterable[Share]) -> int:
    """How many of the packs' bytes belong to blocks that are not used."""
    return round(sum(s.unused_bytes for s in packs))


def _emptiest(packs: Mapping[Key, Share], excess: Fraction) -> frozenset[Key]:
    """The packs with the least used share, as many as it takes to be rid of `excess` unused bytes."""
    chosen: set[Key] = set()
    by_share = sorted(packs, key=lambda n: (Fraction(packs[n].used, packs[n].blocks), -packs[n].size, n))
    for number in by_share:
        if excess <= 0:
            break
        excess -= packs[number].unused_bytes
        chosen.add(number)
    return frozenset(chosen)
