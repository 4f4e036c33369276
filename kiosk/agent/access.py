"""Whether this host may read a version from the origin now. Pure but for the clock that it is given.

With a lease it may. Without one it waits and asks again when it was told to. Where nobody gives leases, it
takes a place in a row that follows from its name and from the fan-out that was known last, so that a fleet that
loses its kiosk comes to the origin spread over the time that the origin needs to serve it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kiosk.model.rollout import WHOLE, place

FEW = 1
"""So many hosts read from the origin at once without harm, and need no swarm."""
SOON = 3.0
"""Seconds after which a host that was alone asks whether it still is: others may wait for what it brings."""
UNKNOWN = 100
"""So many hosts are thought to want a version where nobody has said how many there are."""
SILENCE = 30.0
"""Seconds after which an answer is no longer waited for."""
AGAIN = 30.0
"""Seconds between questions where nobody gives leases."""


def turn(host: str, name: str, version: str, fanout: int, size: int, rate: float) -> float:
    """Seconds until a host's turn, when `fanout` hosts want `size` bytes of an origin that gives `rate` a
    second. 0 for a host that is known to be alone; `fanout` 0 is not known."""
    if 1 <= fanout <= FEW:
        return 0.0
    return place(name, version, host) / WHOLE * (fanout or UNKNOWN) * size / rate


PATIENCE = 6 * 3600.0
"""Seconds without a byte from anywhere after which a host goes to the origin in its turn, whatever it is told: a server
that only ever refuses must not keep hosts from updates, and a budget is one of an hour."""


@dataclass
class Access:
    """One version's access. The caller serialises the calls."""

    ask: Callable[[], object]
    turn_of: Callable[[int], float]
    monotonic: Callable[[], float]
    slot: int = 0
    fanout: int = 0
    granted_until: float = 0.0
    _own_at: float | None = None
    _ask_at: float = 0.0
    _asked: float | None = None
    _moved: float = 0.0
    begun: bool = False

    def begin(self) -> None:
        """Asks for the first time."""
        if not self.begun:
            self.begun = True
            self._moved = self.monotonic()
            self._question()

    @property
    def waiting(self) -> bool:
        """Whether an answer is on its way."""
        return self._asked is not None

    def granted(self) -> bool:
        """Whether the origin may be read now. Asks again where that is due."""
        now = self.monotonic()
        if self._asked is not None and now > self._asked + SILENCE:
            self.answer(None, self.fanout)
        if self._asked is None and now >= self._ask_at:
            self._question()
        if now < self.granted_until:
            return True
        own = self._own_at
        if own is None:
            own = self._moved + PATIENCE + self.turn_of(max(self.fanout, FEW + 1))
        return now >= own

    def moved(self) -> None:
        """Something arrived."""
        self._moved = self.monotonic()

    def answer(self, lease: Mapping[str, Any] | None, fanout: int) -> None:
        """Takes the daemon's answer; None: nobody gives leases."""
        now = self.monotonic()
        self._asked = None
        if lease is None:
            self.fanout = fanout or self.fanout
            if self._own_at is None:
                self._own_at = now + self.turn_of(self.fanout)
            self._ask_at = now + AGAIN
            return
        self._own_at = None
        self.fanout = lease["fanout"]
        self.slot = lease["slot"]
        if lease["granted"]:
            self.granted_until = now + lease["seconds"]
            again = max(1.0, lease["seconds"] * 2 / 3)
            self._ask_at = now + (min(SOON, again) if self.fanout <= FEW else again)
        else:
            self.granted_until = 0.0
            self._ask_at = now + max(0.5, lease["retry"])

    def _question(self) -> None:
        self._asked = self.monotonic()
        self.ask()
