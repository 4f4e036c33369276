"""The history is bounded, survives, and is set aside rather than lost."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kiosk.errors import BusyError, CorruptError, StorageError
from kiosk.scheduler import history
from kiosk.scheduler.forecast import HourRow, forecast
from kiosk.scheduler.history import History
from kiosk.scheduler.model import Need

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR = int(NOW.timestamp()) // 3600


def asked(nodes: float) -> dict[str, Need]:
    return {"el": Need(nodes, nodes)}


def test_an_hour_has_its_mean_its_peak_and_what_arrived(tmp_path: Path) -> None:
    with History(tmp_path / "history.db") as kept:
        for minute, nodes in ((0, 2), (20, 8), (40, 5), (60, 9)):
            kept.record(NOW + timedelta(minutes=minute), asked(nodes))
    with History(tmp_path / "history.db") as again:
        assert again.rows(NOW) == [HourRow("el", HOUR, 5, 8, 8), HourRow("el", HOUR + 1, 9, 9, 4)]


def test_a_forecast_reads_a_part_of_the_hours_and_says_the_same(tmp_path: Path) -> None:
    with History(tmp_path / "history.db") as kept:
        for hour in range(24 * 8):
            kept.record(NOW - timedelta(hours=hour), asked(hour % 24 + hour / 100))
        every, some = kept.rows(NOW), kept.rows(NOW, 3600)
        assert (len(every), len(some)) == (24 * 8, 5 * 8)
        assert forecast(some, NOW, 3600) == forecast(every, NOW, 3600)


def test_old_hours_go(tmp_path: Path) -> None:
    later = NOW + timedelta(weeks=14, hours=1)
    with History(tmp_path / "history.db") as kept:
        kept.record(NOW, asked(1))
        kept.record(later, asked(2))
        assert [row.mean for row in kept.rows(later)] == [2]
        assert kept._db.execute("SELECT count(*) FROM hours").fetchone() == (1,)


@pytest.mark.parametrize("harm", ["garbage", "another program's", "older", "cut"])
def test_a_file_that_cannot_be_read_is_set_aside_and_the_scheduler_goes_on(
    tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "history.db"
    if harm == "garbage":
        path.write_bytes(b"no database at all" * 100)
    elif harm == "another program's":
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE theirs (x)")
        db.close()
    else:
        with History(path) as kept:
            for hour in range(40):
                kept.record(NOW + timedelta(hours=hour), {f"type-{n}": Need(1.0) for n in range(100)})
        if harm == "cut":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 // 4096 * 4096])
        else:
            monkeypatch.setattr(history, "VERSION", 2)
    before = path.read_bytes()
    with History(path) as kept:
        assert isinstance(kept.lost, CorruptError)
        assert "set aside" in str(kept.lost)
        kept.record(NOW, asked(3))
        assert [row.mean for row in kept.rows(NOW)] == [3]
    assert (tmp_path / "history.db.broken-1").read_bytes() == before


def test_a_newer_file_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "history.db"
    with monkeypatch.context() as newer:
        newer.setattr(history, "VERSION", 9)
        with History(path):
            pass
    before = path.read_bytes()
    with pytest.raises(StorageError, match="has version 9"), History(path):
        pass
    assert path.read_bytes() == before


def test_a_file_that_somebody_holds_is_said_to_be_held_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "PATIENCE", 0.0)
    path = tmp_path / "history.db"
    with History(path) as kept:
        kept.record(NOW, asked(1))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BusyError, match="another process holds"):
            kept.record(NOW, asked(9))
        with pytest.raises(BusyError), History(path):
            pass
        other.execute("ROLLBACK")
        other.close()
        kept.record(NOW, asked(3))
        assert [(row.mean, row.peak) for row in kept.rows(NOW)] == [(2, 3)]


def test_a_clock_that_goes_back_adds_to_the_hour_that_it_says(tmp_path: Path) -> None:
    with History(tmp_path / "history.db") as kept:
        kept.record(NOW, asked(5))
        kept.record(NOW - timedelta(hours=3), asked(4))
        kept.record(NOW, asked(5))
        assert [(row.hour - HOUR, row.mean) for row in kept.rows(NOW)] == [(-3, 4), (0, 5)]
