"""The root file system: a read-only ext4 made by `mkfs.ext4 -d`, the same bytes for the same tree.

No journal and no room to grow: nothing ever writes to it. UUID, hash seed and times are given, not made up;
mke2fs takes the entries of a folder in the order of their names, whatever order readdir has.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kiosk.build.clean import walk
from kiosk.build.inodes import settle_times
from kiosk.errors import BuildError
from kiosk.run import CommandError, run

BLOCK = 4096
MIB = 1 << 20
INODE = 256
FEATURES = "extent,^has_journal,^resize_inode,^metadata_csum,^64bit,^orphan_file,^huge_file,uninit_bg"


@dataclass(frozen=True)
class Need:
    """What a tree needs of a file system."""

    inodes: int
    blocks: int


def measure(root: Path) -> Need:
    """Counts inodes and blocks of a tree; a file with several names counts once."""
    seen: set[tuple[int, int]] = set()
    blocks = 0
    for path in walk(root):
        found = path.lstat()
        if (found.st_dev, found.st_ino) in seen:
            continue
        seen.add((found.st_dev, found.st_ino))
        if stat.S_ISREG(found.st_mode):
            blocks += math.ceil(found.st_size / BLOCK)
        elif stat.S_ISDIR(found.st_mode):
            blocks += 1 + math.ceil(found.st_size / BLOCK)
    return Need(inodes=len(seen) + 1, blocks=blocks)


def make(root: Path, target: Path, *, uuid: str, label: str, date: int, size: int | None = None) -> None:
    """Writes the file system with `root`'s content to the file `target`; `size` in bytes, else what fits."""
    need = measure(root)
    # Room for a few more files before the inode tables change their size, and with it every offset.
    inodes = math.ceil((need.inodes + 64) / 2048) * 2048
    for wanted in _sizes(need, inodes, size):
        target.unlink(missing_ok=True)
        with target.open("xb") as f:
            f.truncate(wanted)
        argv: list[str | Path] = [
            "mkfs.ext4",
            "-q",
            "-F",
            "-b",
            str(BLOCK),
            "-I",
            str(INODE),
            "-N",
            str(inodes),
        ]
        argv += ["-m", "0", "-O", FEATURES, "-U", uuid, "-L", label, "-d", root]
        argv += ["-E", f"hash_seed={uuid},lazy_itable_init=0,nodiscard,root_owner=0:0", target]
        try:
            run(argv, timeout=1800, env={"E2FSPROGS_FAKE_TIME": str(date), "MKE2FS_CONFIG": "/dev/null"})
        except CommandError as e:
            if "Could not allocate block" not in e.output and "No free space" not in e.output:
                raise
            continue
        settle_times(target)
        return
    raise BuildError(
        f"the tree needs about {need.blocks * BLOCK // MIB} MiB, and does not fit into the root partition",
        hint="Raise `size` in the recipe, or leave it out.",
    )


def _sizes(need: Need, inodes: int, fixed: int | None) -> Iterable[int]:
    if fixed is not None:
        return (fixed,)
    least = need.blocks * BLOCK + inodes * INODE + 4 * MIB
    return (math.ceil(least * factor / (8 * MIB)) * 8 * MIB for factor in (1.015, 1.05, 1.15, 1.4))
