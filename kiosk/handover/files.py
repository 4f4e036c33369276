"""Images as files in a folder.

    NAME@VERSION.raw  (or .qcow2)   a copy: its blocks shared with the cache where the file system can, else sparse
    NAME@VERSION.qcow2              or an overlay, which stands on the cache's own file and takes no room
    NAME.raw  NAME.qcow2            a link to the newest copy, NAME.current to the newest overlay

A file appears complete, and is read-only; a link is switched by one rename. Never a hard link: what a VM writes would
end in the cache. Older versions stay until the cache gives them up, and longer where they are in use.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from kiosk.errors import BusyError, StorageError
from kiosk.files import copy_sparse, fsync_dir, storage_errors
from kiosk.handover.folder import is_ours, placing, switch, trusted
from kiosk.handover.settings import Mode
from kiosk.model.names import NAME, VERSION, ImageRef, Ref
from kiosk.run import CommandError, run
from kiosk.sync import backing, holders
from kiosk.sync.host import Installed

MOST = 100_000
SLOWEST = 2_000_000
"""Bytes a second that a conversion must reach, beside two minutes that it always has."""


class FilesDriver:
    """The driver of one folder. `watch` are folders with disks of VMs, looked through two levels deep; `more` tells
    of other disks."""

    def __init__(
        self,
        folder: Path,
        *,
        mode: Mode = "copy",
        format: str = "raw",
        watch: Sequence[Path] = (),
        more: Callable[[], Iterable[Path]] = lambda: (),
    ) -> None:
        self.folder = folder
        self.overlay = mode == "overlay"
        self.suffix = "qcow2" if self.overlay else format
        self.watch = watch
        self.more = more

    @property
    def place(self) -> str:
        """The folder."""
        return f"files {self.folder}"

    def file_of(self, ref: Ref) -> Path:
        """Where a version's file stands."""
        return self.folder / f"{ref.base}@{ref.version}.{self.suffix}"

    def link_of(self, ref: Ref) -> Path:
        """The link to what new VMs get."""
        return self.folder / f"{ref.base}.{'current' if self.overlay else self.suffix}"

    def stands(self, version: Installed) -> bool:
        """Whether the file is there and the link points at it."""
        target = self.file_of(version.ref)
        try:
            return target.is_file() and self.link_of(version.ref).readlink() == Path(target.name)
        except OSError:
            return False

    def offer(self, version: Installed) -> None:
        """Makes the file, then switches the link. A file that is there was complete when it got its name."""
        trusted(self.folder)
        target = self.file_of(version.ref)
        for left in self.folder.glob(f".{version.ref.base}@*.new"):
            left.unlink(missing_ok=True)
        if not self._fits(target, version):
            with placing(target) as new:
                self._make(version.folder / version.manifest.artifacts["disk"].file, new)
        link = self.link_of(version.ref)
        if link.is_symlink() and str(link.readlink()) != target.name:
            self._refuse_builders_on(link)
        switch(link, target.name)

    def _refuse_builders_on(self, link: Path) -> None:
        """A disk that is built on the link, and not on a version, would be broken by a switch."""
        for disk in self.disks():
            if link in backing.names(disk):
                raise BusyError(
                    f"the disk {disk} is built on this link, and would not fit another version",
                    where=str(link),
                    hint=f"qemu-img rebase -u -b {self.folder / link.readlink()} -F {self.suffix} {disk}",
                )

    def _fits(self, target: Path, version: Installed) -> bool:
        """Whether the version's file stands there. One that does not fit (it was built on another cache, it was cut
        off) is made again, but not under the feet of those who use it."""
        if not is_ours(target):
            return False
        disk = version.manifest.artifacts["disk"]
        if self.overlay:
            found = (version.folder / disk.file).stat()
            with contextlib.suppress(StorageError):
                if any(
                    (one.st_dev, one.st_ino) == (found.st_dev, found.st_ino) for one in backing.chain(target)
                ):
                    return True
        elif self.suffix == "qcow2" or target.stat().st_size == disk.size:
            return True
        self._refuse_use(target)
        return False

    def _make(self, disk: Path, new: Path) -> None:
        argv: list[str | Path] = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, new]
        seconds = 120 + disk.stat().st_size / SLOWEST
        if self.overlay:
            argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk.absolute(), new]
        elif self.suffix == "raw":
            copy_sparse(disk, new)
            return
        try:
            run(argv, timeout=seconds)
        except CommandError as e:
            if os.strerror(errno.ENOSPC) not in e.output:
                raise
            raise StorageError(
                "the disk is full",
                where=str(self.folder),
                hint="Nothing was left half-written; free some space.",
            ) from None

    def withdraw(self, ref: Ref) -> None:
        """Removes a version's file. BusyError where it is what new VMs get, or somebody uses it."""
        if not self.folder.is_dir():
            return
        target = self.file_of(ref)
        with contextlib.suppress(OSError):
            if self.link_of(ref).readlink() == Path(target.name):
                raise BusyError(f"new VMs get it by {self.link_of(ref)}", where=str(target))
        trusted(self.folder)
        if is_ours(target):
            self._refuse_use(target)
            with storage_errors(target):
                target.unlink()
                fsync_dir(self.folder)

    def _refuse_use(self, target: Path) -> None:
        found = holders.find({target: target}, self.disks())
        if who := sorted(found.of.get(target, ())) or found.unknown:
            said = who if isinstance(who, str) else ", ".join(who)
            raise BusyError(f"in use: {said}", where=str(target))

    def removed(self, ref: Ref) -> None:
        """Nothing is left to do."""

    def held(self) -> set[Ref]:
        """The versions that have a file."""
        return {ref for ref, _ in self._own()}

    def _own(self) -> Iterator[tuple[ImageRef, Path]]:
        pattern = re.compile(rf"({NAME}@{VERSION})\.{self.suffix}")
        for path in self.folder.iterdir() if self.folder.is_dir() else []:
            if (found := pattern.fullmatch(path.name)) and not path.is_symlink():
                yield ImageRef.parse(found[1]), path

    def disks(self) -> Iterable[Path]:
        """All files in this folder and those that are watched, but for kiosk's own; and what `more` tells of."""
        own = {path for _, path in self._own()}
        for path in within([self.folder, *self.watch]):
            if path not in own:
                yield path
        yield from self.more()


def within(folders: Iterable[Path], depth: int = 2) -> Iterator[Path]:
    """The files in folders, not following links. StorageError where they are more than can be looked through, or a
    folder can't be read; a folder that is not there has none."""
    left = [(folder, depth) for folder in folders]
    count = 0
    while left:
        folder, below = left.pop()
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as e:
            raise StorageError(f"can't be looked through: {e.strerror}", where=str(folder)) from None
        for entry in entries:
            count += 1
            if count > MOST:
                raise StorageError(f"has more than {MOST} files to look through", where=str(folder))
            if entry.is_file(follow_symlinks=False):
                yield Path(entry.path)
            elif below and entry.is_dir(follow_symlinks=False):
                left.append((Path(entry.path), below - 1))
