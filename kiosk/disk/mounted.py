"""XFS and btrfs, read by the kernel: a read-only mount, of one's own disks only.

A kernel driver trusts what it mounts more than hostile bytes deserve, so this is for golden nodes' own disks and
never for images that somebody hands over. Nothing is written, not even the journal replayed. The mount has no
name in the tree of files: it ends with the block, or with the process, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kiosk.disk.folder import FolderVolume
from kiosk.errors import CorruptError, StorageError
from kiosk.run import CommandError, run

KINDS = {"xfs": "norecovery,nouuid", "btrfs": "rescue=nologreplay"}
TIMEOUT = 120


@contextlib.contextmanager
def volume(
    path: Path, offset: int, size: int, kind: str, *, subvolume: str | None = None
) -> Iterator[FolderVolume]:
    """The file system of the kind `kind` in a part of a disk, or a subvolume of it, while the block lasts.

    Raises CorruptError when the kernel refuses it, StorageError without root's rights.
    """
    where = f"{path}, {kind} at byte {offset}"
    if os.geteuid() != 0:
        raise StorageError("only root may mount", where=where, hint="Run the command with sudo.")
    options = f"loop,ro,nodev,nosuid,noexec,offset={offset},sizelimit={size},{KINDS[kind]}"
    if subvolume is not None:
        options += f",subvol={subvolume}"
    fd = _mount(path, kind, options, where)
    try:
        yield FolderVolume(Path(f"/proc/self/fd/{fd}"), where=where)
    finally:
        os.close(fd)


def _mount(path: Path, kind: str, options: str, where: str) -> int:
    """The root of a mount that lasts as long as the descriptor."""
    point = Path(tempfile.mkdtemp(prefix="kiosk-"))
    try:
        try:
            run(["mount", "-t", kind, "-o", options, path.absolute(), point], timeout=TIMEOUT)
        except CommandError as e:
            said = e.output.strip().splitlines()
            text = said[0].partition(": ")[2] if said else f"status {e.status}"
            raise CorruptError(f"the kernel does not mount it: {text}", where=where) from None
        try:
            return os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            run(["umount", "--lazy", point], timeout=TIMEOUT)
    finally:
        point.rmdir()
