"""The ledger: what was written is there, one scheduler at a time, and a file that is not right is left as it is."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kiosk.errors import BusyError, KioskError, NotFoundError, StorageError
from kiosk.scheduler import ledger as module
from kiosk.scheduler.breaker import Circuit
from kiosk.scheduler.ledger import STEPS, Ledger
from kiosk.scheduler.life import Moment
from kiosk.scheduler.model import Node

NOW = datetime(2026, 11, 25, 9, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "farm" / "ledger.sqlite"


def node(id: str = "kiosk-worker-0000000001", **more: object) -> Node:
    return Node(id, "worker", "debian-12-worker@1", "wanted", NOW, NOW, NOW + timedelta(days=1), **more)  # type: ignore[arg-type]


def test_a_node_is_as_it_was_written_after_the_file_is_opened_again(path: Path) -> None:
    whole = replace(
        node(where="hv-1", vm="vm1", host="h"),
        phase="joined",
        reason="naïve\n",
        attempts=2,
        missing=NOW,
        silent=NOW,
    )
    with Ledger.opened(path) as ledger:
        ledger.put([whole, node("kiosk-worker-0000000002")], NOW)
    with Ledger.opened(path) as ledger:
        assert ledger.nodes()[whole.id] == whole
        assert len(ledger.nodes()) == 2


def test_only_what_was_never_asked_for_is_forgotten(path: Path) -> None:
    with Ledger.opened(path) as ledger:
        ledger.put([node(), node("kiosk-worker-0000000002")], NOW)
        ledger.intend(node().id, "start", NOW, asked=replace(node(), phase="launching"))
        with pytest.raises(KioskError, match="launching"):
            ledger.forget(node().id, "too many", NOW)
        ledger.forget("kiosk-worker-0000000002", "too many", NOW)
        assert list(ledger.nodes()) == [node().id]
        assert ledger.ever(["kiosk-worker-0000000002", "kiosk-worker-0000000003"]) == {
            "kiosk-worker-0000000002"
        }


def test_the_history_tells_phases_and_effects_and_is_pruned(path: Path) -> None:
    with Ledger.opened(path) as ledger:
        ledger.put([node()], NOW)
        intent = ledger.intend(
            node().id, "start debian-12-worker@1", NOW, asked=replace(node(), phase="launching")
        )
        ledger.done(intent, "done", NOW, node=replace(node(), phase="booting", vm="vm1"))
        ledger.put([replace(node(), phase="gone", reason="its age")], NOW + timedelta(days=1))
        told = [(e.what, e.note) for e in ledger.history(node().id)]
        assert told == [
            ("phase wanted", None),
            ("phase launching", None),
            ("phase booting", None),
            ("start debian-12-worker@1", "done"),
            ("phase gone", "its age"),
        ]
        ledger.prune(NOW + timedelta(days=30, hours=1))
        assert [e.what for e in ledger.history(node().id)] == ["phase gone"]


def test_the_history_has_a_largest_size(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 100)
    with Ledger.opened(path) as ledger:
        ledger.put([node(f"kiosk-worker-{i:010}") for i in range(300)], NOW)
        ledger.prune(NOW)
        assert len(ledger.ever(ledger.nodes())) == 100


def test_circuits_and_the_clock_are_kept_and_move_with_it(path: Path) -> None:
    with Ledger.opened(path) as ledger:
        ledger.put([node()], NOW)
        ledger.put_circuits({"image:a@1": Circuit(failures=3, trips=1, opened=NOW, reason="x")})
        ledger.tick(Moment(NOW, "boot", 5.0), timedelta())
        ledger.tick(Moment(NOW + timedelta(days=1), "boot", 6.0), timedelta(days=1))
    with Ledger.opened(path) as ledger:
        assert ledger.moment() == Moment(NOW + timedelta(days=1), "boot", 6.0)
        assert ledger.nodes()[node().id].since == NOW + timedelta(days=1)
        assert ledger.circuits() == {"image:a@1": Circuit(3, 1, NOW + timedelta(days=1), reason="x")}
        assert ledger.born(NOW) == ledger.born(NOW + timedelta(days=9))


def test_a_second_scheduler_is_told_that_one_runs(path: Path) -> None:
    with Ledger.opened(path), pytest.raises(BusyError, match="a scheduler runs"), Ledger.opened(path):
        pass


def test_people_read_it_while_a_tick_writes(path: Path) -> None:
    with Ledger.opened(path) as ledger:
        ledger.put([node()], NOW)
        with ledger._begin(), Ledger.reading(path) as reader:
            assert list(reader.nodes()) == [node().id]


def test_there_is_nothing_to_read_before_the_first_tick(path: Path) -> None:
    with pytest.raises(NotFoundError), Ledger.reading(path):
        pass


def test_a_file_that_another_program_holds_is_busy_and_nothing_is_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY", 0.05)
    with Ledger.opened(path) as ledger:
        ledger.put([node()], NOW)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BusyError):
            ledger.put([node("kiosk-worker-0000000002")], NOW)
        assert list(ledger.nodes()) == [node().id]
        other.execute("ROLLBACK")
        other.close()
        ledger.put([node("kiosk-worker-0000000002")], NOW)
        assert len(ledger.nodes()) == 2


@pytest.mark.parametrize("damage", ["text", "half", "zeros"])
def test_a_corrupt_file_is_named_and_left_as_it_is(path: Path, damage: str) -> None:
    with Ledger.opened(path) as ledger:
        ledger.put([node(f"kiosk-worker-{i:010}") for i in range(2000)], NOW)
    whole = path.read_bytes()
    bad = {
        "text": b"no database at all\n" * 100,
        "half": whole[: len(whole) // 2],
        "zeros": whole[:8192] + bytes(len(whole) - 8192),
    }[damage]
    path.write_bytes(bad)
    with pytest.raises(StorageError, match=r"ledger\.sqlite"), Ledger.opened(path):
        pass
    assert path.read_bytes() == bad


def test_a_file_of_a_newer_kiosk_or_of_another_program_is_not_touched(path: Path) -> None:
    Ledger(path, (*STEPS, "CREATE TABLE more (x)")).close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match="newer kiosk"), Ledger.opened(path):
        pass
    assert path.read_bytes() == before
    foreign = path.with_name("other.sqlite")
    line = sqlite3.connect(foreign)
    line.execute("CREATE TABLE nodes (x)")
    line.close()
    with pytest.raises(StorageError, match="no ledger"), Ledger.opened(foreign):
        pass


def test_an_older_file_is_brought_up_to_date_and_a_copy_is_kept(path: Path) -> None:
    with Ledger.opened(path) as ledger:
        ledger.put([node()], NOW)
    newer = (*STEPS, "CREATE TABLE more (x); INSERT INTO more VALUES (1)")
    ledger = Ledger(path, newer)
    assert list(ledger.nodes()) == [node().id]
    ledger.close()
    copy = path.with_name("ledger.sqlite.version-1")
    with Ledger.reading(copy) as old:
        assert list(old.nodes()) == [node().id]


def test_a_step_to_a_newer_version_that_fails_changes_nothing(path: Path) -> None:
    with Ledger.opened(path) as ledger:
        ledger.put([node()], NOW)
    with pytest.raises(StorageError):
        Ledger(path, (*STEPS, "CREATE TABLE more (x); CREATE TABLE more (x)"))
    with Ledger.opened(path) as ledger:
        assert list(ledger.nodes()) == [node().id]


def test_a_killed_writer_leaves_what_it_had_committed(path: Path) -> None:
    child = os.fork()
    if child == 0:
        ledger = Ledger(path)
        ledger.put([node()], NOW)
        ledger._line.execute("BEGIN IMMEDIATE")
        ledger._line.execute("DELETE FROM nodes")
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    with Ledger.opened(path) as ledger:
        assert list(ledger.nodes()) == [node().id]
