"""The fleet database: SQLite beside the kiosk's other files, or PostgreSQL by URL. What it guarantees:

* one row a host, at most `MOST_HOSTS`; hosts and pushes that nobody has heard of for long are removed;
* a host's sequence number only grows: of two calls with the same number, one is taken;
* what was answered is stored: leases and the bytes granted outlive a server that is killed;
* no message shows a password of the database's URL.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError

from kiosk.config import Settings
from kiosk.errors import KioskError, PolicyError, StorageError, UsageError, VerificationError
from kiosk.files import storage_errors
from kiosk.fleet.pushes import Push
from kiosk.model.report import Report

MOST_HOSTS = 20_000
MOST_PUSHES = 1000
DAY = 86_400.0
KEPT_DAYS = 30
BUSY = 10.0

schema = sa.MetaData()
hosts = sa.Table(
    "hosts", schema,
    sa.Column("host", sa.String(200), primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("seen", sa.Double, nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("reported", sa.Double),
    sa.Column("report", sa.Text),
)  # fmt: skip
pushes = sa.Table(
    "pushes", schema,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("images", sa.Text, nullable=False),
    sa.Column("hosts", sa.Text, nullable=False),
    sa.Column("waves", sa.Text, nullable=False),
    sa.Column("every", sa.Double, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("expires", sa.Double, nullable=False),
    sa.Column("ended", sa.Double),
    sqlite_autoincrement=True,
)  # fmt: skip
leases = sa.Table(
    "leases", schema,
    sa.Column("version", sa.String(200), primary_key=True),
    sa.Column("host", sa.String(200), primary_key=True),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("ends", sa.Double, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
)  # fmt: skip
egress = sa.Table(
    "egress", schema,
    sa.Column("minute", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("granted", sa.Numeric(30, 0), nullable=False),
    sa.Column("reported", sa.Numeric(30, 0), nullable=False),
)  # fmt: skip


class StaleSequence(KioskError):
    """A call's number is not above the last one's, which is `last`."""

    def __init__(self, last: int) -> None:
        super().__init__(f"the call's sequence is not above {last}")
        self.last = last


@dataclass(frozen=True)
class Host:
    """What is known of a host: its last report and when it came, by the server's clock."""

    host: str
    sequence: int
    seen: float
    address: str
    reported: float | None = None
    report: Report | None = None


@dataclass(frozen=True)
class HeldLease:
    """A lease as it is stored: `version` is NAME@VERSION, `bytes` what is still granted by it."""

    version: str
    host: str
    slot: int
    ends: float
    bytes: int


class Database:
    """The database, its tables made where they are missing. May be used from any thread."""

    def __init__(self, url: sa.URL) -> None:
        self._where = url.render_as_string(hide_password=True)
        self._engine = sa.create_engine(url, **_options(url))
        self._insert = postgresql.insert if url.get_backend_name() == "postgresql" else sqlite.insert
        with self._begin() as line:
            schema.create_all(line)

    @classmethod
    def of(cls, settings: Settings) -> Database:
        """The database that the settings name. UsageError where the URL is none, StorageError where it fails."""
        if settings.fleet_database is None:
            path = settings.fleet_file
            with storage_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(mode=0o640)
            return cls(sa.URL.create("sqlite", database=str(path)))
        return cls(parse(settings.fleet_database))

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()

    # -- hosts --------------------------------------------------------------------------------------------

    def accept(
        self, host: str, sequence: int, *, now: float, address: str = "", report: Report | None = None
    ) -> Host | None:
        """Takes a call of a host, with its report if it brings one; returns what was known before.

        Raises StaleSequence, and PolicyError where there are too many hosts."""
        with self._begin() as line:
            before = line.execute(sa.select(hosts).where(hosts.c.host == host)).one_or_none()
            if before is None:
                count = line.execute(sa.select(sa.func.count()).select_from(hosts)).scalar_one()
                if count >= MOST_HOSTS:
                    raise PolicyError(f"the fleet has {count} hosts already", hint="kiosk fleet forget HOST")
            values: dict[str, object] = {"sequence": sequence, "seen": now, "address": address[:64]}
            if report is not None:
                values |= {"reported": now, "report": report.to_json().decode()}
            insert = self._insert(hosts).values(host=host, **values)
            taken = line.execute(
                insert.on_conflict_do_update(
                    index_elements=[hosts.c.host], set_=values, where=hosts.c.sequence < sequence
                ).returning(hosts.c.sequence)
            ).one_or_none()
            if taken is None:
                last = sa.select(hosts.c.sequence).where(hosts.c.host == host)
                raise StaleSequence(line.execute(last).scalar_one())
        return _host(before) if before is not None else None

    def hosts(self) -> list[Host]:
        """All hosts, by name."""
        with self._begin() as line:
            return [_host(row) for row in line.execute(sa.select(hosts).order_by(hosts.c.host))]

    def forget(self, host: str) -> bool:
        """Removes a host; whether there was one. It comes back with its next report."""
        with self._begin() as line:
            return line.execute(sa.delete(hosts).where(hosts.c.host == host)).rowcount > 0

    # -- pushes -------------------------------------------------------------------------------------------

    def add_push(self, push: Push) -> Push:
        """Stores a push; returns it with its number."""
        values = {
            "images": json.dumps(push.images), "hosts": json.dumps(push.hosts), "waves": json.dumps(push.waves),
            "every": push.every, "created": push.created, "expires": push.expires,
        }  # fmt: skip
        with self._begin() as line:
            number = line.execute(sa.insert(pushes).values(**values)).inserted_primary_key
            assert number is not None
            return replace(push, id=int(number[0]))

    def end_push(self, number: int, now: float) -> None:
        """From now on nobody is asked by a push."""
        ended = sa.update(pushes).where(pushes.c.id == number, pushes.c.ended.is_(None)).values(ended=now)
        with self._begin() as line:
            line.execute(ended)

    def open_pushes(self, now: float) -> list[Push]:
        """The pushes that have not ended."""
        wanted = (
            sa.select(pushes).where(pushes.c.ended.is_(None), pushes.c.expires > now).order_by(pushes.c.id)
        )
        with self._begin() as line:
            return [_push(row) for row in line.execute(wanted.limit(MOST_PUSHES))]

    # -- leases and bytes ---------------------------------------------------------------------------------

    def leases(self, now: float) -> list[HeldLease]:
        """The leases that have not ended."""
        with self._begin() as line:
            return [HeldLease(*row) for row in line.execute(sa.select(leases).where(leases.c.ends > now))]

    def egress(self, since: int) -> list[tuple[int, int, int]]:
        """(minute, bytes granted, bytes reported) of the minutes from `since` on."""
        with self._begin() as line:
            rows = line.execute(sa.select(egress).where(egress.c.minute >= since))
            return [(int(m), int(g), int(r)) for m, g, r in rows]

    def keep(self, held: Iterable[HeldLease], minutes: Iterable[tuple[int, int, int]]) -> None:
        """Stores all leases, and minutes of the bytes that left, in one step."""
        rows = [vars(one) for one in held]
        with self._begin() as line:
            line.execute(sa.delete(leases))
            if rows:
                line.execute(sa.insert(leases), rows)
            for minute, granted, reported in minutes:
                values = {"granted": granted, "reported": reported}
                line.execute(
                    self._insert(egress)
                    .values(minute=minute, **values)
                    .on_conflict_do_update(index_elements=[egress.c.minute], set_=values)
                )

    def tidy(self, now: float) -> None:
        """Removes what nobody has heard of for `KEPT_DAYS`."""
        old = now - KEPT_DAYS * DAY
        with self._begin() as line:
            line.execute(sa.delete(hosts).where(hosts.c.seen < old))
            line.execute(sa.delete(pushes).where(pushes.c.created < old))
            line.execute(sa.delete(egress).where(egress.c.minute < now // 60 - 120))
            line.execute(sa.delete(leases).where(leases.c.ends < now))

    @contextlib.contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as line:
                yield line
        except DBAPIError as e:
            said = (str(e.orig).strip().splitlines() or [type(e.orig).__name__])[0]
            raise StorageError(
                f"the fleet database can't be used: {said}", where=self._where, hint="See docs/fleet.md."
            ) from None


def parse(text: str) -> sa.URL:
    """The URL of a database: sqlite:///PATH or postgresql://USER@HOST/NAME. UsageError without what it says."""
    try:
        url = sa.make_url(text)
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.get_backend_name() not in ("sqlite", "postgresql"):
        raise UsageError(
            "is not the URL of a database that kiosk uses",
            where="fleet_database",
            hint="sqlite:////PATH or postgresql://USER:PASSWORD@HOST/NAME",
        )
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    return url


def _options(url: sa.URL) -> dict[str, object]:
    if url.get_backend_name() == "postgresql":
        return {"pool_pre_ping": True, "pool_size": 4, "connect_args": {"connect_timeout": 10}}
    return {"connect_args": {"timeout": BUSY}}


@sa.event.listens_for(sa.Engine, "connect")
def _sqlite(connection: object, _record: object) -> None:
    """Readers are not held up by a writer, and a commit waits for the disk as long as a log of it needs."""
    if "sqlite" in type(connection).__module__:
        cursor = connection.cursor()  # type: ignore[attr-defined]
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()


def _host(row: sa.Row[tuple[object, ...]]) -> Host:
    values = dict(row._mapping)
    text = values.pop("report")
    report = None
    if text is not None:
        with contextlib.suppress(VerificationError):  # of another version of kiosk: as if there were none
            report = Report.from_json(text.encode(), where=values["host"])
    return Host(**values, report=report)


def _push(row: sa.Row[tuple[object, ...]]) -> Push:
    values = dict(row._mapping)
    return Push(**{**values, **{k: tuple(json.loads(values[k])) for k in ("images", "hosts", "waves")}})
