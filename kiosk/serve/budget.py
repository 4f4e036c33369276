"""The bytes that may leave the kiosk in an hour, and those that did. Pure.

What was granted counts, or what hosts say that they read, whichever is more. What was granted and not used is given
back to the minute in which it was granted, so that it is no credit for a later hour.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kiosk.log import logger

log = logger(__name__)

MINUTES = 60
LOUD = 300.0
SHARE = 10
"""What a host says that it read without a lease counts for at most one part in so many of the budget."""


@dataclass
class Budget:
    """Bytes that may leave in an hour (None: any number), and those that did, by minute."""

    limit: int | None
    granted: dict[int, int] = field(default_factory=dict)
    reported: dict[int, int] = field(default_factory=dict)
    refused: float = float("-inf")
    changed: set[int] = field(default_factory=set)
    _by_host: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def used(self, now: float) -> int:
        """The bytes of the last hour."""
        first = int(now // 60) - MINUTES + 1
        for minutes in (self.granted, self.reported):
            for old in [m for m in minutes if m < first]:
                del minutes[old]
        return max(0, sum(self.granted.values()), sum(self.reported.values()))

    def allows(self, more: int, now: float) -> bool:
        """Whether so many more may leave; remembers a refusal."""
        used = self.used(now)
        if self.limit is None or used + more <= self.limit or used == 0:
            return True
        if not self.over(now):
            log.warning(
                "the budget of %d bytes an hour is used up (%d): no lease is granted", self.limit, used
            )
        self.refused = now
        return False

    def keeps(self, now: float) -> bool:
        """Whether what was granted may go on: hosts have not read more than they may."""
        self.used(now)
        most = max(self.limit or 0, sum(self.granted.values()))
        return self.limit is None or sum(self.reported.values()) <= most

    def over(self, now: float) -> bool:
        """Whether it is used up: nothing is left, or a lease was refused for it just now."""
        return self.limit is not None and (self.used(now) > self.limit or now - self.refused < LOUD)

    def grant(self, host: str, size: int, now: float) -> None:
        """Counts bytes granted to a host."""
        minute = int(now // 60)
        self.granted[minute] = self.granted.get(minute, 0) + size
        self.changed.add(minute)
        hour, granted, said = self._of(host, now)
        self._by_host[host] = (hour, granted + size, said)

    def take_back(self, host: str, size: int, since: float, now: float) -> None:
        """Counts bytes granted at `since` as never granted: in that minute, then in the oldest of the hour, so that
        none is missing once those minutes are over."""
        self.used(now)
        hour, granted, said = self._of(host, now)
        self._by_host[host] = (hour, max(0, granted - size), said)
        first = int(since // 60)
        for minute in [first, *sorted(m for m in self.granted if m > first)]:
            less = min(size, self.granted.get(minute, 0))
            if less > 0:
                self.granted[minute] -= less
                self.changed.add(minute)
                size -= less

    def report(self, host: str, size: int, now: float) -> None:
        """Counts bytes that a host says it has read from the kiosk."""
        hour, granted, said = self._of(host, now)
        if self.limit is not None:
            size = max(0, min(size, granted + self.limit // SHARE - said))
        self._by_host[host] = (hour, granted, said + size)
        minute = int(now // 60)
        self.reported[minute] = self.reported.get(minute, 0) + size
        self.changed.add(minute)

    def minutes(self) -> list[tuple[int, int, int]]:
        """The minutes that are to be stored: those that changed since `changed` was emptied."""
        return [(m, self.granted.get(m, 0), self.reported.get(m, 0)) for m in sorted(self.changed)]

    def _of(self, host: str, now: float) -> tuple[int, int, int]:
        hour = int(now // 3600)
        found = self._by_host.get(host)
        if found is not None and found[0] == hour:
            return found
        if len(self._by_host) > 4096:
            self._by_host = {h: v for h, v in self._by_host.items() if v[0] == hour}
        return hour, 0, 0
