"""The ledger: every node from the wish for it until it is gone, in one SQLite file. What it guarantees:

* what was written is on the disk before a call returns (`synchronous=FULL`): an intent is there before its effect, so
  that whoever is killed between them leaves a node that may exist, never a VM that nobody knows;
* a node that the cloud was asked for is never `wanted` again: no node is started twice;
* one scheduler at a time has it (a lock that the kernel drops with its holder); readers disturb nobody;
* a file that is corrupt, of another program, or of a newer kiosk is left as it is, and said to be; one of an older
  kiosk is copied beside itself before it is brought up to date.

It keeps a write-ahead log: one fsync a commit instead of two or three, and `explain` reads while a tick writes. A log
of that kind needs shared memory between its readers, so the file must be on a local disk.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, get_args

from kiosk import files
from kiosk.errors import BusyError, KioskError, NotFoundError, StorageError
from kiosk.scheduler.breaker import Circuit
from kiosk.scheduler.life import Moment
from kiosk.scheduler.model import Node, Phase

APPLICATION = 0x6B736C67
BUSY = 5.0
KEPT = timedelta(days=30)
MOST_ROWS = 500_000
"""Of the history: what is older or more goes."""
STEPS: tuple[str, ...] = (
    """
    CREATE TABLE nodes (
        id TEXT PRIMARY KEY, type TEXT NOT NULL, image TEXT NOT NULL, phase TEXT NOT NULL, wanted REAL NOT NULL,
        since REAL NOT NULL, until REAL, place TEXT, vm TEXT, host TEXT, reason TEXT, attempts INTEGER NOT NULL,
        missing REAL, silent REAL
    ) WITHOUT ROWID;
    CREATE TABLE phases (at REAL NOT NULL, node TEXT NOT NULL, phase TEXT NOT NULL, reason TEXT);
    CREATE INDEX phases_of ON phases (node);
    CREATE INDEX phases_at ON phases (at);
    CREATE TABLE intents (
        id INTEGER PRIMARY KEY, at REAL NOT NULL, node TEXT NOT NULL, effect TEXT NOT NULL, result TEXT
    );
    CREATE INDEX intents_of ON intents (node);
    CREATE TABLE circuits (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    """,
)
"""What makes a file of each version from one of the version before."""
COLUMNS = ("id", "type", "image", "phase", "wanted", "since", "until", "place", "vm", "host", "reason", "attempts",
           "missing", "silent")  # fmt: skip
PUT = f"INSERT OR REPLACE INTO nodes ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
PRUNE = (
    "DELETE FROM phases WHERE at < :old OR rowid <= (SELECT max(rowid) FROM phases) - :most",
    "DELETE FROM intents WHERE at < :old OR id <= (SELECT max(id) FROM intents) - :most",
)
NODE_TIMES = ("wanted", "since", "until", "missing", "silent")
TIMES = ("opened", "probe", "since")
Value = TypeVar("Value", Node, Circuit)


@dataclass(frozen=True)
class Event:
    """A line of a node's history: a phase it came into, or an effect (with its result, None where none was heard)."""

    at: datetime
    node: str
    what: str
    note: str | None = None


class Ledger:
    """The ledger in a file, made where there is none. Use `opened`, or `reading` for a look."""

    def __init__(self, path: Path, steps: Sequence[str] = STEPS, *, write: bool = True) -> None:
        self.path = path
        self._nodes: dict[str, Node] = {}
        with self._errors():
            if write:
                with files.storage_errors(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
            elif not path.exists():
                raise NotFoundError("there is no ledger yet", where=str(path), hint="kiosk scheduler run")
            uri = f"file:{urllib.parse.quote(str(path.resolve()))}?mode={'rwc' if write else 'ro'}"
            self._line = sqlite3.connect(
                uri, uri=True, timeout=BUSY, isolation_level=None, check_same_thread=False
            )
            try:
                self._open(steps, write)
            except BaseException:
                self._line.close()
                raise

    def _open(self, steps: Sequence[str], write: bool) -> None:
        version = self._check(len(steps))
        if write:
            self._line.execute("PRAGMA journal_mode = WAL")
            self._line.execute("PRAGMA synchronous = FULL")
            if version < len(steps):
                self._migrate(version, steps)
        elif version != len(steps):
            raise StorageError(
                "the ledger is of an older kiosk", where=str(self.path), hint="kiosk scheduler run"
            )
        self._nodes = {node.id: node for node in self._read()}

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path) -> Iterator[Ledger]:
        """The ledger, to write: BusyError while another scheduler has it, or another program its file."""
        with files.locked(path.with_name(f"{path.name}.lock"), what="this farm (a scheduler runs)"):
            ledger = cls(path)
            try:
                yield ledger
            finally:
                ledger.close()

    @classmethod
    @contextlib.contextmanager
    def reading(cls, path: Path) -> Iterator[Ledger]:
        """The ledger as it is now, to read, beside a scheduler that runs. NotFoundError."""
        ledger = cls(path, write=False)
        try:
            yield ledger
        finally:
            ledger.close()

    def close(self) -> None:
        """Closes the file."""
        self._line.close()

    # -- nodes ----------------------------------------------------------------------------------------

    def nodes(self) -> Mapping[str, Node]:
        """All nodes that are not gone, by id."""
        return self._nodes

    def put(self, nodes: Iterable[Node], now: datetime) -> None:
        """Writes nodes as they are now, all or none; those that are gone leave the table and stay in the history."""
        changed = [node for node in nodes if self._nodes.get(node.id) != node]
        if not changed:
            return
        with self._begin() as line:
            line.executemany(PUT, [_row(node) for node in changed if node.phase != "gone"])
            line.executemany(
                "DELETE FROM nodes WHERE id = ?", [(n.id,) for n in changed if n.phase == "gone"]
            )
            line.executemany(
                "INSERT INTO phases VALUES (?, ?, ?, ?)",
                [(now.timestamp(), n.id, n.phase, n.reason) for n in changed if self._phase(n.id) != n.phase],
            )
        for node in changed:
            if node.phase == "gone":
                self._nodes.pop(node.id, None)
            else:
                self._nodes[node.id] = node

    def _phase(self, id: str) -> Phase | None:
        node = self._nodes.get(id)
        return node.phase if node is not None else None

    def forget(self, id: str, reason: str, now: datetime) -> None:
        """Drops a node for which nothing was ever done. KioskError where something was."""
        node = self._nodes.get(id)
        if node is None:
            return
        if node.phase != "wanted":
            raise KioskError(f"the node {id} is {node.phase}, and only a wanted one can be forgotten")
        self.put([replace(node, phase="gone", reason=reason)], now)

    def ever(self, ids: Iterable[str]) -> set[str]:
        """Which of these nodes the history knows."""
        found = set()
        with self._errors():
            for id in ids:
                if self._line.execute("SELECT 1 FROM phases WHERE node = ? LIMIT 1", (id,)).fetchone():
                    found.add(id)
        return found

    # -- intents --------------------------------------------------------------------------------------

    def intend(self, node: str, effect: str, now: datetime, *, asked: Node | None = None) -> int:
        """Writes down what will be done, and in the same step what the node is from then on; the intent's number."""
        with self._begin() as line:
            number = line.execute(
                "INSERT INTO intents (at, node, effect) VALUES (?, ?, ?)",
                (now.timestamp(), node, effect[:300]),
            ).lastrowid
            if asked is not None:
                line.execute(PUT, _row(asked))
                line.execute(
                    "INSERT INTO phases VALUES (?, ?, ?, ?)",
                    (now.timestamp(), asked.id, asked.phase, asked.reason),
                )
        if asked is not None:
            self._nodes[asked.id] = asked
        return number or 0

    def done(self, intent: int, result: str, now: datetime, *, node: Node | None = None) -> None:
        """Writes down how an effect ended, and in the same step what the node is from then on."""
        with self._begin() as line:
            line.execute("UPDATE intents SET result = ? WHERE id = ?", (result[:300], intent))
            if node is not None:
                line.execute(PUT, _row(node))
                line.execute(
                    "INSERT INTO phases VALUES (?, ?, ?, ?)",
                    (now.timestamp(), node.id, node.phase, node.reason),
                )
        if node is not None:
            self._nodes[node.id] = node

    def history(self, node: str) -> list[Event]:
        """What became of a node, in order."""
        with self._errors():
            found = [
                (at, f"phase {phase}", note)
                for at, phase, note in self._line.execute(
                    "SELECT at, phase, reason FROM phases WHERE node = ? ORDER BY rowid LIMIT 10000", (node,)
                )
            ] + self._line.execute(
                "SELECT at, effect, result FROM intents WHERE node = ? ORDER BY id LIMIT 10000", (node,)
            ).fetchall()
        return [Event(_time(at), node, what, note) for at, what, note in sorted(found, key=lambda e: e[0])]

    def prune(self, now: datetime) -> None:
        """Drops history that is older than 30 days, and the oldest where there is too much of it."""
        old = (now - KEPT).timestamp()
        with self._begin() as line:
            for statement in PRUNE:
                line.execute(statement, {"old": old, "most": MOST_ROWS})

    # -- circuits, the clock --------------------------------------------------------------------------

    def circuits(self) -> dict[str, Circuit]:
        """All circuits by key. One that can't be read (of another version) is as new."""
        with self._errors():
            rows = self._line.execute("SELECT key, value FROM circuits").fetchall()
        return {key: circuit for key, text in rows if (circuit := _circuit(text)) is not None}

    def put_circuits(self, circuits: Mapping[str, Circuit]) -> None:
        """Writes circuits down."""
        if not circuits:
            return
        with self._begin() as line:
            line.executemany("INSERT OR REPLACE INTO circuits VALUES (?, ?)", _circuit_rows(circuits))

    def born(self, now: datetime) -> datetime:
        """When this ledger was begun; `now` for a new one."""
        return _time(float(self._fact("born", str(now.timestamp()))))

    def _fact(self, key: str, new: str) -> str:
        with self._begin() as line:
            line.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (key, new))
            return str(line.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()[0])

    def moment(self) -> Moment | None:
        """The moment of the last tick."""
        with self._errors():
            row = self._line.execute("SELECT value FROM facts WHERE key = 'moment'").fetchone()
        if row is None:
            return None
        wall, boot, uptime = json.loads(row[0])
        return Moment(_time(wall), boot, uptime)

    def tick(self, moment: Moment, shift: timedelta) -> None:
        """Writes the moment of a tick down, and moves all nodes' times by `shift`, in one step."""
        value = json.dumps([moment.wall.timestamp(), moment.boot, moment.uptime])
        moved = [_moved(node, NODE_TIMES, shift) for node in self._nodes.values()] if shift else []
        circuits = {k: _moved(c, TIMES, shift) for k, c in self.circuits().items()} if shift else {}
        with self._begin() as line:
            line.execute("INSERT OR REPLACE INTO facts VALUES ('moment', ?)", (value,))
            line.executemany(PUT, [_row(node) for node in moved])
            line.executemany("INSERT OR REPLACE INTO circuits VALUES (?, ?)", _circuit_rows(circuits))
        self._nodes.update((node.id, node) for node in moved)

    # -- how ------------------------------------------------------------------------------------------

    def _check(self, newest: int) -> int:
        """The file's version; an error where it is no ledger of ours, is damaged, or is newer than this kiosk."""
        application = self._line.execute("PRAGMA application_id").fetchone()[0]
        version = int(self._line.execute("PRAGMA user_version").fetchone()[0])
        tables = self._line.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if (application, version) != (0, 0) or tables:
            if application != APPLICATION:
                raise StorageError("this is no ledger of kiosk's scheduler", where=str(self.path))
            if version > newest:
                raise StorageError(
                    f"the ledger is of a newer kiosk (version {version}; this one knows {newest})",
                    where=str(self.path),
                    hint="Nothing was changed. Run the newer kiosk.",
                )
            said = self._line.execute("PRAGMA quick_check(1)").fetchone()[0]
            if said != "ok":
                raise sqlite3.DatabaseError(said)
        return version

    def _migrate(self, version: int, steps: Sequence[str]) -> None:
        if version:
            copy = self.path.with_name(f"{self.path.name}.version-{version}")
            if not copy.exists():
                part = copy.with_name(f".{copy.name}.new")
                part.unlink(missing_ok=True)
                self._line.execute("VACUUM INTO ?", (str(part),))
                part.replace(copy)
                files.fsync_dir(copy.parent)
        with self._begin() as line:
            for step in steps[version:]:
                for statement in step.split(";"):
                    line.execute(statement)
            line.execute(f"PRAGMA application_id = {APPLICATION}")
            line.execute(f"PRAGMA user_version = {len(steps)}")

    def _read(self) -> Iterator[Node]:
        phases = set(get_args(Phase))
        for row in self._line.execute(f"SELECT {', '.join(COLUMNS)} FROM nodes"):  # noqa: S608
            if row[3] not in phases:
                raise sqlite3.DatabaseError(f"the node {row[0]} has the phase {row[3]!r}")
            yield _node(row)

    @contextlib.contextmanager
    def _begin(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            self._line.execute("BEGIN IMMEDIATE")
            try:
                yield self._line
                self._line.execute("COMMIT")
            except BaseException:
                if self._line.in_transaction:
                    self._line.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as e:
            code = getattr(e, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise BusyError(
                    "another program holds the scheduler's ledger", where=str(self.path),
                    hint="End it (a forgotten sqlite3?) and run the command again.",
                ) from None  # fmt: skip
            hint = "Move it away: kiosk then adopts what the cloud lists. Or put a copy back."
            if code in (
                sqlite3.SQLITE_FULL,
                sqlite3.SQLITE_READONLY,
                sqlite3.SQLITE_CANTOPEN,
                sqlite3.SQLITE_PERM,
            ):
                hint = "Give it room, or the right to write there; nothing was lost."
            raise StorageError(
                f"the scheduler's ledger can't be used: {e}", where=str(self.path), hint=hint
            ) from None


def _seconds(at: datetime | None) -> float | None:
    return at.timestamp() if at is not None else None


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _row(n: Node) -> tuple[object, ...]:
    return (
        n.id, n.type, n.image, n.phase, n.wanted.timestamp(), n.since.timestamp(), _seconds(n.until), n.where, n.vm,
        n.host, n.reason, n.attempts, _seconds(n.missing), _seconds(n.silent),
    )  # fmt: skip


def _node(row: Sequence[Any]) -> Node:
    id, type, image, phase, wanted, since, until, where, vm, host, reason, attempts, missing, silent = row
    return Node(
        id, type, image, phase, _time(wanted), _time(since), None if until is None else _time(until), where, vm, host,
        reason, attempts, None if missing is None else _time(missing), None if silent is None else _time(silent),
    )  # fmt: skip


def _moved(value: Value, times: Sequence[str], by: timedelta) -> Value:
    moved: dict[str, Any] = {name: at + by for name in times if (at := getattr(value, name)) is not None}
    return replace(value, **moved)


def _circuit_rows(circuits: Mapping[str, Circuit]) -> list[tuple[str, str]]:
    return [(key, json.dumps(asdict(c), default=lambda t: t.timestamp())) for key, c in circuits.items()]


def _circuit(text: str) -> Circuit | None:
    try:
        values = json.loads(text)
        known = {f.name for f in fields(Circuit)}
        kept: dict[str, Any] = {
            k: _time(v) if k in TIMES and v is not None else v for k, v in values.items() if k in known
        }
        return Circuit(**kept)
    except (ValueError, TypeError, AttributeError):
        return None
