"""The fleet database: one row a host, numbers that grow, bounds, and the same on PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kiosk.config import Settings
from kiosk.errors import PolicyError, StorageError, UsageError
from kiosk.fleet import database as module
from kiosk.fleet.database import Database, HeldLease, StaleSequence, parse
from kiosk.fleet.pushes import Push
from kiosk.model.report import Report
from kiosk.run import run


def report(host: str = "hv-1", sequence: int = 1, **more: object) -> Report:
    words = {"host": host, "sequence": sequence, "agent": "0.1", "since": 0, "state": "idle"}
    return Report.model_validate({**words, **more})


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database.of(Settings(home=tmp_path))
    yield made
    made.close()


def whole_life(database: Database) -> None:
    """Everything that the database is used for."""
    assert (
        database.accept("hv-1", 1, now=10, address="::1", report=report(error="a\x09b", swarm_bytes=1 << 46))
        is None
    )
    before = database.accept("hv-1", 2, now=11)
    assert before is not None
    assert (before.report, before.reported) == (report(error="a\x09b", swarm_bytes=1 << 46), 10)
    for old in (2, 1, 0):
        with pytest.raises(StaleSequence) as caught:
            database.accept("hv-1", old, now=12, report=report(sequence=old))
        assert caught.value.last == 2
    (row,) = database.hosts()
    assert (row.sequence, row.seen, row.reported, row.report) == (2, 11, 10, before.report)
    database.accept("hv-0", (1 << 63) - 1, now=12)
    assert [h.host for h in database.hosts()] == ["hv-0", "hv-1"]
    one = database.add_push(Push(0, ("a", "b"), ("hv-*",), (10, 100), 300, created=5, expires=50))
    two = database.add_push(Push(0, ("a",), created=6, expires=20))
    assert database.open_pushes(10) == [one, two]
    assert database.open_pushes(20) == [one]
    database.end_push(one.id, 21)
    assert database.open_pushes(22) == []
    held = [HeldLease("worker@1", "hv-1", 0, 70, 1 << 46), HeldLease("worker@1", "hv-2", 1, 90, 0)]
    database.keep(held, [(1, 1 << 70, 3), (2, 4, 5)])
    database.keep(held, [(2, 5, 6)])
    assert database.leases(60) == held
    assert database.leases(80) == held[1:]
    assert sorted(database.egress(1)) == [(1, 1 << 70, 3), (2, 5, 6)]
    database.tidy(12 + 30 * 86_400)
    assert [h.host for h in database.hosts()] == ["hv-0"]
    assert database.leases(0) == []
    assert database.egress(0) == []
    assert database.forget("hv-0")
    assert not database.forget("hv-0")


def test_everything_that_it_is_used_for(database: Database) -> None:
    whole_life(database)


def test_of_two_calls_with_the_same_number_one_is_taken(database: Database) -> None:
    database.accept("hv-1", 0, now=0)
    gate = threading.Barrier(8)

    def call(_: int) -> bool:
        gate.wait()
        with contextlib.suppress(StaleSequence):
            database.accept("hv-1", 1, now=1)
            return True
        return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(call, range(8))) == 1


def test_a_fleet_has_a_greatest_size(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_HOSTS", 2)
    for host in ("a", "b"):
        database.accept(host, 1, now=0)
    with pytest.raises(PolicyError, match="2 hosts already"):
        database.accept("c", 1, now=0)
    database.accept("a", 2, now=0)


def test_a_report_that_another_version_of_kiosk_stored_is_left_out(database: Database) -> None:
    database.accept("a", 1, now=0, report=report("a"))
    with database._begin() as line:
        line.exec_driver_sql('UPDATE hosts SET report = \'{"schema": "kiosk.report/9"}\'')
    assert database.hosts()[0].report is None


@pytest.mark.parametrize(
    "url", ["mysql://me:geheim@db/x", "geheim", "postgresql://me:geheim@db:port/x", "://geheim"]
)
def test_a_wrong_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(url)
    assert "geheim" not in str(caught.value)


def test_a_database_that_does_not_answer_is_named_without_its_password() -> None:
    settings = Settings(fleet_database="postgresql://me:geheim@127.0.0.1:1/x")
    assert "geheim" not in repr(settings)
    with pytest.raises(StorageError, match="fleet database") as caught:
        Database.of(settings)
    assert "geheim" not in str(caught.value)
    assert "me:***@127.0.0.1" in str(caught.value)


def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "fleet.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match=r"fleet\.sqlite.*can't be used"):
        Database.of(Settings(home=tmp_path))


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """A real PostgreSQL on loopback; gives the URL of an empty database."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    assert programs, "apt-get install postgresql"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    folder.chmod(0o755)
    data = folder / "data"
    data.mkdir()
    (folder / "password").write_text("geheim")
    for path in (data, folder / "password"):
        shutil.chown(path, "postgres", "postgres")
    user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
    init = ["initdb", "-D", data, "-U", "kiosk", f"--pwfile={folder}/password", "-A", "scram-sha-256", "-N"]
    control = [*user, programs[-1] / "pg_ctl", "-D", data, "-w", "-l", data / "log"]
    run([*user, programs[-1] / init[0], *init[1:]], timeout=120, cwd=data)
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories= -c fsync=off"
    run([*control, "-o", options, "start"], timeout=60, cwd=data)
    try:
        yield f"postgresql://kiosk:geheim@127.0.0.1:{port}/postgres"
    finally:
        run([*control, "-m", "immediate", "stop"], timeout=60, cwd=data)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL runs as its own user")
def test_postgresql_does_the_same(tmp_path_factory: pytest.TempPathFactory) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="kiosk-postgresql-") as name, postgresql(Path(name)) as url:
        settings = Settings(fleet_database=url)
        for _ in range(2):  # the tables are there the second time
            database = Database.of(settings)
            whole_life(database)
            database.close()
        wrong = Settings(fleet_database=url.replace("geheim", "falsch"))
        with pytest.raises(StorageError, match="password authentication failed") as caught:
            Database.of(wrong)
        assert "falsch" not in str(caught.value)
