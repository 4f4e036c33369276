"""Searches a local file that has no index for blocks that a fetch needs: any disk image, raw or qcow2.

The file is read once, as it stands, in aligned blocks of 4 KiB, and what is found is an index of it, so that
the plan takes it for an older version. Formats are not looked into: qcow2 and others keep the guest's data in
aligned clusters, and what they compress or encrypt is just not found. So nothing of a hostile image is
interpreted, no backing file is followed, and no tool is needed.

* Sums are fetched only for packs that are to be downloaded, and only where they are small beside those.
* Memory is bounded by TABLE blocks, whatever the size of the file or of the image.
* What is found may be wrong (a sum is 8 bytes, and the file may change): the regions' digests tell.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from array import array
from collections.abc import Iterator
from typing import BinaryIO

from kiosk.errors import CorruptError
from kiosk.log import logger
from kiosk.store import plan, sums
from kiosk.store.index import BLOCK, MAX_FILE, NO_SUMS, PACK_BLOCKS, Index, Runs, block_digest
from kiosk.store.objects import MissingObject, ObjectSource

TABLE = 1 << 22
"""The most blocks that are searched for: 16 GiB of an image, in 96 MiB of memory."""
WORTH = 4
"""Sums are fetched where the packs that they may save are so many times larger."""
PROBES = 64
SAMPLES = 64
CHUNK = 1 << 22
ZERO = bytes(BLOCK)
_TAKEN = 0xFFFFFFFF
_KEY = struct.Struct("<Q")
log = logger(__name__)


class Table:
    """Where blocks are wanted, by their sums: a hash table in two arrays, each place given away once."""

    def __init__(self, blocks: int) -> None:
        size = 1 << max(4, (2 * blocks - 1).bit_length())
        self._mask = size - 1
        self._keys = array("Q", bytes(8 * size))
        self._places = array("I", bytes(4 * size))

    def add(self, key: int, place: int) -> None:
        """Adds a wanted block; one whose neighbourhood is full (somebody made it so) is left out."""
        for i in range(key, key + PROBES):
            at = i & self._mask
            if not self._keys[at]:
                self._keys[at], self._places[at] = key, place
                return
            if self._keys[at] == key:
                return

    def take(self, key: int) -> int | None:
        """The place of a block that is wanted and was not found yet."""
        for i in range(key, key + PROBES):
            at = i & self._mask
            found = self._keys[at]
            if found == key:
                place, self._places[at] = self._places[at], _TAKEN
                return None if place == _TAKEN else place
            if not found:
                return None
        return None


def search(file: BinaryIO, index: Index, todo: plan.Plan, source: ObjectSource) -> Index | None:
    """An index of those blocks of `file` that the plan would download; None where there is nothing to find."""
    table = _table(index, todo, source)
    if table is None:
        return None
    size = os.lseek(file.fileno(), 0, os.SEEK_END)
    if size > MAX_FILE:
        log.warning("%s is not used: it is larger than any image", file.name)
        return None
    runs = _scan(file.fileno(), size, table)
    log.info("%s: found %d blocks in %d pieces", file.name, sum(runs.count), len(runs))
    return Index(size, index.packs, b"", runs) if runs else None


def standing(file: BinaryIO, index: Index, todo: plan.Plan, source: ObjectSource) -> Index | None:
    """An index of those blocks that the plan would download and that stand in `file`, the target itself,
    where they belong: whatever is written around them, they stay what they are."""
    runs, room = Runs(), TABLE
    for group, numbers in _worth(index, todo):
        if not _any_data(file.fileno(), todo, numbers):
            continue
        for number, found in _sums(index, group, numbers, source):
            for to, slot, length in todo.packs.pieces(number):
                if (room := room - length) >= 0:
                    _compare(file.fileno(), found, to, number, slot, length, runs)
    return Index(index.size, index.packs, b"", runs) if runs else None


def _any_data(fd: int, todo: plan.Plan, numbers: list[int]) -> bool:
    """Whether any of some places where packs belong has data: a new volume is not worth sums."""
    places = (next(todo.packs.pieces(n)).to for n in numbers[:: -(-len(numbers) // SAMPLES)])
    with contextlib.suppress(OSError):  # it can't be read there: nothing to find
        return any(os.pread(fd, BLOCK, to * BLOCK).strip(b"\0") for to in places)
    return False


def _compare(fd: int, found: memoryview, to: int, number: int, slot: int, length: int, runs: Runs) -> None:
    """Adds those of the blocks from `to` on that have the sums of a pack's slots."""
    try:
        data = os.pread(fd, length * BLOCK, to * BLOCK)
    except OSError as e:
        log.warning("%d bytes can't be read at %d: %s", length * BLOCK, to * BLOCK, e.strerror)
        return
    view = memoryview(data.ljust(length * BLOCK, b"\0"))
    for i in range(length):
        digest = block_digest(view[i * BLOCK : (i + 1) * BLOCK])
        at = sums.BYTES * (slot + i)
        if digest[: sums.BYTES] == found[at : at + sums.BYTES]:
            runs.append(to + i, number, slot + i, 1)


def _worth(index: Index, todo: plan.Plan) -> list[tuple[int, list[int]]]:
    """The sums objects that are small beside the packs that would be downloaded, and those packs' numbers."""
    groups: dict[int, list[int]] = {}
    for number in todo.packs.order if index.sums.objects else ():
        if index.sums.of_pack[number] != NO_SUMS:
            groups.setdefault(index.sums.of_pack[number], []).append(number)
    return [
        (group, numbers)
        for group, numbers in groups.items()
        if WORTH * index.sums.objects[group].size <= sum(index.packs[n].object.size for n in numbers)
    ]


def _sums(
    index: Index, group: int, numbers: list[int], source: ObjectSource
) -> Iterator[tuple[int, memoryview]]:
    """The sums of these packs, as far as their object can be had and is sound."""
    wanted = {index.packs[n].object.digest: n for n in numbers}
    packs = {digest: index.packs[n] for digest, n in wanted.items()}
    named = index.sums.objects[group]
    try:
        for digest, found in sums.decode(source.read(named), packs, named.digest):
            yield wanted[digest], found
    except (MissingObject, CorruptError) as e:
        log.warning("sums are not used: %s", e)


def _table(index: Index, todo: plan.Plan, source: ObjectSource) -> Table | None:
    """The blocks that would be downloaded and whose sums are worth fetching."""
    worth = _worth(index, todo)
    room = min(TABLE, sum(p.length for _, numbers in worth for n in numbers for p in todo.packs.pieces(n)))
    if not room:
        return None
    table = Table(room)
    for group, numbers in worth:
        for number, found in _sums(index, group, numbers, source):
            for _, slot, length in todo.packs.pieces(number):
                taken = min(length, room)
                room -= taken
                for at in range(slot, slot + taken):
                    table.add(_KEY.unpack_from(found, sums.BYTES * at)[0], number * PACK_BLOCKS + at)
    return table


def _scan(fd: int, size: int, table: Table) -> Runs:
    """Where the file has blocks of the table."""
    runs = Runs()
    key_of, take = _KEY.unpack_from, table.take
    for start, data in _data(fd, size):
        view = memoryview(data)
        for at in range(0, len(data), BLOCK):
            if data.startswith(ZERO, at):
                continue
            block = view[at : at + BLOCK]
            if len(block) < BLOCK:
                block = memoryview(bytes(block).ljust(BLOCK, b"\0"))
            place = take(key_of(block_digest(block))[0])
            if place is not None:
                runs.append((start + at) // BLOCK, place // PACK_BLOCKS, place % PACK_BLOCKS, 1)
    return runs


def _data(fd: int, size: int) -> Iterator[tuple[int, bytes]]:
    """What is not a hole, as (offset, bytes), from whole blocks on. A file that shrinks or fails ends early."""
    at = 0
    while at < size:
        start, end = _extent(fd, at, size)
        at = max(at, start - start % BLOCK)
        end = min(size, -(-end // BLOCK) * BLOCK)
        while at < end:
            length = min(CHUNK, end - at)
            try:
                data = os.pread(fd, length, at)
            except OSError as e:
                log.warning("a local file can't be read at %d: %s", at, e.strerror)
                return
            yield at, data
            if len(data) < length:
                return
            at += length


def _extent(fd: int, at: int, size: int) -> tuple[int, int]:
    """The next stretch of data from `at` on; all the rest where the file knows no holes."""
    try:
        start = os.lseek(fd, at, os.SEEK_DATA)
        return start, os.lseek(fd, start, os.SEEK_HOLE)
    except OSError as e:
        if e.errno == errno.ENXIO:
            return size, size
        return at, size
