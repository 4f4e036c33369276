"""What each type was asked for in the hours that are past: an SQLite file, bounded and pruned.

It is a memory that the forecast learns from, never a truth that nodes depend on. A file that can't be read any more, or
is of an older version, is set aside under another name, with what is in it, and a new one begun; the error that says
so (`lost`) is for the log, and the scheduler goes on. A file of a newer kiosk is left alone, as is one that another
process holds: then StorageError or BusyError is raised, nothing is written, and the scheduler can go on without (no
forecasts at all). Each `record` is one transaction: after a kill -9 it is there
or it is not.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from kiosk import files
from kiosk.errors import BusyError, CorruptError, KioskError, StorageError
from kiosk.log import logger
from kiosk.scheduler.forecast import HOUR, RECENT, HourRow
from kiosk.scheduler.model import Need

log = logger(__name__)

VERSION = 1
KEEP = 14 * 7 * 24
"""Hours that are kept: fourteen weeks."""
MOST_TYPES = 1000
PATIENCE = 5.0
"""Seconds to wait for another process's transaction."""
BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
HELD = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
HOURS = (
    "CREATE TABLE hours (type TEXT NOT NULL, hour INTEGER NOT NULL, seen INTEGER NOT NULL, total REAL NOT NULL, "
    "peak REAL NOT NULL, arrived REAL NOT NULL, last REAL NOT NULL, PRIMARY KEY (type, hour)) WITHOUT ROWID"
)
RECORD = (
    "INSERT INTO hours VALUES (:type, :hour, 1, :nodes, :nodes, :arrived, :nodes) ON CONFLICT (type, hour) DO UPDATE "
    "SET seen = seen + 1, total = total + :nodes, peak = max(peak, :nodes), arrived = arrived + :arrived, last = :nodes"
)
LAST = "SELECT last FROM hours WHERE type = ? AND hour <= ? ORDER BY hour DESC LIMIT 1"
ROWS = (
    "SELECT type, hour, total / seen, peak, arrived FROM hours "
    "WHERE hour > ? AND hour % 24 IN (SELECT value FROM json_each(?)) ORDER BY type, hour"
)


class History:
    """The history in the file `path`. A context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost: KioskError | None = None
        """Why the history before was set aside, where it was."""
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack, self._sound():
            try:
                self._db = stack.enter_context(contextlib.closing(self._open()))
            except sqlite3.DatabaseError as e:
                if e.sqlite_errorcode & 0xFF not in BROKEN:
                    raise
                self._set_aside(str(e))
                self._db = stack.enter_context(contextlib.closing(self._open()))
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def record(self, at: datetime, needs: Mapping[str, Need]) -> None:
        """Adds what is asked for now. What waits and runs more than at the time before counts as arrived. An hour in
        the future of a clock that has gone back since does no harm: it is pruned in its time."""
        hour = int(at.timestamp()) // HOUR
        with self._sound(), self._transaction():
            for name, need in sorted(needs.items())[:MOST_TYPES]:
                before = self._db.execute(LAST, (name, hour)).fetchone()
                arrived = max(0.0, need.nodes - (before[0] if before else 0.0))
                self._db.execute(
                    RECORD, {"type": name, "hour": hour, "nodes": need.nodes, "arrived": arrived}
                )
            self._db.execute("DELETE FROM hours WHERE hour <= ?", (hour - KEEP,))

    def rows(self, now: datetime, horizon: float | None = None) -> list[HourRow]:
        """The hours that are kept, by type and time; with a horizon only those that its forecast looks at."""
        hour = int(now.timestamp()) // HOUR
        last = hour + 23 if horizon is None else int(now.timestamp() + horizon) // HOUR
        clock = sorted({h % 24 for h in range(hour - RECENT if horizon is not None else hour, last + 1)})
        with self._sound():
            found = self._db.execute(ROWS, (hour - KEEP, json.dumps(clock)))
            return [HourRow(*row) for row in found]

    def _open(self) -> sqlite3.Connection:
        with files.storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            db = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
            stack.callback(db.close)
            db.execute("BEGIN IMMEDIATE")
            self._check(db)
            db.execute("COMMIT")
            # whole pages that are wrong show only when they are read
            if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise _broken("its pages do not belong together")
            stack.pop_all()
        return db

    def _check(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise StorageError(
                f"this history has version {version}, this kiosk knows {VERSION}",
                where=str(self.path),
                hint="Install the newer kiosk, or move the file away: the forecast then learns anew.",
            )
        if 0 < version < VERSION:
            raise _broken(f"it has version {version}, older than {VERSION}")
        if version == 0:
            if db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                raise _broken("it is another program's database")
            db.execute(HOURS)
        db.execute(f"PRAGMA user_version = {VERSION}")

    def _set_aside(self, why: str) -> None:
        for number in range(1, 1000):
            aside = self.path.with_name(f"{self.path.name}.broken-{number}")
            if not aside.exists():
                break
        with files.storage_errors(self.path):
            for suffix in ("", "-journal", "-wal", "-shm"):
                part = self.path.with_name(self.path.name + suffix)
                if part.exists():
                    part.rename(aside.with_name(aside.name + suffix))
        self.lost = CorruptError(
            f"the history can't be read ({why}) and was set aside; the forecast learns anew",
            where=str(self.path),
            hint=f"It is kept as {aside}; remove it when nobody needs it.",
        )
        log.warning("%s", self.lost)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextlib.contextmanager
    def _sound(self) -> Iterator[None]:
        """Says what SQLite says in kiosk's words."""
        try:
            yield
        except sqlite3.DatabaseError as e:
            code = getattr(e, "sqlite_errorcode", 0) & 0xFF
            if code in HELD:
                raise BusyError(
                    f"another process holds the history: {e}",
                    where=str(self.path),
                    hint="Only one scheduler writes it; the forecast goes on without until it is free.",
                ) from None
            if code in BROKEN:
                hint = "The scheduler sets it aside when it starts again; nothing else depends on it."
                raise CorruptError(str(e), where=str(self.path), hint=hint) from None
            raise StorageError(str(e), where=str(self.path)) from None


def _broken(why: str) -> sqlite3.DatabaseError:
    """As SQLite says it of a file that is none of its own."""
    error = sqlite3.DatabaseError(why)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error
