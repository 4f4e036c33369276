"""Reading a log of LSF while mbatchd writes it and switches it: whole records, and where the reading stopped.

At a switch mbatchd renames `lsb.events` to `lsb.events.1` (and that to `lsb.events.2`, and so on) and begins a new
file with the records of all jobs that it still knows; of `lsb.acct` the new file is empty. A file is told by its inode
and its first record. A file that became shorter, or is another one that no switch explains, is an error: records are
missing then, and nobody knows which.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kiosk.batch.ask import plain
from kiosk.batch.lsf.events import HEAD
from kiosk.errors import BatchError, UsageError

LONGEST = 1 << 24
"""Bytes of a record."""
QUERY = (
    "leave `events` out of the table [batch], so that kiosk asks instead; its next start without a position kept\
 takes the log as it is"
)


@dataclass(frozen=True)
class Position:
    """Up to where a log was read: which file (inode and digest of its first record), and the offset of the next."""

    inode: int
    offset: int
    first: str

    def __str__(self) -> str:
        return f"{self.inode}:{self.offset}:{self.first}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Of what `str` gave; UsageError for anything else."""
        found = re.fullmatch(r"([0-9]{1,20}):([0-9]{1,20}):([0-9a-f]{16}|)", text)
        if not found:
            raise UsageError(f"{plain(text)!r} is no position in a log")
        return cls(int(found[1]), int(found[2]), found[3])


@dataclass(frozen=True)
class Record:
    """A record, and what is needed to go on behind it: the line it ends with, and the offset of the next."""

    kind: str
    time: int
    rest: str
    line: int
    last: int
    end: int


class LogFile:
    """One file, open: it stays the same file when it is renamed."""

    def __init__(self, path: Path) -> None:
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as e:
            raise BatchError(f"can't be read: {e.strerror}", where=str(path), hint=QUERY) from None
        self.path = path
        self.inode = self._stat().st_ino
        self.first = self._first()

    def __enter__(self) -> LogFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def size(self) -> int:
        """How long it is now."""
        return self._stat().st_size

    @property
    def switched(self) -> bool:
        """Whether mbatchd began it at a switch: it then has a line about itself."""
        self._file.seek(0)
        return self._file.read(1) == b"#"

    def at(self, position: Position) -> bool:
        """Whether this is the file of a position. A file that had no whole record then may have one now."""
        return self.inode == position.inode and (not position.first or self.first == position.first)

    def cut(self, position: Position) -> bool:
        """Whether this is the file of a position and became shorter, perhaps than its first record."""
        same = self.inode == position.inode and self.first in ("", position.first)
        return same and self.size < position.offset

    def records(self, offset: int, line: int, kinds: frozenset[bytes]) -> Iterator[Record]:
        """The whole records from `offset` on whose kind is one of `kinds`; others are passed over, and so is what
        mbatchd has not finished writing. BatchError names the line that can't be read."""
        self._file.seek(offset)
        kept, begun = b"", line
        while raw := self._readline():
            if not raw.endswith(b"\n"):
                if len(raw) >= LONGEST:
                    raise self.unread(line, "is longer than 16 MiB")
                return
            line += 1
            if not kept:
                begun = line
                kind = raw[1 : raw.find(b'"', 1)] if raw[:1] == b'"' else b""
                if (
                    raw[:1] == b"#"
                    or not raw.strip()
                    or (kind not in kinds and raw.count(b'"') % 2 == 0 and kind)
                ):
                    offset += len(raw)
                    continue
            elif HEAD.match(raw[:200].decode(errors="replace")):
                raise self.unread(begun, "ends within a string")
            kept += raw
            if kept.count(b'"') % 2:
                if len(kept) > LONGEST:
                    raise self.unread(begun, "has a string without an end")
                continue
            text = kept.decode(errors="replace").rstrip("\n")
            head = HEAD.match(text)
            if not head:
                raise self.unread(begun, f"is no record: {plain(text, 80)!r}")
            offset, kept = offset + len(kept), b""
            if head[1].encode() in kinds:
                yield Record(head[1], int(head[3]), text[head.end() :], begun, line, offset)

    def unread(self, line: int, why: str) -> BatchError:
        """A record that can't be read."""
        return BatchError(f"line {line} {why}", where=str(self.path), hint=QUERY)

    def _readline(self) -> bytes:
        try:
            return self._file.readline(LONGEST)
        except OSError as e:
            raise BatchError(f"can't be read: {e.strerror}", where=str(self.path), hint=QUERY) from None

    def _stat(self) -> os.stat_result:
        return os.fstat(self._file.fileno())

    def _first(self) -> str:
        """The digest of the first record, of which it has one to be a file of its own."""
        self._file.seek(0)
        for _ in range(10):
            raw = self._readline()
            if raw[:1] == b'"' and raw.endswith(b"\n"):
                return hashlib.sha256(raw).hexdigest()[:16]
            if not raw:
                break
        return ""


def older(path: Path, position: Position) -> list[Path]:
    """The files that came after that of a position, oldest first, beginning with itself: `lsb.events.2`,
    `lsb.events.1`. Empty where it is not found."""
    found: list[Path] = []
    for number in range(1, 10_000):
        candidate = path.with_name(f"{path.name}.{number}")
        if not candidate.exists():
            return []
        found.insert(0, candidate)
        with LogFile(candidate) as file:
            if file.at(position):
                return found
    return []
