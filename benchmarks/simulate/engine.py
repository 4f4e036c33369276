"""The swarm, simulated in small steps of time in which rates stay the same.

In a step, every transfer moves what its links give it. A host that has a piece at once asks the same source for the
next one that it lacks, the rarest first, and gets what was left of the step; where the source has none, the place is
free, and hosts that have room ask connected hosts at random. Holders of a lease read objects from the kiosk.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulate.flows import Floats, Ints, Links
from benchmarks.simulate.graph import Graph
from benchmarks.simulate.model import Farm, Result

NEVER = np.inf
ROWS = 1500
"""So many rows are looked through at once: what fits into the processor's cache counts."""
TASTES = 251
"""Among equally rare pieces hosts choose at random; so many rows of chance are enough."""
LEVEL = np.uint16(200)
MOST = np.uint8(255)
TRIES = 4
LONGEST = 40
"""A simulation ends after so many times the ideal."""
NOBODY = np.zeros(0, np.int32)


class Transfers:
    """What is on its way: one row each."""

    def __init__(self) -> None:
        self.source = self.target = self.piece = NOBODY
        self.left: Floats = np.zeros(0)

    def add(self, source: Ints, target: Ints, piece: Ints, left: Floats) -> None:
        """More rows."""
        self.source = np.concatenate((self.source, source))
        self.target = np.concatenate((self.target, target))
        self.piece = np.concatenate((self.piece, piece))
        self.left = np.concatenate((self.left, left))

    def keep(self, which: NDArray[np.bool_]) -> None:
        """Only these rows."""
        self.source, self.target = self.source[which], self.target[which]
        self.piece, self.left = self.piece[which], self.left[which]


class Swarm:
    """One simulation."""

    def __init__(self, farm: Farm) -> None:
        self.farm = farm
        self.chance = np.random.default_rng(farm.seed)
        n = self.n = farm.hosts
        self.pieces = farm.objects * farm.pieces
        self._links()
        self.has = np.zeros((n, self.pieces), np.uint8)
        self.busy = np.zeros((n, self.pieces), np.uint8)
        self.graph = Graph(farm, self.links.rack, self.chance, self.has)
        self.got = np.zeros(n, np.int32)
        self.assembled = np.zeros(n)
        self.alive = np.ones(n, bool)
        self.begin = farm.begin + farm.spread * self.chance.random(n)
        self.papers = np.full(n, farm.papers)
        self.joined = np.full(n, NEVER)
        self.in_swarm = np.zeros(n, bool)
        self.announce_at = np.full(n, NEVER)
        self.done = np.full(n, NEVER)
        self.given = np.zeros((n, n), np.float32)  # [to, from], since the last choice of whom to serve
        self.choke_at = farm.begin + farm.choke * self.chance.random(n)
        self.moving = Transfers()
        self.holders: dict[int, int] = {}
        self.reading: dict[int, set[int]] = {}
        self.spare: dict[int, float] = {}
        self.lease_after = 0.0
        self.origin_bytes = 0.0
        self.now = 0.0
        self.tastes = self.chance.integers(1, LEVEL, (TASTES, self.pieces), dtype=np.uint16)
        goes = self.chance.random(n) < farm.trouble.vanish
        usual = farm.size / (min(farm.link, farm.origin) * farm.wire)
        self.goes_at = np.where(goes, self.chance.random(n) * usual, NEVER)
        self.step = min(farm.piece / (farm.link * farm.wire), usual / 100)

    def _links(self) -> None:
        farm, n = self.farm, self.n
        rack = np.arange(n + 1, dtype=np.int32) // (farm.racks.hosts or n + 1)
        rack[n] = rack[n - 1] + 1
        speed = np.full(n + 1, farm.link * farm.wire)
        self.slow = self.chance.random(n + 1) < farm.trouble.slow
        speed[self.slow] *= farm.trouble.slow_share
        up = speed.copy()
        up[n] = farm.origin * farm.wire
        self.links = Links(up, speed, rack, farm.racks.uplink * farm.wire if farm.racks.hosts else 0.0)

    def run(self) -> Result:
        """All of it."""
        began = time.monotonic()
        farm = self.farm
        limit = LONGEST * farm.size / min(farm.link, farm.origin) + 60
        while self.now < limit and not self._ended():
            self._one_step()
        gone = ~self.alive
        finished = np.isfinite(self.done) & self.alive
        return Result(
            way="swarm",
            hosts=self.n,
            done=sorted(float(t) for t in self.done[finished & ~self.slow[:-1]]),
            slow=sorted(float(t) for t in self.done[finished & self.slow[:-1]]),
            origin_bytes=self.origin_bytes / farm.wire,
            unfinished=int((~finished & ~gone).sum()),
            lost=int(gone.sum()),
            seconds=time.monotonic() - began,
        )

    def _ended(self) -> bool:
        return bool((np.isfinite(self.done) | ~self.alive).all())

    # -- a step ---------------------------------------------------------------------------------------

    def _one_step(self) -> None:
        self._vanish()
        self._take_leases()
        self._move()
        self._announce()
        self._choose()
        self._ask()
        self.now += self.step

    def _vanish(self) -> None:
        for host in np.flatnonzero((self.goes_at <= self.now) & self.alive):
            self.alive[host] = False
            self.graph.leave(int(host))
            self.holders.pop(int(host), None)
            self.reading.pop(int(host), None)
            self.in_swarm[host] = False
            gone = (self.moving.source == host) | (self.moving.target == host)
            self._let_go(gone)

    def _move(self) -> None:
        """Moves bytes, completes pieces, verifies and assembles."""
        moving = self.moving
        reading = np.flatnonzero((self.begin <= self.now) & (self.papers > 0) & self.alive)
        source = np.concatenate((moving.source, np.full(len(reading), self.n, np.int32)))
        target = np.concatenate((moving.target, reading.astype(np.int32)))
        if len(source):
            moved = self.links.rates(source, target) * self.step
            self.origin_bytes += float(moved[source == self.n].sum())
            moving.left -= moved[: len(moving.left)]
            swarmed = moving.source < self.n
            np.add.at(
                self.given,
                (moving.target[swarmed], moving.source[swarmed]),
                moved[: len(moving.left)][swarmed],
            )
            self.papers[reading] -= moved[len(moving.left) :]
            ready = reading[self.papers[reading] <= 0]
            self.joined[ready] = self.now + self.step + self.farm.connect
            self._complete()
        farm = self.farm
        there = self.got * farm.piece
        self.assembled = np.minimum(there, self.assembled + farm.assembly * self.step)
        ends = (self.assembled >= farm.size * (1 - 1e-9)) & ~np.isfinite(self.done)
        self.done[ends] = self.now + self.step + farm.end

    def _complete(self) -> None:
        moving = self.moving
        ended = moving.left <= 0
        if not ended.any():
            return
        source, target, piece = moving.source[ended], moving.target[ended], moving.piece[ended]
        spare = -moving.left[ended]
        moving.keep(~ended)
        direct = source == self.n
        for host, first, left in zip(target[direct], piece[direct], spare[direct], strict=True):
            self._read_one(int(host), int(first), float(left))
        swarmed = ~direct
        new = swarmed & (self.has[target, piece] == 0)  # the kiosk may have been faster
        self._have(target[new], piece[new])
        self._again(source[swarmed], target[swarmed], spare[swarmed])

    def _read_one(self, host: int, first: int, spare: float) -> None:
        """A holder has read an object; what was on its way to it from others is not asked for any more."""
        self.reading[host].discard(first // self.farm.pieces)
        self.spare[host] = self.spare.get(host, 0.0) + spare
        pieces = np.arange(first, first + self.farm.pieces, dtype=np.int32)
        new = pieces[self.has[host, pieces] == 0]
        self.busy[host, new] = 1
        moving = self.moving
        moving.keep(~((moving.target == host) & (moving.source != self.n) & np.isin(moving.piece, new)))
        self._have(np.full(len(new), host), new)

    def _have(self, host: NDArray[np.integer], piece: Ints) -> None:
        self.has[host, piece] = 1
        np.add.at(self.got, host, 1)
        self.graph.tell(host, piece)

    def _let_go(self, which: NDArray[np.bool_]) -> None:
        """Transfers that end before they are done: their pieces may be asked for again."""
        which &= self.moving.target < self.n
        target, piece = self.moving.target[which], self.moving.piece[which]
        self.busy[target, piece] = self.has[target, piece]
        self.moving.keep(~which)

    def _again(self, source: Ints, target: Ints, spare: Floats) -> None:
        """The same source gives the next piece at once."""
        turn = _occurrence(target)
        for n in range(int(turn.max()) + 1 if len(turn) else 0):
            these = turn == n
            self._request(source[these], target[these], spare[these])

    # -- who asks whom --------------------------------------------------------------------------------

    def _choose(self) -> None:
        """From time to time a host chooses anew whom it serves: those that gave it most, and one at random; with
        all pieces, anybody."""
        due = np.flatnonzero((self.choke_at <= self.now) & self.in_swarm)
        if not len(due):
            return
        drop = np.zeros(len(self.moving.left), bool)
        serves: dict[int, list[int]] = {}
        for row in np.flatnonzero(np.isin(self.moving.source, due)):
            serves.setdefault(int(self.moving.source[row]), []).append(int(row))
        sources: list[int] = []
        targets: list[int] = []
        for host in due:
            self.choke_at[host] = self.now + self.farm.choke
            near = self.graph.near[host, : self.graph.degree[host]]
            near = near[self.got[near] < self.pieces]
            self.chance.shuffle(near)
            if self.got[host] < self.pieces:
                near = near[np.argsort(-self.given[host, near], kind="stable")]
            best = near[: self.farm.slots - 1]
            chosen = {int(one) for one in [*best, *self.chance.permutation(near[len(best) :])[:1]]}
            for at in serves.get(int(host), ()):
                served = int(self.moving.target[at])
                drop[at] = served not in chosen
                chosen.discard(served)
            sources += [int(host)] * len(chosen)
            targets += chosen
        self.given[due] = 0
        self._let_go(drop)
        source, target = np.array(sources, np.int32), np.array(targets, np.int32)
        self._again(source, target, np.zeros(len(source)))

    def _ask(self) -> None:
        """Hosts with room ask connected hosts with a free place, at random."""
        swarmed = self.moving.source < self.n
        free = self.farm.slots - np.bincount(self.moving.source[swarmed], minlength=self.n)
        room = self.farm.sources - np.bincount(self.moving.target[swarmed], minlength=self.n)
        for _ in range(TRIES):
            asks = np.flatnonzero(
                (room > 0) & self.in_swarm & (self.graph.degree > 0) & (self.got < self.pieces)
            ).astype(np.int32)
            if not len(asks):
                return
            self.chance.shuffle(asks)
            pick = (self.chance.random(len(asks)) * self.graph.degree[asks]).astype(np.int32)
            source = self.graph.near[asks, pick]
            good = (free[source] > 0) & (self.got[source] > 0)
            asks, source = asks[good], source[good]
            first = _occurrence(source) < free[source]
            asks, source = asks[first], source[first]
            sent = self._request(source, asks, np.zeros(len(asks)))
            np.subtract.at(free, source[sent], 1)
            np.subtract.at(room, asks[sent], 1)

    def _request(self, source: Ints, target: Ints, spare: Floats) -> NDArray[np.bool_]:
        """Has each target ask its source for the rarest piece that it lacks. Says which got one; no target may be
        there twice."""
        piece = np.full(len(source), -1, np.int32)
        taste = self.chance.integers(0, TASTES, len(source))
        for at in range(0, len(source), ROWS):
            rows = slice(at, at + ROWS)
            lacks = self.has[source[rows]] > self.busy[target[rows]]
            rare = (MOST - self.graph.around[target[rows]]).astype(np.uint16) * LEVEL
            score = lacks * (rare + self.tastes[taste[rows]])
            best = score.argmax(axis=1).astype(np.int32)
            piece[rows] = np.where(score[np.arange(len(best)), best] > 0, best, -1)
        sent = piece >= 0
        self.busy[target[sent], piece[sent]] = 1
        left = np.maximum(self.farm.piece - spare[sent], 0.0)
        self.moving.add(source[sent], target[sent], piece[sent], left)
        return sent

    # -- the kiosk ------------------------------------------------------------------------------------

    def _announce(self) -> None:
        """Hosts whose papers are there join; those that have been there for long ask for more hosts."""
        farm = self.farm
        joins = (self.joined <= self.now) & ~self.in_swarm & self.alive
        if farm.hosts > farm.few:
            self.in_swarm |= joins
            self.announce_at[joins] = self.now
        due = np.flatnonzero((self.announce_at <= self.now) & self.alive)
        self.chance.shuffle(due)
        for host in due:
            self.graph.announce(int(host))
            self.announce_at[host] = self.now + farm.interval

    def _take_leases(self) -> None:
        """Gives leases to as many as may have one, and lets their holders read."""
        for host in [h for h in self.holders if self.got[h] == self.pieces]:
            del self.holders[host]
            self.lease_after = self.now + self.farm.retry / 2
        waiting = np.flatnonzero((self.joined <= self.now) & self.alive & (self.got < self.pieces))
        while len(self.holders) < self.farm.leases and self.now >= self.lease_after:
            asking = [int(h) for h in waiting if int(h) not in self.holders]
            if not asking:
                break
            slot = min(set(range(self.farm.leases)) - set(self.holders.values()))
            self.holders[asking[int(self.chance.integers(len(asking)))]] = slot
        for host, slot in self.holders.items():
            self._read_ahead(host, slot)

    def _read_ahead(self, host: int, slot: int) -> None:
        farm = self.farm
        reading = self.reading.setdefault(host, set())
        room = farm.ahead - len(reading)
        if room <= 0:
            return
        there = self.has[host].reshape(farm.objects, farm.pieces).min(axis=1)
        there[list(reading)] = 1
        first = int(farm.objects * _fraction(slot))
        todo = (np.flatnonzero(np.roll(there, -first) == 0)[:room] + first) % farm.objects
        reading.update(int(one) for one in todo)
        chosen = (todo * farm.pieces).astype(np.int32)
        count = len(chosen)
        self.moving.add(
            np.full(count, self.n, np.int32),
            np.full(count, host, np.int32),
            chosen,
            np.full(count, farm.piece * farm.pieces),
        )
        if count:
            self.moving.left[-count] -= self.spare.pop(host, 0.0)


def _occurrence(of: Ints) -> Ints:
    """For each element, how many equal ones stand before it."""
    order = np.argsort(of, kind="stable")
    ordered = of[order]
    first = np.searchsorted(ordered, ordered, side="left")
    found = np.empty(len(of), np.int32)
    found[order] = np.arange(len(of)) - first
    return found


def _fraction(slot: int) -> float:
    """Where a holder begins: 0, 1/2, 1/4, 3/4 ..."""
    found, part = 0.0, 0.5
    while slot:
        found += part * (slot & 1)
        slot, part = slot >> 1, part / 2
    return found
