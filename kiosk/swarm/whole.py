"""Which objects in a host's folder are whole, so that not all of them are read at each start.

An object is whole when its bytes have the digest that it is named by. That is found out once, by reading it, and
then remembered with the file's time of change and its size: a file that was written since is read again. What is
remembered may be lost, old, or wrong: then objects are read, or offered to peers who refuse them. Nobody takes an
object for right because of it: readers check what they read.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from kiosk import files
from kiosk.errors import StorageError
from kiosk.log import logger

log = logger(__name__)

LINE = re.compile(rb"([0-9a-f]{64}) ([0-9]{1,20})")
LARGEST = 32 << 20
WORKERS = 2


class Whole:
    """The objects below `folder`/objects, and what is remembered of them in the file `memory`."""

    def __init__(self, folder: Path, memory: Path) -> None:
        self.folder = folder
        self.memory = memory
        self._changed = False
        self._times = _load(memory)

    def path(self, name: str) -> Path:
        """Where the object of this name (64 hexadecimal digits) stands."""
        return self.folder / "objects" / name[:2] / name

    def find(self, wanted: Iterable[tuple[str, int]], stop: Event | None = None) -> set[str]:
        """The names of those of these objects (name and size) that are here, whole. Reads those that it has not
        seen as they are: some seconds for 10 GB. Once `stop` is set no more are read, and those count as missing."""
        found, unseen = set(), []
        for name, size in wanted:
            time = self._time(name, size)
            if time is None:
                continue
            if self._times.get(bytes.fromhex(name)) == time:
                found.add(name)
            else:
                unseen.append((name, size))
        if unseen:
            with ThreadPoolExecutor(WORKERS, thread_name_prefix="kiosk-swarm") as pool:
                right = list(pool.map(lambda one: self.check(one[0], one[1], stop), unseen))
            found.update(name for (name, _), yes in zip(unseen, right, strict=True) if yes)
        return found

    def is_right(self, name: str, size: int) -> bool:
        """Whether an object is here, whole; read only when it changed since it was seen."""
        time = self._time(name, size)
        if time is None:
            return False
        return self._times.get(bytes.fromhex(name)) == time or self.check(name, size)

    def check(self, name: str, size: int, stop: Event | None = None) -> bool:
        """Whether an object is here, whole; it is read in any case, and remembered if it is."""
        before = self._time(name, size)
        if before is None or (stop is not None and stop.is_set()):
            return False
        try:
            with self.path(name).open("rb") as f:
                right = hashlib.file_digest(f, "sha256").hexdigest() == name
        except OSError as e:
            log.warning("%s: %s", self.path(name), e.strerror)
            return False
        if right and self._time(name, size) == before:
            self._remember(name, before)
        return right

    def forget(self, name: str) -> None:
        """Forgets an object, so that it is read before it counts again."""
        self._changed |= self._times.pop(bytes.fromhex(name), None) is not None

    def save(self) -> None:
        """Writes what is remembered, if it has changed. A full or read-only disk costs only the memory."""
        if not self._changed:
            return
        self._changed = False
        lines = [b"%s %d\n" % (name.hex().encode(), time) for name, time in sorted(self._times.items())]
        try:
            files.write(self.memory, b"".join(lines))
        except StorageError as e:
            log.warning("%s", e)

    def _remember(self, name: str, time: int) -> None:
        self._times[bytes.fromhex(name)] = time
        self._changed = True

    def _time(self, name: str, size: int) -> int | None:
        """When a file of this name and size was changed last, in nanoseconds; None where there is none."""
        with contextlib.suppress(OSError):
            state = self.path(name).lstat()
            if state.st_size == size:
                return state.st_mtime_ns
        return None


def _load(memory: Path) -> dict[bytes, int]:
    try:
        with memory.open("rb") as f:
            data = f.read(LARGEST)
    except OSError:
        return {}
    found = (LINE.fullmatch(line) for line in data.splitlines())
    return {bytes.fromhex(m[1].decode()): int(m[2]) for m in found if m is not None}
