"""Finds each block of a file a place: a known one, or one in a new pack, which is compressed and stored.

The caller's thread finds what is new; others compress packs and store them. A pack is in the store, durably,
before `finish` returns; nothing is remembered before `remember`.
"""

from __future__ import annotations

import os
import threading
from array import array
from concurrent.futures import Future, ThreadPoolExecutor

from kiosk.store import repack, sums, wire
from kiosk.store.index import (
    BLOCK,
    NO_SUMS,
    PACK_BLOCKS,
    REGION_BLOCKS,
    WITHOUT_SUMS,
    Moved,
    Pack,
    Runs,
    Sums,
    block_digest,
)
from kiosk.store.known import KnownBlocks, Place
from kiosk.store.objects import ObjectStore
from kiosk.store.older import Older

PACK = 1024
"""Blocks in a full pack: 4 MiB."""
LEVEL = 5
"""Half a second more for each 260 MB of new blocks than level 3, and 2 % fewer bytes."""
WAITING = 4
"""Workers more than cores: they wait for the disk to have what they wrote."""
RECENT = 100_000
"""New blocks held in memory before they go to the file of known blocks."""
ZERO = bytes(BLOCK)


class Packer:
    """Finds each block a place: one that is known, or one in a new pack; none for blocks that readers compute."""

    def __init__(
        self, store: ObjectStore, known: KnownBlocks, older: Older | None = None, computed: range = range(0)
    ) -> None:
        self._computed = computed
        self._store = store
        self._known = known
        self._older = older
        self._older_packs = known.numbers([p.object.digest for p in older.index.packs]) if older else []
        self.runs = Runs()
        self.moved: list[Moved] = []
        self._table: list[Pack | Future[Pack]] = []
        self._numbers: dict[int, int] = {}  # known number -> number in this index
        self._recent: dict[bytes, Place] = {}
        self._current: list[bytes] = []
        self._sums: dict[int, bytearray] = {}  # known number -> the sums of a new pack's blocks
        self._number = -1  # of the current pack, among the known ones
        workers = (os.cpu_count() or 2) + WAITING
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="kiosk-pack")
        self._storing: list[Future[Pack]] = []
        self._in_flight = threading.BoundedSemaphore(workers + 2)

    def __enter__(self) -> Packer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def again(self, region: int, digest: bytes) -> bool:
        """Places the blocks of a region as in the older file, if it is the same there and can be used."""
        if self._older is None or self._older.index.region_digest(region) != digest:
            return False
        begin, end = region * REGION_BLOCKS, (region + 1) * REGION_BLOCKS
        if self._computed.start < end and begin < self._computed.stop:
            return False
        placed = []
        for to, pack, slot, count in self._older.runs(region):
            number = self._older_packs[pack]
            if number is None or not self._usable(number):
                return False
            placed.append((to, self._numbers[number], slot, count))
        for run in placed:
            self.runs.append(*run)
        return True

    def region(self, number: int, data: bytes, before: bytes | None = None) -> None:
        """Places the blocks of one region, one by one. `before` are the older file's bytes there."""
        to = number * REGION_BLOCKS
        places = self._as_before(number, data, before) if before is not None else {}
        blocks: dict[int, bytes] = {}
        digests: dict[int, bytes] = {}
        for i, at in enumerate(range(0, len(data), BLOCK)):
            if i in places or data.startswith(ZERO, at) or to + i in self._computed:
                continue
            block = _block(data, at)
            if block != ZERO:
                blocks[i], digests[i] = block, block_digest(block)
        found = self._places(list(dict.fromkeys(digests.values())))
        for i in sorted([*places, *digests]):
            place = places.get(i) or found.get(digests[i])
            if place is None:
                digest = digests[i]
                place = found[digest] = self._recent[digest] = self._store_block(blocks[i], digest)
            self.runs.append(to + i, self._numbers[place[0]], place[1], 1)

    def _as_before(self, region: int, data: bytes, before: bytes) -> dict[int, Place]:
        """The places of those blocks of a region that are the same in the older file, by their number in it."""
        found: dict[int, Place] = {}
        assert self._older is not None
        begin = region * REGION_BLOCKS
        for to, pack, slot, count in self._older.runs(region):
            number = self._older_packs[pack]
            if number is None or not self._usable(number):
                continue
            for i in range(count):
                at = (to - begin + i) * BLOCK
                same = data[at : at + BLOCK] == before[at : at + BLOCK]
                if same and to + i not in self._computed:
                    found[to - begin + i] = (number, slot + i)
        return found

    def finish(self, fd: int, *, with_sums: bool) -> tuple[tuple[Pack, ...], Sums]:
        """Closes the last pack, and repacks where that pays; the table of packs, all of them stored, and the sums
        of their blocks."""
        self._close_pack()
        chosen = self._hardly_used()
        if chosen:
            self._store_again(fd, chosen)
            self._close_pack()
        self._number_by_use()
        table = [entry.result() if isinstance(entry, Future) else entry for entry in self._table]
        for known_number, number in self._numbers.items():
            if isinstance(self._table[number], Future):
                self._known.name_pack(known_number, table[number])
        if with_sums:
            self._store_sums(table)
        return tuple(table), self._known_sums()

    def _store_sums(self, table: list[Pack]) -> None:
        """Stores the sums of the new packs."""
        new = sorted((n for n in self._sums if n in self._numbers), key=lambda n: self._numbers[n])
        for at in range(0, len(new), sums.PACKS):
            some = new[at : at + sums.PACKS]
            rows = [(table[self._numbers[n]].object.digest, bytes(self._sums[n])) for n in some]
            self._known.name_sums(some, self._store.write(sums.encode(rows)))

    def _known_sums(self) -> Sums:
        """The sums objects of all packs in the table that have one which is still in the store."""
        of_known = self._known.sums(list(self._numbers))
        objects = dict.fromkeys(o for o in of_known.values())
        there = [o for o in objects if self._store.has(o)]
        place = {o: i for i, o in enumerate(there)}
        of_pack = [NO_SUMS] * len(self._table)
        for number, named in of_known.items():
            of_pack[self._numbers[number]] = place.get(named, NO_SUMS)
        return Sums(tuple(there), of_pack) if there else WITHOUT_SUMS

    def _hardly_used(self) -> frozenset[int]:
        """The old packs that are not worth their bytes to a cold reader."""
        used = repack.used_slots(self.runs)
        old = {n: pack for n, pack in enumerate(self._table) if isinstance(pack, Pack) and n in used}
        if not old:
            return frozenset()
        shares = {n: repack.Share(p.object.size, p.blocks, used[n].bit_count()) for n, p in old.items()}
        new_bytes = sum(e.result().object.size for e in self._table if isinstance(e, Future))
        return repack.choose(shares, new_bytes)

    def _store_again(self, fd: int, chosen: frozenset[int]) -> None:
        """Stores what is used of these packs in new ones, and has the runs refer to those."""
        before, self.runs = self.runs, Runs()
        moved = {n: array("q", [-1]) * PACK_BLOCKS for n in chosen}
        for to, number, slot, count in before:
            if number not in chosen:
                self.runs.append(to, number, slot, count)
                continue
            places = moved[number]
            for i in range(count):
                if places[slot + i] < 0:
                    block = os.pread(fd, BLOCK, (to + i) * BLOCK).ljust(BLOCK, b"\0")
                    digest = block_digest(block)
                    place = self._recent[digest] = self._store_block(block, digest)
                    places[slot + i] = self._numbers[place[0]] * PACK_BLOCKS + place[1]
                    self._moved(self._numbers[place[0]], place[1], number, slot + i)
                self.runs.append(to + i, *divmod(places[slot + i], PACK_BLOCKS), 1)

    def _moved(self, pack: int, slot: int, old: int, old_slot: int) -> None:
        """Notes where a block stood that was stored again."""
        entry = self._table[old]
        assert isinstance(entry, Pack)
        digest = entry.object.digest
        if self.moved:
            last = self.moved[-1]
            goes_on = (last.pack, last.slot + last.length, last.old, last.old_slot + last.length)
            if goes_on == (pack, slot, digest, old_slot):
                self.moved[-1] = last._replace(length=last.length + 1)
                return
        self.moved.append(Moved(pack, slot, 1, digest, old_slot))

    def _number_by_use(self) -> None:
        """Puts the packs that are used in the order of the file, so that where they stood before leaves no trace."""
        kept = list(dict.fromkeys(self.runs.pack))
        number = {old: new for new, old in enumerate(kept)}
        self._table = [self._table[n] for n in kept]
        self._numbers = {k: number[n] for k, n in self._numbers.items() if n in number}
        self.runs.pack = array("I", map(number.__getitem__, self.runs.pack))
        self.moved = [m._replace(pack=number[m.pack]) for m in self.moved]

    def remember(self) -> None:
        """Makes what was stored known."""
        self._flush()
        self._known.commit()

    def _places(self, digests: list[bytes]) -> dict[bytes, Place]:
        found = {d: self._recent[d] for d in digests if d in self._recent}
        places = self._known.find([d for d in digests if d not in found])
        usable = {number for number in {p for p, _ in places.values()} if self._usable(number)}
        found.update((d, place) for d, place in places.items() if place[0] in usable)
        return found

    def _usable(self, number: int) -> bool:
        """Whether a known pack is in the store; it gets its number in this index when it is used first."""
        if number in self._numbers:
            return True
        pack = self._known.pack(number)
        if pack is None or not self._store.has(pack.object):
            self._known.forget(number)
            return False
        self._numbers[number] = len(self._table)
        self._table.append(pack)
        return True

    def _store_block(self, block: bytes, digest: bytes) -> Place:
        if len(self._current) == PACK:
            self._close_pack()
        if not self._current:
            if len(self._recent) >= RECENT:
                self._flush()
            self._number = self._known.new_pack()
            self._numbers[self._number] = len(self._table)
            self._table.append(Future())
            self._sums[self._number] = bytearray()
        self._current.append(block)
        self._sums[self._number] += digest[: sums.BYTES]
        return self._number, len(self._current) - 1

    def _close_pack(self) -> None:
        if not self._current:
            return
        blocks, self._current = self._current, []
        self._in_flight.acquire()
        self._failed()
        future = self._pool.submit(_seal, self._store, blocks)
        future.add_done_callback(lambda _: self._in_flight.release())
        self._table[self._numbers[self._number]] = future
        self._storing.append(future)

    def _failed(self) -> None:
        """Ends the cutting soon after a pack could not be stored."""
        for future in [f for f in self._storing if f.done()]:
            future.result()
            self._storing.remove(future)

    def _flush(self) -> None:
        self._known.add(sorted((d, pack, slot) for d, (pack, slot) in self._recent.items()))
        self._recent.clear()


def _seal(store: ObjectStore, blocks: list[bytes]) -> Pack:
    """Compresses a pack and stores it."""
    stored = wire.seal(wire.PACK, b"".join(blocks), level=LEVEL)
    return Pack(store.write(stored), len(blocks))


def _block(data: bytes, at: int) -> bytes:
    """A block of a region; one that is not full is filled up with zeros."""
    return data[at : at + BLOCK].ljust(BLOCK, b"\0")
