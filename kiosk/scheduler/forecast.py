"""How many nodes of each type will be asked for within the next hours, from the hours before. Pure.

The same hour of earlier weeks says most; with too few weeks, the same hour of earlier days does. What was asked for in
the last hours moves the expectation, and only lowers the low one: a holiday is not a working day. With too little
history everything is what the last hour shows, and `low` is 0: nothing is promised that was never seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil, floor

HOUR = 3600
WEEK = 168
WEEKS = 3
"""So many weeks with the same hour are needed to go by them."""
DAYS = 7
"""Without them, so many days: a week-end is among them."""
RECENT = 3
LOW, MIDDLE, HIGH = 0.1, 0.5, 0.9


@dataclass(frozen=True)
class HourRow:
    """One hour of one type: `hour` in hours since 1970 (UTC), the nodes asked for on average and at most, and the
    nodes' worth of jobs that arrived."""

    type: str
    hour: int
    mean: float
    peak: float
    arrived: float


@dataclass(frozen=True)
class Forecast:
    """Nodes that will be asked for: at least (nine times out of ten), in the middle, and at most (nine times out of
    ten)."""

    low: float
    expected: float
    high: float


def forecast(rows: Iterable[HourRow], now: datetime, horizon: float) -> dict[str, Forecast]:
    """What each type in `rows` will be asked for within `horizon` seconds after `now`. Rows may come in any order."""
    by_type: dict[str, dict[int, HourRow]] = defaultdict(dict)
    for row in rows:
        by_type[row.type][row.hour] = row
    first = int(now.timestamp()) // HOUR
    ahead = range(first, int(now.timestamp() + horizon) // HOUR + 1)
    return {name: _one(hours, first, ahead) for name, hours in by_type.items()}


def _one(hours: dict[int, HourRow], now: int, ahead: Sequence[int]) -> Forecast:
    last = hours.get(now) or hours.get(now - 1)
    latest = last.mean if last else 0.0
    like = [rows for hour in ahead if (rows := _alike(hours, hour, now))]
    if not like:
        return Forecast(0.0, latest, max(latest, last.peak if last else 0.0))
    # the least of the hours ahead is what is surely needed throughout; the most of them is what to be ready for
    low = min(_quantile([r.mean for r in rows], LOW) for rows in like)
    expected = max(_quantile([r.mean for r in rows], MIDDLE) for rows in like)
    high = max(_quantile([r.peak for r in rows], HIGH) for rows in like)
    trend = _trend(hours, now)
    low, expected = low * min(1.0, trend), expected * trend
    return Forecast(low, max(low, expected), max(low, expected, high))


def _alike(hours: dict[int, HourRow], hour: int, now: int) -> list[HourRow]:
    """The rows of the same hour of the week, else of the day, that are past; none where there are too few."""
    for step, enough, most in ((WEEK, WEEKS, 12), (24, DAYS, 14)):
        found = [
            hours[h] for h in range(hour - step, hour - step * (most + 1), -step) if h in hours and h < now
        ]
        if len(found) >= enough:
            return found
    return []


def _trend(hours: dict[int, HourRow], now: int) -> float:
    """What the last hours were, as a multiple of what hours like them had been before."""
    seen = usual = 0.0
    for hour in range(now - RECENT, now):
        before = _alike(hours, hour, hour)
        if hour in hours and before:
            seen += hours[hour].mean
            usual += _quantile([r.mean for r in before], MIDDLE)
    return 1.0 if usual <= 0 else min(2.0, max(0.0, seen / usual))


def _quantile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    at = part * (len(ordered) - 1)
    low, high = floor(at), ceil(at)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)
