"""The index of a file: which blocks of which packs stand where, and the digest of every region.

Written and read exactly as docs/format.md says. Every index that `decode` returns is sound in itself: its runs
name packs of its table and slots inside them, lie inside the file in ascending order (the encoding can't
express an overlap), and there is one digest for each region. It says nothing yet about whether the file so
made is the right one; regions and the artifact's digest do.
"""

from __future__ import annotations

import bisect
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import blake3

from kiosk.errors import CorruptError, UsageError
from kiosk.model.manifest import Object
from kiosk.store import columns, sections, wire
from kiosk.store.objects import ObjectSource

BLOCK = 4096
REGION = 1 << 20
REGION_BLOCKS = REGION // BLOCK
PACK_BLOCKS = 2048
"""The most blocks in a pack that a reader accepts (8 MiB)."""
MAX_FILE = 1 << 40
MAX_CONTENT = 64 << 20
"""The most bytes of an index's content: about three million runs, or a terabyte's regions."""
MAX_STORED = 32 << 20
MAX_SUMS = 16 << 20
"""The most bytes of a sums object's content (see kiosk.store.sums)."""
REGION_DIGEST = 16
"""Bytes of a region's digest."""
LEVEL = 9

_HEAD = struct.Struct("<QII")
_PACK = struct.Struct("<32sII")
_COUNT = struct.Struct("<I")
_SUMS = struct.Struct("<32sI")
NO_SUMS = 0xFFFFFFFF
_TREE = struct.Struct("<III")
MAX_SALT = 256
MAX_MOVED = 1 << 20


class Pack(NamedTuple):
    """A pack of the table: the object that holds it and how many blocks are in it."""

    object: Object
    blocks: int


class Run(NamedTuple):
    """`length` blocks from `slot` on in the pack number `pack`, standing at block `to` of the file."""

    to: int
    pack: int
    slot: int
    length: int


class Runs:
    """Runs as four columns of 32-bit numbers, 16 bytes a run, in ascending order of `to`."""

    def __init__(self) -> None:
        self.to, self.pack, self.slot, self.count = (array("I") for _ in range(4))

    def __len__(self) -> int:
        return len(self.to)

    def __iter__(self) -> Iterator[Run]:
        return map(Run, self.to, self.pack, self.slot, self.count)

    def __getitem__(self, i: int) -> Run:
        return Run(self.to[i], self.pack[i], self.slot[i], self.count[i])

    def any_in(self, blocks: range) -> bool:
        """Whether a run has any of these blocks of the file."""
        i = bisect.bisect_left(self.to, blocks.stop) - 1
        return i >= 0 and self.to[i] + self.count[i] > blocks.start

    def append(self, to: int, pack: int, slot: int, count: int) -> None:
        """Adds a run at the end, as part of the last one where it goes on from there."""
        if self.to:
            n = self.count[-1]
            if self.pack[-1] == pack and self.slot[-1] + n == slot and self.to[-1] + n == to:
                self.count[-1] += count
                return
        self.to.append(to)
        self.pack.append(pack)
        self.slot.append(slot)
        self.count.append(count)


class Sums(NamedTuple):
    """The objects that hold sums of blocks (see kiosk.store.sums), and for each pack of the table the number
    of the object that holds its own; NO_SUMS where none does. Without objects, both are empty."""

    objects: tuple[Object, ...]
    of_pack: Sequence[int]


WITHOUT_SUMS = Sums((), ())


@dataclass(frozen=True)
class Tree:
    """A dm-verity tree in a file, which a reader computes (see `verity`): over `blocks` blocks of data from
    block `data` on, standing from block `at` on, with this salt."""

    data: int
    blocks: int
    at: int
    salt: bytes

    def levels(self) -> list[int]:
        """Hash blocks of each level, the lowest first."""
        found = [-(-self.blocks // 128)]
        while found[-1] > 1:
            found.append(-(-found[-1] // 128))
        return found

    def sound(self, blocks: int) -> bool:
        """Whether it fits in a file of so many blocks, and begins in a later region than its data ends in, so
        that a reader can complete one before the other."""
        end = self.data + self.blocks
        return (
            self.blocks > 1  # a single block has no tree
            and end <= blocks
            and (end - 1) // REGION_BLOCKS < self.at // REGION_BLOCKS
            and self.place.stop <= blocks
        )

    @property
    def place(self) -> range:
        """The blocks of the tree."""
        return range(self.at, self.at + sum(self.levels()))


class Moved(NamedTuple):
    """`length` blocks from `slot` of pack number `pack` on, which stood from `old_slot` of the pack with the digest
    `old` on before they were stored again: whoever has those has these."""

    pack: int
    slot: int
    length: int
    old: str
    old_slot: int


@dataclass(frozen=True)
class Index:
    """A file as packs, runs, and regions; what neither a run nor the tree covers is zero."""

    size: int
    packs: tuple[Pack, ...]
    regions: bytes
    runs: Runs
    tree: Tree | None = None
    sums: Sums = WITHOUT_SUMS
    moved: tuple[Moved, ...] = ()

    @property
    def blocks(self) -> int:
        """Blocks in the file, the last one perhaps in part."""
        return -(-self.size // BLOCK)

    @property
    def region_count(self) -> int:
        """Regions in the file, the last one perhaps in part."""
        return -(-self.size // REGION)

    def region_digest(self, region: int) -> bytes:
        """The digest of a region's bytes (see `digest_of`)."""
        return self.regions[REGION_DIGEST * region : REGION_DIGEST * (region + 1)]


def digest_of(region: bytes | memoryview) -> bytes:
    """A region's digest: BLAKE3, which is several times as fast as SHA-256, in 128 bits: who would pass other bytes
    off as a region needs a second preimage."""
    return blake3.blake3(region).digest(REGION_DIGEST)


def block_digest(block: bytes | memoryview) -> bytes:
    """By which a block is known again: BLAKE3, 32 bytes. Two different blocks never have the same."""
    return blake3.blake3(block).digest()


def encode(index: Index) -> bytes:
    """The stored bytes of an index. The same index gives the same bytes."""
    content = {
        b"HEAD": _HEAD.pack(index.size, BLOCK, REGION),
        b"PACK": b"".join(
            _PACK.pack(bytes.fromhex(p.object.digest[7:]), p.object.size, p.blocks) for p in index.packs
        ),
        b"RGNS": index.regions,
        b"RUNS": _encode_runs(index.runs),
    }
    if index.tree:
        content[b"VRTY"] = _TREE.pack(index.tree.data, index.tree.blocks, index.tree.at) + index.tree.salt
    if index.sums.objects:
        content[b"sums"] = _encode_sums(index.sums)
    if index.moved:
        content[b"olds"] = _encode_moved(index.moved)
    data = sections.encode(content)
    if index.size > MAX_FILE or len(data) > MAX_CONTENT:
        raise UsageError(f"the file is too large or too scattered for one index ({len(index.runs)} runs)")
    return wire.seal(wire.INDEX, data, level=LEVEL)


def decode(stored: bytes, where: str) -> Index:
    """Reads the stored bytes of an index; CorruptError naming `where` and the fault unless it is sound."""
    content = memoryview(wire.unseal(wire.INDEX, stored, limit=MAX_CONTENT, where=where))
    found = sections.decode(content, (b"HEAD", b"PACK", b"RGNS", b"RUNS"), where, known=(b"VRTY", b"olds"))
    if len(found[b"HEAD"]) != _HEAD.size:
        raise CorruptError("its HEAD section has a wrong size", where=where)
    size, block, region = _HEAD.unpack(found[b"HEAD"])
    if (block, region) != (BLOCK, REGION) or size > MAX_FILE:
        raise CorruptError(f"has blocks of {block}, regions of {region}, a file of {size} bytes", where=where)
    packs = _decode_packs(found[b"PACK"], where)
    regions = bytes(found[b"RGNS"])
    if len(regions) != REGION_DIGEST * -(-size // REGION):
        raise CorruptError("has not one digest for each region", where=where)
    runs = _decode_runs(found[b"RUNS"], packs, -(-size // BLOCK), where)
    tree = _decode_tree(found[b"VRTY"], -(-size // BLOCK), where) if b"VRTY" in found else None
    if tree is not None and runs.any_in(tree.place):
        raise CorruptError("a run covers its hash tree", where=where)
    sums = _decode_sums(found[b"sums"], packs, where) if b"sums" in found else WITHOUT_SUMS
    moved = _decode_moved(found[b"olds"], packs, where) if b"olds" in found else ()
    return Index(size, packs, regions, runs, tree, sums, moved)


def _encode_moved(moved: tuple[Moved, ...]) -> bytes:
    olds = {old: n for n, old in enumerate(dict.fromkeys(m.old for m in moved))}
    rows = sorted((m.pack, m.slot, m.length, olds[m.old], m.old_slot) for m in moved)
    return _COUNT.pack(len(olds)) + b"".join(bytes.fromhex(o[7:]) for o in olds) + columns.encode(5, rows)


def _decode_moved(data: memoryview, packs: tuple[Pack, ...], where: str) -> tuple[Moved, ...]:
    olds = _COUNT.unpack_from(data)[0] if len(data) >= _COUNT.size else 0
    begin = _COUNT.size + 32 * olds
    if begin > len(data) or not olds:
        raise CorruptError("its olds section has a wrong size", where=where)
    digests = ["sha256:" + data[at : at + 32].hex() for at in range(_COUNT.size, begin, 32)]
    if len(data) - begin > 20 * MAX_MOVED:
        raise CorruptError("its olds section is larger than any kiosk writes", where=where)
    found: list[Moved] = []
    end = (0, 0)
    for pack, slot, count, old, old_slot in columns.decode(5, data[begin:], where):
        if (pack, slot) < end:
            raise CorruptError("its olds section is not in order, or overlaps", where=where)
        end = (pack, slot + count)
        inside = pack < len(packs) and old < olds and count and old_slot + count <= PACK_BLOCKS
        if not inside or slot + count > packs[pack].blocks:
            raise CorruptError(f"takes {count} blocks from {slot} of pack {pack} for older ones", where=where)
        found.append(Moved(pack, slot, count, digests[old], old_slot))
    return tuple(found)


def _decode_tree(data: memoryview, blocks: int, where: str) -> Tree:
    if not 0 <= len(data) - _TREE.size <= MAX_SALT:
        raise CorruptError("its VRTY section has a wrong size", where=where)
    begin, count, at = _TREE.unpack_from(data)
    tree = Tree(begin, count, at, bytes(data[_TREE.size :]))
    if not tree.sound(blocks):
        raise CorruptError("its hash tree lies outside the file, or not behind its data", where=where)
    return tree


def load(source: ObjectSource, wanted: Object) -> Index:
    """Reads an index from a source, if it is not larger than a reader should load."""
    if wanted.size > MAX_STORED:
        raise CorruptError(
            f"an index of {wanted.size} bytes is more than any kiosk writes", where=wanted.digest
        )
    return decode(source.read(wanted), wanted.digest)


def _decode_packs(data: memoryview, where: str) -> tuple[Pack, ...]:
    if len(data) % _PACK.size:
        raise CorruptError("its PACK section has a wrong size", where=where)
    packs: list[Pack] = []
    for digest, size, blocks in _PACK.iter_unpack(data):
        if not 1 <= blocks <= PACK_BLOCKS or not wire.HEADER_SIZE < size <= wire.largest(blocks * BLOCK):
            raise CorruptError(f"pack {len(packs)} has {blocks} blocks in {size} bytes", where=where)
        packs.append(Pack(Object(digest="sha256:" + digest.hex(), size=size), blocks))
    if len({p.object.digest for p in packs}) != len(packs):
        raise CorruptError("names a pack twice", where=where)
    return tuple(packs)


def _encode_sums(sums: Sums) -> bytes:
    rows = b"".join(_SUMS.pack(bytes.fromhex(o.digest[7:]), o.size) for o in sums.objects)
    return _COUNT.pack(len(sums.objects)) + rows + columns.little(array("I", sums.of_pack)).tobytes()


def _decode_sums(data: memoryview, packs: tuple[Pack, ...], where: str) -> Sums:
    count = _COUNT.unpack_from(data)[0] if len(data) >= _COUNT.size else -1
    end = _COUNT.size + count * _SUMS.size
    if not 1 <= count <= len(packs) or len(data) != end + 4 * len(packs):
        raise CorruptError("its sums section has a wrong size", where=where)
    objects: list[Object] = []
    for digest, size in _SUMS.iter_unpack(data[_COUNT.size : end]):
        if not wire.HEADER_SIZE < size <= wire.largest(MAX_SUMS):
            raise CorruptError(f"names sums of {size} bytes", where=where)
        objects.append(Object(digest="sha256:" + digest.hex(), size=size))
    (of_pack,) = columns.split(1, data[end:], where)
    if any(number >= count and number != NO_SUMS for number in of_pack):
        raise CorruptError("names sums that are not in its table", where=where)
    return Sums(tuple(objects), of_pack)


def _encode_runs(runs: Runs) -> bytes:
    gaps = array("I")
    end = 0
    for to, count in zip(runs.to, runs.count, strict=True):
        gaps.append(to - end)
        end = to + count
    return b"".join(columns.little(c).tobytes() for c in (gaps, runs.pack, runs.slot, runs.count))


def _decode_runs(data: memoryview, packs: tuple[Pack, ...], blocks: int, where: str) -> Runs:
    gaps, *rest = columns.split(4, data, where)
    runs = Runs()
    runs.pack, runs.slot, runs.count = rest
    held = [p.blocks for p in packs]
    end = 0
    for i, (gap, pack, slot, count) in enumerate(zip(gaps, *rest, strict=True)):
        if pack >= len(held) or not count or slot + count > held[pack]:
            raise CorruptError(f"run {i} takes {count} blocks from {slot} of pack {pack}", where=where)
        runs.to.append(min(end + gap, 0xFFFFFFFF))
        end += gap + count
        if end > blocks:
            raise CorruptError(f"run {i} ends at block {end} of a file of {blocks}", where=where)
    return runs
