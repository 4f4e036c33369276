"""Which blocks of the disk a file's blocks are: extent trees (ext4), and block maps (ext2, ext3).

Runs come in ascending order and never overlap; what is preallocated and was never written is left out, as
holes are. Whoever asks gives `spend`, which is told of each block that is named and raises when it is enough.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import pairwise

from kiosk.disk.ext4.layout import Layout

Run = tuple[int, int, int]
"""(first block in the file, first block on the disk, how many)."""
Spend = Callable[[int], None]

_EXTENT_MAGIC = 0xF30A
_HEAD = struct.Struct("<HHHHI")
_EXTENT = struct.Struct("<IHHI")
_INDEX = struct.Struct("<IIHH")
_DEEPEST = 5
_WRITTEN = 32768
"""The longest extent that is written; a longer one is preallocated."""
_DIRECT = 12


def extents(layout: Layout, node: bytes, spend: Spend) -> Iterator[Run]:
    """The runs of an extent tree whose root is `node` (an inode's 60 bytes)."""
    end = 0
    for first, start, count in _tree(layout, node, None, spend):
        written = count if count <= _WRITTEN else 0
        count = count if written else count - _WRITTEN
        if not count or first < end or not start or start + count > layout.blocks:
            raise layout.damage("a file's extents are damaged")
        spend(count)
        end = first + count
        if written:
            yield first, start, count


def _tree(layout: Layout, node: bytes, expected: int | None, spend: Spend) -> Iterator[Run]:
    magic, entries, room, depth, _ = _HEAD.unpack_from(node)
    if (
        magic != _EXTENT_MAGIC
        or entries > room
        or _HEAD.size + _EXTENT.size * entries > len(node)
        or depth > _DEEPEST
        or (expected is not None and depth != expected)
    ):
        raise layout.damage("a file's extent tree is damaged")
    for at in range(_HEAD.size, _HEAD.size + _EXTENT.size * entries, _EXTENT.size):
        if depth == 0:
            first, count, high, low = _EXTENT.unpack_from(node, at)
            yield first, low | high << 32, count
        else:
            _, low, high, _ = _INDEX.unpack_from(node, at)
            spend(1)
            yield from _tree(layout, layout.read(low | high << 32), depth - 1, spend)


def block_map(layout: Layout, node: bytes, blocks: int, spend: Spend) -> Iterator[Run]:
    """The runs of the first `blocks` blocks of a file with a block map (an inode's 60 bytes)."""
    begin = start = count = 0
    for number, block in _pointers(layout, node, blocks, spend):
        if block >= layout.blocks:
            raise layout.damage("a file's block map points outside it")
        spend(1)
        if count and number == begin + count and block == start + count:
            count += 1
            continue
        if count:
            yield begin, start, count
        begin, start, count = number, block, 1
    if count:
        yield begin, start, count


def _pointers(layout: Layout, node: bytes, blocks: int, spend: Spend) -> Iterator[tuple[int, int]]:
    """(block in the file, block on the disk) of all that are no holes."""
    roots = struct.unpack("<15I", node)
    per = layout.block // 4
    ends = [0, _DIRECT, _DIRECT + per, _DIRECT + per + per**2, _DIRECT + per + per**2 + per**3]
    for number, block in enumerate(roots[: min(_DIRECT, blocks)]):
        if block:
            yield number, block
    for depth, (first, _) in enumerate(pairwise(ends[1:]), start=1):
        if roots[_DIRECT - 1 + depth] and first < blocks:
            yield from _indirect(layout, roots[_DIRECT - 1 + depth], depth, first, blocks, spend)
    if blocks > ends[-1]:
        raise layout.damage("a file is larger than its block map can say")


def _indirect(
    layout: Layout, block: int, depth: int, first: int, blocks: int, spend: Spend
) -> Iterator[tuple[int, int]]:
    per = layout.block // 4
    below = per ** (depth - 1)
    spend(1)
    pointers = struct.unpack(f"<{per}I", layout.read(block))
    for i, pointer in enumerate(pointers):
        number = first + i * below
        if number >= blocks:
            return
        if pointer and depth == 1:
            yield number, pointer
        elif pointer:
            yield from _indirect(layout, pointer, depth - 1, number, blocks, spend)
