"""Takes the build out of an ext4 image's inodes.

`mkfs.ext4 -d` copies each file's change and access times, which say when the tree was unpacked and read, and
which nobody can set. Here every time of an inode becomes its modification time. The image must be without
metadata checksums (`ext4.FEATURES`): dm-verity vouches for every block of it.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

SUPER = 1024
MAGIC = 0xEF53


def settle_times(image: Path) -> int:
    """Sets access, change and creation time of every inode in use to its modification time."""
    with image.open("r+b") as f, mmap.mmap(f.fileno(), 0) as disk:
        inodes, blocks = struct.unpack_from("<II", disk, SUPER)
        first, log_size = struct.unpack_from("<II", disk, SUPER + 20)
        per_group_blocks, _, per_group = struct.unpack_from("<III", disk, SUPER + 32)
        (magic,) = struct.unpack_from("<H", disk, SUPER + 56)
        (inode_size,) = struct.unpack_from("<H", disk, SUPER + 88)
        if magic != MAGIC or inode_size < 160:
            raise ValueError(f"{image} is not an ext4 file system as kiosk makes it")
        block = 1024 << log_size
        groups = -(-(blocks - first) // per_group_blocks)
        changed = 0
        for group in range(groups):
            (table,) = struct.unpack_from("<I", disk, (first + 1) * block + group * 32 + 8)
            for index in range(min(per_group, inodes - group * per_group)):
                at = table * block + index * inode_size
                (mode,) = struct.unpack_from("<H", disk, at)
                if mode == 0:
                    continue
                (modified,) = struct.unpack_from("<I", disk, at + 16)
                struct.pack_into("<II", disk, at + 8, modified, modified)
                struct.pack_into("<IIIII", disk, at + 132, 0, 0, 0, modified, 0)
                changed += 1
    return changed
