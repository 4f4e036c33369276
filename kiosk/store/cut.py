"""Cuts a file into objects: blocks that the repository does not have go into new packs, then an index.

* A pack or an index is in the store, durably, before anything that names it is written or remembered.
* The same file and the same known blocks give the same objects; a publish that was interrupted can be run
  again and finds the objects that it had written.
* Memory stays bounded whatever the file's size; hashing and compressing use all cores.
* A cold reader of the file fetches at most 1.2 times what it would if nothing else had ever been published:
  blocks of old packs that are hardly used are stored once more, in a second pass (see `repack`).

Three kinds of threads: the caller's reads and finds what is new, one hashes regions and the whole file, the
others compress packs and store them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import threading
from array import array
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from kiosk.errors import CorruptError
from kiosk.model.manifest import Object
from kiosk.store import repack, wire
from kiosk.store.index import BLOCK, PACK_BLOCKS, REGION, Index, Pack, Runs, encode
from kiosk.store.known import KnownBlocks, Place
from kiosk.store.objects import ObjectStore, Progress, quiet

PACK = 1024
"""Blocks in a full pack: 4 MiB."""
LEVEL = 3
RECENT = 100_000
"""New blocks held in memory before they go to the file of known blocks."""
ZERO = bytes(BLOCK)
ZERO_REGION = bytes(REGION)


def publish_file(
    path: Path,
    store: ObjectStore,
    known: KnownBlocks,
    progress: Progress = quiet,
    *,
    digest: str | None = None,
) -> Object:
    """Stores a file and returns its index object.

    With `digest` (`sha256:HEX`), CorruptError unless the file has it. Whatever fails, the repository refers
    to nothing that is not there and the known blocks are as before.
    """
    try:
        with path.open("rb") as f, _Regions() as regions, _Packer(store, known) as packer:
            before = os.fstat(f.fileno())
            to = 0
            for data, length in _read(f.fileno(), before.st_size):
                regions.put(data, length)
                if data is not None:
                    packer.region(data, to)
                to += -(-length // BLOCK)
                progress(length)
            packs = packer.finish(f.fileno())
            region_digests, found = regions.finish()
            _unchanged(f.fileno(), before, path)
            _is(found, digest, path)
        index = Index(before.st_size, packs, region_digests, packer.runs)
        stored = store.write(encode(index))
        packer.remember()
    except BaseException:
        known.rollback()
        raise
    return stored


def _read(fd: int, size: int) -> Iterator[tuple[bytes | None, int]]:
    """The file region by region; None stands for a region that is a hole, which is not read."""
    data_from = data_to = 0
    for at in range(0, size, REGION):
        length = min(REGION, size - at)
        if data_to <= at:
            try:
                data_from = os.lseek(fd, at, os.SEEK_DATA)
                data_to = os.lseek(fd, data_from, os.SEEK_HOLE)
            except OSError as e:
                if e.errno != errno.ENXIO:
                    raise
                data_from = data_to = size
        if data_from >= at + length:
            yield None, length
            continue
        data = os.pread(fd, length, at)
        if len(data) != length:
            raise CorruptError(f"ends at {at + len(data)}, it became shorter while it was read")
        yield data, length


def _unchanged(fd: int, before: os.stat_result, path: Path) -> None:
    after = os.fstat(fd)
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise CorruptError("was changed while it was being published", where=str(path))


def _is(found: str, digest: str | None, path: Path) -> None:
    if digest not in (None, found):
        raise CorruptError(f"has the digest {found} instead of {digest}", where=str(path))


class _Regions:
    """A thread that hashes each region and the whole file, a few regions behind the reader."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[bytes | None, int] | None] = queue.Queue(maxsize=16)
        self._whole = hashlib.sha256()
        self._digests: list[bytes] = []
        self._thread = threading.Thread(target=self._work, name="kiosk-regions", daemon=True)

    def __enter__(self) -> _Regions:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def put(self, data: bytes | None, length: int) -> None:
        """Hashes the next region."""
        self._queue.put((data, length))

    def finish(self) -> tuple[bytes, str]:
        """All regions' digests, one after the other, and the file's."""
        self._queue.put(None)
        self._thread.join()
        return b"".join(self._digests), "sha256:" + self._whole.hexdigest()

    def _work(self) -> None:
        hole = hashlib.sha256(ZERO_REGION).digest()
        while (item := self._queue.get()) is not None:
            data, length = item
            if data is None:
                zeros = memoryview(ZERO_REGION)[:length]
                self._whole.update(zeros)
                self._digests.append(hole if length == REGION else hashlib.sha256(zeros).digest())
            else:
                self._whole.update(data)
                self._digests.append(hashlib.sha256(data).digest())


class _Packer:
    """Finds each block a place: one that is known, or one in a new pack."""

    def __init__(self, store: ObjectStore, known: KnownBlocks) -> None:
        self._store = store
        self._known = known
        self.runs = Runs()
        self._table: list[Pack | Future[Pack]] = []
        self._numbers: dict[int, int] = {}  # known number -> number in this index
        self._recent: dict[bytes, Place] = {}
        self._current: list[bytes] = []
        self._number = -1  # of the current pack, among the known ones
        workers = max(2, os.cpu_count() or 2)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="kiosk-pack")
        self._storing: list[Future[Pack]] = []
        self._in_flight = threading.BoundedSemaphore(workers + 2)

    def __enter__(self) -> _Packer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def region(self, data: bytes, to: int) -> None:
        """Places the blocks of one region, which begins at block `to` of the file."""
        digests: list[bytes | None] = []
        blocks: list[bytes] = []
        for at in range(0, len(data), BLOCK):
            if data.startswith(ZERO, at):
                block, digest = b"", None
            else:
                block = data[at : at + BLOCK]
                if len(block) < BLOCK:
                    block = block.ljust(BLOCK, b"\0")
                digest = None if block == ZERO else hashlib.sha256(block).digest()
            blocks.append(block)
            digests.append(digest)
        places = self._places([d for d in dict.fromkeys(digests) if d is not None])
        for i, digest in enumerate(digests):
            if digest is None:
                continue
            place = places.get(digest)
            if place is None:
                place = places[digest] = self._recent[digest] = self._store_block(blocks[i])
            self.runs.append(to + i, self._numbers[place[0]], place[1], 1)

    def finish(self, fd: int) -> tuple[Pack, ...]:
        """Closes the last pack, and repacks where that pays; the table of packs, all of them stored."""
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
        return tuple(table)

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
                    place = self._recent[hashlib.sha256(block).digest()] = self._store_block(block)
                    places[slot + i] = self._numbers[place[0]] * PACK_BLOCKS + place[1]
                self.runs.append(to + i, *divmod(places[slot + i], PACK_BLOCKS), 1)

    def _number_by_use(self) -> None:
        """Puts the packs that are used in the order of the file, so that where they stood before leaves no trace."""
        kept = list(dict.fromkeys(self.runs.pack))
        number = {old: new for new, old in enumerate(kept)}
        self._table = [self._table[n] for n in kept]
        self._numbers = {k: number[n] for k, n in self._numbers.items() if n in number}
        self.runs.pack = array("I", map(number.__getitem__, self.runs.pack))

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

    def _store_block(self, block: bytes) -> Place:
        if len(self._current) == PACK:
            self._close_pack()
        if not self._current:
            if len(self._recent) >= RECENT:
                self._flush()
            self._number = self._known.new_pack()
            self._numbers[self._number] = len(self._table)
            self._table.append(Future())
        self._current.append(block)
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
