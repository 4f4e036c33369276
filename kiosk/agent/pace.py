"""When the agent looks, and when it works: intervals with jitter, growing pauses after failures, and a brake for
events that bring nothing. Pure but for the clock and the chance that it is given. All times are seconds of a
clock that never goes back."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

FULL = 3 * 3600.0
"""A whole verified run at least about so often, whatever polls say."""
SOONEST = 1.0
"""Between two runs that events asked for, at first."""
FIRST_RETRY, LAST_RETRY = 3.0, 900.0
LEAST = 60.0


@dataclass
class Pace:
    """The rhythm of one agent."""

    poll: float
    monotonic: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    failures: int = 0
    fruitless: int = 0
    last_run: float = float("-inf")

    def next_poll(self) -> float:
        """When to look at timestamp.json next: the interval, give or take half of it."""
        return self.monotonic() + self.poll * (0.5 + self.chance())

    def after_event(self) -> float:
        """When to run after an event: at once, unless events have kept it running in vain."""
        now = self.monotonic()
        if self.fruitless == 0:
            return now
        pause = min(self.poll, SOONEST * 2.0 ** min(self.fruitless - 1, 10))
        return max(now, self.last_run + pause)

    def begun(self) -> None:
        """A run begins. After a quiet time, what earlier events brought is forgotten."""
        now = self.monotonic()
        if now - self.last_run > self.poll:
            self.fruitless = 0
        self.last_run = now

    def ended_well(self, *, fruitful: bool, left: float) -> float:
        """A run has verified everything, and the metadata holds for `left` more seconds. Returns when the next
        whole run is due."""
        self.failures = 0
        self.fruitless = 0 if fruitful else self.fruitless + 1
        often = FULL * (0.67 + 0.66 * self.chance())
        return self.monotonic() + min(often, max(LEAST, left * 0.95))

    def ended_badly(self) -> float:
        """A run failed. Returns when to try again: later each time, up to a quarter of an hour."""
        self.failures += 1
        self.fruitless += 1
        pause = min(LAST_RETRY, FIRST_RETRY * 2.0 ** min(self.failures - 1, 10))
        return self.monotonic() + pause * (0.5 + 0.5 * self.chance())
