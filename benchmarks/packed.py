"""A disk without its zero blocks, for tools whose window is smaller than a disk: `strip` and `fill`.

    python -m benchmarks.packed strip IMAGE PACKED MAP      IMAGE's other blocks, and which of them those are
    python -m benchmarks.packed fill PACKED MAP TARGET      TARGET becomes IMAGE again, sparse

MAP is one bit a block, compressed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import zstandard

BLOCK = 4096
PIECE = 256 * BLOCK
ZERO = bytes(BLOCK)


def strip(image: Path, packed: Path, map_file: Path) -> None:
    """Writes the blocks that are not all zero, and the map."""
    size = image.stat().st_size
    bits = bytearray(-(-size // BLOCK // 8))
    with image.open("rb") as f, packed.open("wb") as out:
        at = 0
        while at < size:
            try:
                at = os.lseek(f.fileno(), at, os.SEEK_DATA) // PIECE * PIECE
            except OSError:  # nothing but a hole up to the end
                break
            data = os.pread(f.fileno(), PIECE, at)
            kept = [i for i in range(0, len(data), BLOCK) if not data.startswith(ZERO, i)]
            for i in kept:
                block = (at + i) // BLOCK
                bits[block // 8] |= 1 << block % 8
            whole = len(kept) * BLOCK == len(data)
            out.write(data if whole else b"".join([data[i : i + BLOCK] for i in kept]))
            at += PIECE
    map_file.write_bytes(zstandard.compress(size.to_bytes(8, "little") + bits, 9))


def fill(packed: Path, map_file: Path, target: Path) -> None:
    """Writes the blocks back to where they were."""
    plain = zstandard.decompress(map_file.read_bytes())
    size = int.from_bytes(plain[:8], "little")
    bits = plain[8:]
    with packed.open("rb") as f, target.open("wb") as out:
        out.truncate(size)
        start = None
        for block in range(len(bits) * 8 + 1):
            here = block < len(bits) * 8 and bits[block // 8] >> block % 8 & 1
            if here and start is None:
                start = block
            elif not here and start is not None:
                out.seek(start * BLOCK)
                left = (block - start) * BLOCK
                while left:
                    data = f.read(min(left, PIECE))
                    out.write(data)
                    left -= len(data)
                start = None


if __name__ == "__main__":
    {"strip": strip, "fill": fill}[sys.argv[1]](*map(Path, sys.argv[2:]))
