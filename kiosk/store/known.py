"""Which blocks the repository has already, and where: an SQLite file beside it, for the publisher alone.

It is a memory, not a truth: lost, it is made anew from the indexes and packs (`rebuild`) or starts empty, and
then blocks are only stored once more; stale, it is asked whether each pack that it names is still in the
store before anything refers to it. A block is known by its digest (`index.block_digest`), a pack by a number
that is never reused. Nothing is remembered before `commit`, which comes after the packs are safely in the store.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from kiosk import files
from kiosk.errors import CorruptError, StorageError
from kiosk.log import logger
from kiosk.model.manifest import Object
from kiosk.store import wire
from kiosk.store.index import BLOCK, NO_SUMS, Pack, block_digest, load
from kiosk.store.objects import MissingObject, ObjectSource, Progress, quiet

log = logger(__name__)

VERSION = 2
BATCH = 256
ANEW = (None, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
"""What SQLite says of a file that is no memory of ours (None: it is one of another version)."""
NOBODY = [b""] * BATCH
FIND = f"SELECT digest, pack, slot FROM blocks WHERE digest IN ({','.join('?' * BATCH)})"  # noqa: S608 (only marks)
"""One statement for any number of digests, so that it is compiled once."""
PACKS_SCHEMA = (
    "CREATE TABLE packs (id INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT, size INTEGER, blocks INTEGER)"
)
BLOCKS_SCHEMA = (
    "CREATE TABLE blocks "
    "(digest BLOB PRIMARY KEY, pack INTEGER NOT NULL, slot INTEGER NOT NULL) WITHOUT ROWID"
)
SUMS_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS sums (pack INTEGER PRIMARY KEY, digest TEXT NOT NULL, size INTEGER NOT NULL)"
)
LAYERS_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS layers "
    "(digest TEXT PRIMARY KEY, root BLOB NOT NULL, pieces BLOB NOT NULL) WITHOUT ROWID"
)
Place = tuple[int, int]
"""Where a block is: the pack's number here, and the slot in it."""


class KnownBlocks:
    """The memory in the file `path`. A context manager; a second one on the same file is a BusyError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._closing = contextlib.ExitStack()
        self._gone: set[int] = set()

    def __enter__(self) -> Self:
        lock = self.path.with_name(f"{self.path.name}.lock")
        with contextlib.ExitStack() as stack:
            stack.enter_context(files.locked(lock, what="the list of known blocks"))
            with files.storage_errors(self.path):
                self._db = stack.enter_context(contextlib.closing(self._open()))
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def _open(self) -> sqlite3.Connection:
        try:
            return _database(self.path)
        except sqlite3.DatabaseError as e:
            if getattr(e, "sqlite_errorcode", None) not in ANEW:
                raise StorageError(str(e), where=str(self.path)) from None
            log.warning("%s: %s; starting anew (the repository itself is not touched)", self.path, e)
        for suffix in ("", "-journal", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        return _database(self.path)

    @property
    def empty(self) -> bool:
        """Whether nothing is known: a new repository, or the memory was lost (see `rebuild`)."""
        with self._sound():
            return self._db.execute("SELECT 1 FROM packs LIMIT 1").fetchone() is None

    @contextlib.contextmanager
    def _sound(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as e:
            raise StorageError(str(e), where=str(self.path)) from None
        except sqlite3.DatabaseError as e:
            hint = "It is only a memory: remove the file and run the command again."
            raise StorageError(str(e), where=str(self.path), hint=hint) from None

    def find(self, digests: Sequence[bytes]) -> dict[bytes, Place]:
        """Where those of these blocks are that are known."""
        found: dict[bytes, Place] = {}
        for at in range(0, len(digests), BATCH):
            some = digests[at : at + BATCH]
            with self._sound():
                rows = self._db.execute(FIND, [*some, *NOBODY[len(some) :]]).fetchall()
            found.update((digest, (pack, slot)) for digest, pack, slot in rows if pack not in self._gone)
        return found

    def pack(self, number: int) -> Pack | None:
        """A pack by its number; None when it is not known any more."""
        query = "SELECT digest, size, blocks FROM packs WHERE id = ?"
        with self._sound():
            row = self._db.execute(query, (number,)).fetchone()
        return None if row is None or row[0] is None else Pack(Object(digest=row[0], size=row[1]), row[2])

    def numbers(self, digests: Sequence[str]) -> list[int | None]:
        """The numbers of packs by their objects' digests; None for those that are not known."""
        with self._sound():
            rows = self._db.execute("SELECT digest, id FROM packs WHERE digest IS NOT NULL").fetchall()
        known = dict(rows)
        return [known.get(d) for d in digests]

    def blocks_of(self, digest: str) -> dict[bytes, int]:
        """The blocks known to be in a pack, given by its object's digest: each block's digest and its slot."""
        query = "SELECT digest, slot FROM blocks WHERE pack IN (SELECT id FROM packs WHERE digest = ?)"
        with self._sound():
            return dict(self._db.execute(query, (digest,)).fetchall())

    def new_pack(self) -> int:
        """A number for a pack to come."""
        with self._sound():
            number = self._db.execute("INSERT INTO packs DEFAULT VALUES").lastrowid
        assert number is not None
        return number

    def name_pack(self, number: int, pack: Pack) -> None:
        """Says which object a pack has become."""
        values = (pack.object.digest, pack.object.size, pack.blocks, number)
        with self._sound():
            self._db.execute("UPDATE packs SET digest = ?, size = ?, blocks = ? WHERE id = ?", values)

    def name_sums(self, numbers: Iterable[int], sums: Object) -> None:
        """Says which object holds the sums of these packs' blocks."""
        rows = ((number, sums.digest, sums.size) for number in numbers)
        with self._sound():
            self._db.executemany("INSERT OR REPLACE INTO sums VALUES (?, ?, ?)", rows)

    def sums(self, numbers: Sequence[int]) -> dict[int, Object]:
        """The objects that hold the sums of those of these packs that have any."""
        found: dict[int, Object] = {}
        for at in range(0, len(numbers), BATCH):
            some = numbers[at : at + BATCH]
            marks = ",".join("?" * len(some))
            query = f"SELECT pack, digest, size FROM sums WHERE pack IN ({marks})"  # noqa: S608 (only marks)
            with self._sound():
                rows = self._db.execute(query, some).fetchall()
            found.update((pack, Object(digest=digest, size=size)) for pack, digest, size in rows)
        return found

    def layers(self, digests: Sequence[str]) -> dict[str, tuple[bytes, bytes]]:
        """The hashes that objects have in torrents (see kiosk.swarm.make), of those of these that are known."""
        found: dict[str, tuple[bytes, bytes]] = {}
        for at in range(0, len(digests), BATCH):
            some = digests[at : at + BATCH]
            marks = ",".join("?" * len(some))
            query = f"SELECT digest, root, pieces FROM layers WHERE digest IN ({marks})"  # noqa: S608 (only marks)
            with self._sound():
                rows = self._db.execute(query, some).fetchall()
            found.update((digest, (root, pieces)) for digest, root, pieces in rows)
        return found

    def add_layers(self, layers: Iterable[tuple[str, tuple[bytes, bytes]]]) -> None:
        """Adds the hashes of more objects."""
        rows = ((digest, root, pieces) for digest, (root, pieces) in layers)
        with self._sound():
            self._db.executemany("INSERT OR REPLACE INTO layers VALUES (?, ?, ?)", rows)

    def add(self, blocks: Iterable[tuple[bytes, int, int]]) -> None:
        """Adds blocks as (digest, pack number, slot); in the order of digests it is quick."""
        with self._sound():
            self._db.executemany("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?)", blocks)

    def forget(self, number: int) -> None:
        """Forgets a pack that is not in the store any more, or is soon to go, with its blocks."""
        self._gone.add(number)

    def forget_objects(self, digests: Collection[str]) -> None:
        """Forgets the packs among these objects: later files store what those held anew."""
        with self._sound():
            rows = self._db.execute("SELECT id, digest FROM packs").fetchall()
        for number in [number for number, digest in rows if digest in digests]:
            self.forget(number)
        with self._sound():
            self._db.executemany("DELETE FROM layers WHERE digest = ?", ((digest,) for digest in digests))

    def commit(self) -> None:
        """Remembers everything since the last commit. The packs must be in the store, durably."""
        with self._sound():
            for number in self._gone:
                self._db.execute("DELETE FROM packs WHERE id = ?", (number,))
            if self._gone:
                self._db.execute("DELETE FROM blocks WHERE pack NOT IN (SELECT id FROM packs)")
                self._db.execute("DELETE FROM sums WHERE pack NOT IN (SELECT id FROM packs)")
            self._gone.clear()
            self._db.commit()

    def rollback(self) -> None:
        """Forgets everything since the last commit."""
        self._gone.clear()
        self._db.rollback()


def _database(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    try:
        _prepare(db)
    except BaseException:
        db.close()
        raise
    db.isolation_level = "DEFERRED"
    return db


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA cache_size = -65536")
    db.execute("PRAGMA temp_store = MEMORY")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        db.executescript(f"BEGIN; {PACKS_SCHEMA}; {BLOCKS_SCHEMA}; PRAGMA user_version = {VERSION}; COMMIT;")
    elif version != VERSION:
        raise sqlite3.DatabaseError(f"has version {version} instead of {VERSION}")
    db.execute(SUMS_SCHEMA)
    db.execute(LAYERS_SCHEMA)
    db.execute("SELECT (SELECT max(id) FROM packs), (SELECT max(digest) FROM blocks)").fetchone()


def rebuild(
    known: KnownBlocks, source: ObjectSource, indexes: Iterable[Object], progress: Progress = quiet
) -> int:
    """Learns every block of every pack that these indexes name, from the packs themselves.

    Objects that are missing or damaged are passed over: what they held is stored again when it is next
    published. Returns how many packs were read.
    """
    seen: set[str] = set()
    for index in indexes:
        with _passing_over("index", index):
            found = load(source, index)
            for i, pack in enumerate(found.packs):
                if pack.object.digest not in seen:
                    seen.add(pack.object.digest)
                    with _passing_over("pack", pack.object):
                        number, length = _learn(known, source, pack)
                        if found.sums.objects and found.sums.of_pack[i] != NO_SUMS:
                            known.name_sums([number], found.sums.objects[found.sums.of_pack[i]])
                        progress(length)
    known.commit()
    return len(seen)


def _learn(known: KnownBlocks, source: ObjectSource, pack: Pack) -> tuple[int, int]:
    stored = source.read(pack.object)
    content = wire.unseal(wire.PACK, stored, limit=pack.blocks * BLOCK, where=pack.object.digest)
    number = known.new_pack()
    known.name_pack(number, Pack(pack.object, len(content) // BLOCK))
    known.add(sorted((digest, number, slot) for slot, digest in enumerate(block_digests(content))))
    return number, len(content)


@contextlib.contextmanager
def _passing_over(kind: str, wanted: Object) -> Iterator[None]:
    try:
        yield
    except (MissingObject, CorruptError) as e:
        log.warning("the %s %s is passed over: %s", kind, wanted.digest, e.what)


def block_digests(content: bytes) -> Iterator[bytes]:
    """The digest of each block of a pack's content."""
    view = memoryview(content)
    cuts = itertools.pairwise(range(0, len(content) + 1, BLOCK))
    return (block_digest(view[a:b]) for a, b in cuts)
