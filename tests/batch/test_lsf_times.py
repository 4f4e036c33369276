"""Times without a year are the last such ones; nothing that is printed raises."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk.batch.lsf.times import minutes, reader


def local(*when: int) -> float:
    return datetime(*when).astimezone().timestamp()  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("now", "text", "when"),
    [
        ((2026, 11, 23, 12), "Nov 23 09:46", (2026, 11, 23, 9, 46)),
        ((2026, 11, 23, 12), "Mon Nov 23 09:46:45", (2026, 11, 23, 9, 46, 45)),
        ((2026, 1, 2, 12), "Dec 28 19:56 L", (2025, 12, 28, 19, 56)),
        ((2026, 12, 31, 23), "Jan  1 00:10", (2027, 1, 1, 0, 10)),
        ((2026, 1, 2, 12), "Feb 29 10:00", (2024, 2, 29, 10, 0)),
        ((2026, 1, 2, 12), "Feb 21 00:02 2019", (2019, 2, 21, 0, 2)),
        ((2026, 1, 2, 12), "Apr 12 18:10:00 2024", (2024, 4, 12, 18, 10)),
    ],
)
def test_when_it_was(now: tuple[int, ...], text: str, when: tuple[int, ...]) -> None:
    read = reader(datetime(*now).astimezone(UTC))  # type: ignore[arg-type, misc]
    assert read(text) == local(*when)
    assert read(text) == local(*when)


@pytest.mark.parametrize("text", ["", "-", "Feb 31 10:00 2026", "Nov 23 25:00", "tomorrow", "Nov"])
def test_what_is_no_time(text: str) -> None:
    assert reader(datetime(2026, 1, 2, tzinfo=UTC))(text) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1440.0", 86400),
        ("24:00", 86400),
        ("00:30:00", 1800),
        ("60.0/hostA", 3600),
        ("-", None),
        ("", None),
        ("0", None),
    ],
)
def test_run_limits(text: str, seconds: int | None) -> None:
    assert minutes(text) == seconds


@given(st.text(max_size=40))
def test_no_text_raises(text: str) -> None:
    reader(datetime(2026, 1, 2, tzinfo=UTC))(text)
    minutes(text)
