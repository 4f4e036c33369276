"""Who may read a version from the kiosk itself now. Pure but for chance; docs/fleet-api.md has the rules.

* At most `copies` hosts hold a lease for a version, however many ask, and after a restart with the stored leases
  as well: holders keep theirs, nobody else gets one.
* The bytes that leave in any hour are bounded by the budget: what was granted, or what hosts say that they read,
  whichever is more. Over it no lease is given or renewed. A version that is larger than the whole budget is
  granted when nothing else was in the hour, else it would never arrive.
* A host that holds a lease and gets nowhere (less than `PART` of the version and `SLOWEST` in the time) loses it
  while others wait. So does one that says it gets on, once its deadline is over: twice the time that the version takes
  at the rate of a lease (its share of the budget, at most `FAIR`). It gets none for as long as it had one, then. No
  host can spend the others' budget by what it says alone: it is granted no more than the
  version has, `AGAIN` times an hour, and can't have read more than fits into the time that it held the lease.
* What was granted and not used is given back to the hour in which it was granted. Of a lease that ended unheard
  counts what was said, and what the host may have read since at twice its pace (`USUAL` where that is not known).
* Those who wait are told to come back so that together they make at most `CALLS` calls a second.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from kiosk.fleet.database import HeldLease
from kiosk.model.report import Lease, LeaseRequest
from kiosk.serve.budget import Budget

SECONDS = 60.0
WANTED = 120.0
CALLS = 50.0
SOONEST, LATEST = 3.0, 600.0
STALLED = 180.0
LONGEST = 3600.0
BARRED = 600.0
OF_ONE_HOST = 4
MOST_VERSIONS = 1000
FASTEST = 1.25e9
"""Bytes a second that a host may have read at most: 10 Gb/s."""
SLOWEST, PART = 20_000, 0.01
USUAL = 125_000_000
FAIR = 10_000_000
AGAIN = 2


@dataclass
class Holder:
    """A lease that is held: until when, since when, what was granted in all, the `deadline` after which others have
    their turn, and when it had last got on, to `mark` bytes that were still to come."""

    slot: int
    ends: float
    bytes: int
    since: float
    moved: float
    granted: int
    mark: int
    deadline: float

    def hear(self, size: int, now: float) -> None:
        """Takes what is still to come now."""
        enough = min(PART * self.granted, SLOWEST * (now - self.moved))
        if size < self.mark and (self.mark - size >= enough or size == 0):
            self.moved, self.mark = now, size
        self.mark = max(size, self.mark)

    def late(self, now: float) -> bool:
        """Whether it has to make way for those who wait."""
        return now - self.moved > STALLED or now > self.deadline

    def unused(self, left: int, now: float) -> int:
        """The bytes granted that were not read, where so many are still to come now."""
        read = max(0, self.granted - left)
        return self.granted - min(read, int(FASTEST * max(1.0, now - self.since)))

    def left(self) -> int:
        """The bytes that were still to come when it ended unheard."""
        known = self.ends - SECONDS - self.since
        pace = 2 * (self.granted - self.bytes) / known if known >= 1 else USUAL
        return max(0, self.bytes - max(0, int(pace * SECONDS)))


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
        self._had: dict[tuple[str, str], tuple[int, int]] = {}
        self._turn = float("-inf")
        self._longest = 0.0
        for one in stored:
            since = one.ends - SECONDS
            self._held.setdefault(one.version, {})[one.host] = Holder(
                one.slot,
                one.ends,
                one.bytes,
                since,
                now,
                one.bytes,
                one.bytes,
                now + self._time_of(one.bytes),
            )

    def ask(
        self,
        request: LeaseRequest,
        now: float,
        *,
        known: frozenset[str] | None = None,
        size: int | None = None,
        leechers: int = 0,
    ) -> Lease:
        """Answers a host. `known` are the versions there are (None: any), `size` the bytes of this one (None: not
        known); `leechers` those whom the tracker knows."""
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
        holder = self._grant(version, request, now, size)
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

    def _grant(self, version: str, request: LeaseRequest, now: float, most: int | None) -> Holder | None:
        holders, host = self._held.get(version, {}), request.host
        size = request.bytes if most is None else min(request.bytes, most)
        holder = holders.get(host)
        if holder is None:
            if not self._may_begin(version, holders, host, now) or not self._may(
                version, host, size, now, most
            ):
                return None
            taken = {h.slot for h in holders.values()}
            slot = next(n for n in range(self.copies + len(taken)) if n not in taken)
            holder = Holder(slot, now, size, now, now, size, size, now + self._time_of(size))
            self._held.setdefault(version, {})[host] = holder
            self._count(version, host, size, now)
        else:
            holder.hear(size, now)
            if holder.late(now) and self._others_wait(version, now):
                self._barred[version, host] = now + max(BARRED, now - holder.since)
                self._end(version, host, size, now)
                return None
            more = max(0, size - holder.bytes)
            if not (self._may(version, host, more, now, most) if more else self.budget.keeps(now)):
                self._end(version, host, size, now)
                return None
            if more:
                self._count(version, host, more, now)
                holder.granted += more
        holder.bytes, holder.ends = size, now + SECONDS
        return holder

    def _may(self, version: str, host: str, more: int, now: float, most: int | None) -> bool:
        """Whether a host may be granted so many more bytes of a version."""
        hour, had = self._had.get((version, host), (0, 0))
        if most is not None and hour == int(now // 3600) and had + more > AGAIN * most:
            return False
        return self.budget.allows(more, now)

    def _count(self, version: str, host: str, more: int, now: float) -> None:
        this = int(now // 3600)
        if len(self._had) > 4096:
            self._had = {k: v for k, v in self._had.items() if v[0] == this}
        hour, had = self._had.get((version, host), (this, 0))
        self._had[version, host] = this, (had if hour == this else 0) + more
        self.budget.grant(host, more, now)

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
        if request.host in self._held.get(version, {}):
            self._end(version, request.host, request.bytes, now)

    def _end(self, version: str, host: str, left: int, now: float) -> None:
        """Ends a lease with so many bytes still to come: those that were not read were never granted."""
        holder = self._held[version].pop(host)
        if not self._held[version]:
            del self._held[version]
        unused = holder.unused(left, now)
        self.budget.take_back(host, unused, holder.since, now)
        hour, had = self._had.get((version, host), (0, 0))
        self._had[version, host] = hour, max(0, had - unused)

    def _time_of(self, size: int) -> float:
        """Seconds that a lease may take while others wait for it."""
        limit = self.budget.limit
        rate = FAIR if limit is None else min(FAIR, max(1.0, limit / 3600 / max(1, self.copies)))
        return min(LONGEST, max(STALLED, 2 * size / rate))

    def _retry(self, now: float) -> float:
        """The next moment that nobody else was told."""
        self._turn = max(self._turn, now) + 1 / CALLS
        wait = min(LATEST, max(SOONEST, self._turn - now)) * self._chance(1.0, 1.25)
        self._longest = max(wait, self._longest * 0.99)
        return round(wait, 3)

    def _forget(self, now: float) -> None:
        ended = [(v, h, x) for v, hs in self._held.items() for h, x in hs.items() if x.ends <= now]
        for version, host, holder in ended:
            self._end(version, host, holder.left(), now)
        oldest = now - max(WANTED, self._longest * 1.1)
        for version, wanting in list(self._wanting.items()):
            for host, asked in list(islice(wanting.items(), 64)):
                if asked < oldest:
                    del wanting[host]
            if not wanting:
                del self._wanting[version]
        if len(self._barred) > 1000:
            self._barred = {k: until for k, until in self._barred.items() if until > now}
