"""The same hour of other weeks says what is to come; the last hours say whether this is such a week."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from kiosk.scheduler.forecast import Forecast, HourRow, forecast

NOW = datetime(2026, 3, 30, 8, tzinfo=UTC)
HOUR = int(NOW.timestamp()) // 3600


def past(hours: int, nodes: Callable[[int], float]) -> list[HourRow]:
    return [HourRow("el", h, nodes(h), nodes(h) + 1, 0) for h in range(HOUR - hours, HOUR)]


def office(hour: int) -> float:
    day, clock = (hour // 24 + 3) % 7, hour % 24
    return 100.0 if day < 5 and 8 <= clock < 18 else 10.0


def test_a_type_without_history_is_promised_nothing() -> None:
    assert forecast([], NOW, 3600) == {}
    assert forecast(past(5, lambda _: 40), NOW, 3600)["el"] == Forecast(0, 40, 41)


def test_a_monday_morning_is_like_other_monday_mornings() -> None:
    found = forecast(past(4 * 168, office), NOW, 0)["el"]
    assert found == Forecast(100, 100, 101)
    at_ten = forecast(past(4 * 168, office), NOW.replace(hour=19), 0)["el"]
    assert at_ten.low == pytest.approx(10, abs=1)


def test_low_is_what_the_whole_horizon_is_sure_of_and_high_what_any_hour_may_bring() -> None:
    found = forecast(past(4 * 168, office), NOW.replace(hour=7), 3600)["el"]
    assert (found.low, found.high) == (10, 101)


def test_a_holiday_lowers_what_is_sure() -> None:
    rows = [row if row.hour < HOUR - 3 else HourRow("el", row.hour, 1, 1, 0) for row in past(4 * 168, office)]
    found = forecast(rows, NOW, 0)["el"]
    assert (found.low, found.expected) == (pytest.approx(10), pytest.approx(10))


def test_more_than_usual_raises_what_is_expected_but_not_what_is_sure() -> None:
    rows = [
        row if row.hour < HOUR - 3 else HourRow("el", row.hour, 15, 15, 0) for row in past(4 * 168, office)
    ]
    found = forecast(rows, NOW, 0)["el"]
    assert (found.low, found.expected) == (100, pytest.approx(150))


def test_a_week_without_other_weeks_goes_by_the_days_among_them_a_week_end() -> None:
    found = forecast(past(168, office), NOW, 0)["el"]
    assert found.low == 10
    assert found.expected == 100
    assert forecast(past(6 * 24, office), NOW, 0)["el"].low == 0
