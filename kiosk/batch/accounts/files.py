"""Which kind of accounts a file has is seen in its beginning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kiosk.batch.ask import plain
from kiosk.errors import BatchError

LONGEST = 1 << 22


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers, without their ends. BatchError where it can't be read, or a line is
    longer than 4 MiB; bytes that are no text are replaced."""
    try:
        with path.open("rb") as f:
            number = 0
            while raw := f.readline(LONGEST):
                number += 1
                if len(raw) >= LONGEST:
                    raise wrong(path, number, "is longer than 4 MiB")
                yield number, raw.decode(errors="replace").rstrip("\r\n")
    except OSError as e:
        raise BatchError(f"can't be read: {e.strerror}", where=str(path)) from None


def wrong(path: Path, number: int, what: str, hint: str | None = None) -> BatchError:
    """A line that can't be read."""
    return BatchError(f"line {number} {what}", where=str(path), hint=hint)


def shown(text: str) -> str:
    """A piece of a line, for an error."""
    return repr(plain(text, 80))
