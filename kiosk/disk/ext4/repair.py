"""Journals replayed and file systems checked by e2fsck, in user space: no kernel driver meets what is on a disk.

`recover` writes, and so is for private copies only; `check` never writes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from kiosk.disk.ext4.layout import Layout
from kiosk.errors import CorruptError, StorageError, UsageError
from kiosk.run import CommandError, run

TIMEOUT = 3600
MAX_LINES = 10
_CORRECTED = 1
_NOISE = re.compile(
    r"^$|^e2fsck \d|^Pass \d|^Warning: skipping journal|WARNING: Filesystem still has errors"
    r"|files \(.*non-contiguous\)|^Fix\? |recovering journal$"
)


def recover(path: Path, offset: int = 0, size: int | None = None) -> None:
    """Replays the journal of the file system at byte `offset` of the file or device `path`, and lets go of files
    that had been removed but were still open. Afterwards it is what a crash at that moment would have left.

    Changes `path`: give it a private copy. Raises CorruptError where this can't be done.
    """
    with _open(path) as fd:
        replay = Layout(fd, offset, where=str(path)).needs_recovery
    with contextlib.ExitStack() as stack:
        # e2fsck 1.47 loses the offset when it opens the file again after a replay.
        name = stack.enter_context(_loop(path, offset, size)) if replay and offset else _name(path, offset)
        try:
            run(["e2fsck", "-p", "-E", "journal_only", name], timeout=TIMEOUT)
        except CommandError as e:
            if e.status != _CORRECTED:
                raise _damaged("its journal can't be replayed", path, e) from None


def check(path: Path, offset: int = 0) -> None:
    """Looks through the whole file system at byte `offset` of `path`, changing nothing.

    Raises CorruptError with the checker's first findings when anything is wrong.
    """
    with _open(path) as fd:
        Layout(fd, offset, where=str(path))
    try:
        run(["e2fsck", "-f", "-n", _name(path, offset)], timeout=TIMEOUT)
    except CommandError as e:
        raise _damaged("the file system is damaged", path, e) from None


@contextlib.contextmanager
def _open(path: Path) -> Iterator[int]:
    try:
        f = path.open("rb", buffering=0)
    except OSError as e:
        raise StorageError(f"can't be read: {e.strerror}", where=str(path)) from None
    with f:
        yield f.fileno()


@contextlib.contextmanager
def _loop(path: Path, offset: int, size: int | None) -> Iterator[str]:
    argv: list[str | Path] = ["losetup", "--find", "--show", "--offset", str(offset)]
    argv += ["--sizelimit", str(size)] if size else []
    device = run([*argv, path.absolute()], timeout=60).strip()
    try:
        yield device
    finally:
        run(["losetup", "--detach", device], timeout=60)


def _name(path: Path, offset: int) -> str:
    name = str(path.absolute())
    if "?" in name:
        raise UsageError("e2fsck takes no path with a question mark", where=name, hint="Rename the file.")
    return f"{name}?offset={offset}" if offset else name


def _damaged(what: str, path: Path, error: CommandError) -> CorruptError:
    lines = [line.strip() for line in error.output.splitlines()]
    telling = [line.removesuffix("Fix? no").rstrip() for line in lines if not _NOISE.search(line)]
    text = "\n    ".join([f"{what}; e2fsck says:", *telling[:MAX_LINES]])
    return CorruptError(text, where=str(path), hint="Repair the original (e2fsck -f) and start again.")
