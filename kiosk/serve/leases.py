"""Who may read a version from the kiosk itself now. Pure but for chance; docs/fleet-api.md has the rules.

* At most `copies` hosts hold a lease for a version, however many ask, and after a restart with the stored leases
  as well: holders keep theirs, nobody else gets one.
* The bytes that leave in any hour are bounded by the budget: what was granted, or what hosts say that they read,
  whichever is more. Over it no lease is given or renewed. A version that is larger than the whole budget is
  granted when nothing else was in the hour, else it would never arrive.
* A host that holds a lease and gets nowhere loses it while others wait; no host can spend the others' budget by
  what it says alone.
* Those who wait are told to come back so that together they make at most `CALLS` calls a second.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

from kiosk.fleet.database import HeldLease
from kiosk.log import logger
from kiosk.model.report import Lease, LeaseRequest

log = logger(__name__)

SECONDS = 60.0
WANTED = 120.0
CALLS = 50.0
SOONEST, LATEST = 3.0, 600.0
STALLED = 180.0
LONGEST = 3600.0
BARRED = 600.0
OF_ONE_HOST = 4
MOST_VERSIONS = 1000
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
        """Counts bytes granted to a host, or given back."""
        minute = int(now // 60)
        self.granted[minute] = self.granted.get(minute, 0) + size
        hour, granted, said = self._of(host, now)
        self._by_host[host] = (hour, granted + size, said)

    def report(self, host: str, size: int, now: float) -> None:
        """Counts bytes that a host says it has read from the kiosk."""
        hour, granted, said = self._of(host, now)
        if self.limit is not None:
            size = max(0, min(size, granted + self.limit // SHARE - said))
        self._by_host[host] = (hour, granted, said + size)
        minute = int(now // 60)
        self.reported[minute] = self.reported.get(minute, 0) + size

    def minute(self, now: float) -> tuple[int, int, int]:
        """This minute as it is stored."""
        minute = int(now // 60)
        return minute, self.granted.get(minute, 0), self.reported.get(minute, 0)

    def _of(self, host: str, now: float) -> tuple[int, int, int]:
        hour = int(now // 3600)
        found = self._by_host.get(host)
        if found is not None and found[0] == hour:
            return found
        if len(self._by_host) > 4096:
            self._by_host = {h: v for h, v in self._by_host.items() if v[0] == hour}
        return hour, 0, 0


@dataclass
class Holder:
    """A lease that is held: until when, since when, and when bytes last went down."""

    slot: int
    ends: float
    bytes: int
    since: float
    moved: float


class Leases:
    """All leases. Times are seconds of the epoch by the server's clock."""

    def __init__(
        self,
        copies: int,
        budget: Budget,
        stored: Iterable[HeldLease] = (),
        *,
        now: float = 0,
        chance: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.copies = copies
        self.budget = budget
        self._chance = chance
        self._held: dict[str, dict[str, Holder]] = {}
        self._wanting: dict[str, dict[str, float]] = {}
        self._barred: dict[tuple[str, str], float] = {}
        self._turn = float("-inf")
        self._longest = 0.0
        for one in stored:
            self._held.setdefault(one.version, {})[one.host] = Holder(one.slot, one.ends, one.bytes, now, now)

    def ask(
        self, request: LeaseRequest, now: float, *, known: frozenset[str] | None = None, leechers: int = 0
    ) -> Lease:
        """Answers a host. `known` are the versions there are (None: any); `leechers` those whom the tracker knows."""
        version, host = f"{request.name}@{request.version}", request.host
        self._forget(now)
        if request.done:
            self._give_back(version, request, now)
            return Lease(granted=False)
        room = version in self._wanting or len(self._wanting) < MOST_VERSIONS
        if (known is not None and version not in known) or not room:
            return Lease(granted=False, retry=self._retry(now))
        wanting = self._wanting.setdefault(version, {})
        wanting.pop(host, None)
        wanting[host] = now  # at the end: the first are those who asked longest ago
        fanout = min(1_000_000, max(len(wanting), leechers))
        holder = self._grant(version, request, now)
        if holder is None:
            return Lease(granted=False, retry=self._retry(now), fanout=fanout)
        return Lease(granted=True, seconds=SECONDS, slot=holder.slot, fanout=fanout)

    def held(self) -> list[HeldLease]:
        """The leases as they are stored."""
        return [
            HeldLease(version, host, h.slot, h.ends, h.bytes)
            for version, holders in self._held.items()
            for host, h in holders.items()
        ]

    def counts(self, now: float) -> tuple[int, int]:
        """How many leases are held, and how many hosts wait for one."""
        self._forget(now)
        held = sum(map(len, self._held.values()))
        return held, max(0, len({h for w in self._wanting.values() for h in w}) - held)

    def _grant(self, version: str, request: LeaseRequest, now: float) -> Holder | None:
        holders, host, size = self._held.get(version, {}), request.host, request.bytes
        holder = holders.get(host)
        if holder is None:
            if not self._may_begin(version, holders, host, now) or not self.budget.allows(size, now):
                return None
            taken = {h.slot for h in holders.values()}
            slot = next(n for n in range(self.copies + len(taken)) if n not in taken)
            self._held.setdefault(version, {})[host] = holder = Holder(slot, now, size, now, now)
            self.budget.grant(host, size, now)
        elif self._others_wait(version, now) and (
            now - holder.moved > STALLED or now - holder.since > LONGEST
        ):
            self._barred[version, host] = now + BARRED
            self._drop(version, host)
            return None
        else:
            more = max(0, size - holder.bytes)
            if not (self.budget.allows(more, now) if more else self.budget.keeps(now)):
                self._drop(version, host)
                return None
            if more:
                self.budget.grant(host, more, now)
            if size < holder.bytes:
                holder.moved = now
        holder.bytes, holder.ends = size, now + SECONDS
        return holder

    def _may_begin(self, version: str, holders: dict[str, Holder], host: str, now: float) -> bool:
        if len(holders) >= self.copies or sum(host in h for h in self._held.values()) >= OF_ONE_HOST:
            return False
        return now >= self._barred.get((version, host), 0) or not self._others_wait(version, now)

    def _others_wait(self, version: str, now: float) -> bool:
        holders = self._held.get(version, {})
        return any(
            h not in holders and now >= self._barred.get((version, h), 0)
            for h in self._wanting.get(version, {})
        )

    def _give_back(self, version: str, request: LeaseRequest, now: float) -> None:
        self._wanting.get(version, {}).pop(request.host, None)
        holder = self._held.get(version, {}).get(request.host)
        if holder is not None:
            self.budget.grant(request.host, -min(holder.bytes, request.bytes), now)
            self._drop(version, request.host)

    def _drop(self, version: str, host: str) -> None:
        del self._held[version][host]
        if not self._held[version]:
            del self._held[version]

    def _retry(self, now: float) -> float:
        """The next moment that nobody else was told."""
        self._turn = max(self._turn, now) + 1 / CALLS
        wait = min(LATEST, max(SOONEST, self._turn - now)) * self._chance(1.0, 1.25)
        self._longest = max(wait, self._longest * 0.99)
        return round(wait, 3)

    def _forget(self, now: float) -> None:
        for version, host in [(v, h) for v, hs in self._held.items() for h, x in hs.items() if x.ends <= now]:
            self._drop(version, host)
        oldest = now - max(WANTED, self._longest * 1.1)
        for version, wanting in list(self._wanting.items()):
            for host, asked in list(islice(wanting.items(), 64)):
                if asked < oldest:
                    del wanting[host]
            if not wanting:
                del self._wanting[version]
        if len(self._barred) > 1000:
            self._barred = {k: until for k, until in self._barred.items() if until > now}
