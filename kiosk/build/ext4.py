"""The root file system: a read-only ext4 made by `mkfs.ext4 -d`, the same bytes for the same tree.

No journal and no room to grow: nothing ever writes to it. UUID, hash seed and times are given, not made up;
mke2fs takes the entries of a folder in the order of their names, whatever order readdir has.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kiosk.build.clean import walk
from kiosk.build.inodes import settle_times
from kiosk.errors import BuildError
from kiosk.run import CommandError, run

BLOCK = 4096
MIB, GIB = 1 << 20, 1 << 30
INODE = 256
FEATURES = "extent,^has_journal,^resize_inode,^metadata_csum,^64bit,^orphan_file,^huge_file,uninit_bg"


LARGEST = 128 << 30
"""Bytes that a tree's files may claim where no larger root partition was asked for."""
_DOTS, _ENTRY = 24, 8
"""Bytes in a folder of `.` and `..` together, and of an entry besides its name."""


@dataclass(frozen=True)
class Need:
    """What a tree needs of a file system, and its largest file."""

    inodes: int
    blocks: int
    largest: Path
    largest_size: int


def measure(root: Path) -> Need:
    """Counts inodes and blocks of a tree, whatever file system it lies on; a file with several names counts once, and
    holes as if they were filled."""
    seen: set[tuple[int, int]] = set()
    blocks = 1 + _folder(root)
    largest, largest_size = root, 0
    for path in walk(root):
        found = path.lstat()
        if (found.st_dev, found.st_ino) in seen:
            continue
        seen.add((found.st_dev, found.st_ino))
        if stat.S_ISREG(found.st_mode):
            blocks += math.ceil(found.st_size / BLOCK)
            if found.st_size > largest_size:
                largest, largest_size = path, found.st_size
        elif stat.S_ISDIR(found.st_mode):
            blocks += 1 + _folder(path)
    return Need(inodes=len(seen) + 1, blocks=blocks, largest=largest, largest_size=largest_size)


def _folder(path: Path) -> int:
    """The blocks that a folder's entries take: none goes over the end of a block."""
    blocks, used = 1, _DOTS
    for name in sorted(os.fsencode(child.name) for child in path.iterdir()):
        entry = _ENTRY + math.ceil(len(name) / 4) * 4
        if used + entry > BLOCK:
            blocks, used = blocks + 1, 0
        used += entry
    return blocks


def refuse_too_large(root: Path, size: int | None) -> None:
    """BuildError where a tree's files claim more than an image may have: a file of holes may claim any size, and would
    be read to its end. `size` is that of the root partition in bytes, where it was asked for."""
    need, most = measure(root), max(size or 0, LARGEST)
    if need.blocks * BLOCK > most:
        name = os.fsencode(need.largest.relative_to(root)).decode(errors="backslashreplace")
        raise BuildError(
            f"its files have {need.blocks * BLOCK / GIB:.1f} GiB with their holes, more than {most / GIB:.0f} GiB; the "
            f"largest is /{name} with {need.largest_size / GIB:.1f} GiB",
            hint="Remove that file, or leave it out (a golden node's `leave_out`); else set `size`.",
        )


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
