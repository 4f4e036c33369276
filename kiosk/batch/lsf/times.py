"""Times and lengths of time as LSF prints them, in the time zone of the host that kiosk runs on."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta

WHEN = re.compile(
    r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) )?(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +([0-9]{1,2}) "
    r"([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?(?: ([0-9]{4}))?"
)
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
CLOCK = re.compile(r"([0-9]{1,6}):([0-9]{2})(?::([0-9]{2}))?$")
AHEAD = timedelta(days=2)
"""How far in the future a time without a year may be (clocks differ); beyond, it was last year."""


def reader(now: datetime) -> Callable[[str], float | None]:
    """A reader of `Nov 23 09:46`, with or without a weekday, seconds and a year: seconds since the epoch. A time
    without a year is the last such one before `now`. It remembers what it has read: most times come often."""
    local = now.astimezone().replace(tzinfo=None)
    known: dict[str, float | None] = {}

    def read(text: str) -> float | None:
        if text not in known:
            if len(known) > 100_000:
                known.clear()
            known[text] = _read(text, local)
        return known[text]

    return read


def _read(text: str, now: datetime) -> float | None:
    found = WHEN.match(text.strip())
    if not found:
        return None
    month, day, hour, minute, second, year = found.groups()
    for candidate in [int(year)] if year else range(now.year + 1, now.year - 9, -1):
        try:
            when = datetime(
                candidate, MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second or 0)
            )
        except ValueError:
            continue  # 29 February, or no time at all
        if year or when <= now + AHEAD:
            return when.astimezone().timestamp()
    return None


def minutes(text: str) -> int | None:
    """A run limit in seconds: `1440.0` (minutes), `24:00` or `24:00:00`; None where there is none."""
    word = text.split("/")[0].strip()
    clock = CLOCK.match(word)
    if clock:
        return int(clock[1]) * 3600 + int(clock[2]) * 60 + int(clock[3] or 0)
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,9})?", word):
        return round(float(word) * 60) or None
    return None
