"""A simulated farm, driven by events: jobs arrive and end, nodes become ready, age and drain, a policy looks.

What the batch system does is simplified, the same for every policy. The queue of the highest priority goes first; in a
queue, where there are shares, whoever runs least for its shares, else who came first. The first job on several hosts
that does not fit gets a reservation by the run limits (EASY); later jobs may start where they do not delay it. A job
on several hosts stays within one type. A job's memory counts as the slots that it keeps others from. No node fails,
and each boots in the same time. A draining node ends with its last job. Nodes with jobs are never ended by a policy.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from math import ceil

from kiosk.batch.api import Pending, Requirements
from kiosk.batch.ask import plain
from kiosk.scheduler.mapping import Matcher, nodes_for
from kiosk.scheduler.model import Unserved
from kiosk.scheduler.simulate.pool import Pool, SimNode
from kiosk.scheduler.simulate.view import Key, Policy, Sample, View
from kiosk.scheduler.simulate.workload import Task, Workload

DEEPEST = 1000
"""So many kinds of waiting jobs are tried at a time."""


@dataclass(slots=True, eq=False)
class _Run:
    """A job that runs."""

    task: Task
    pool: Pool
    taken: list[tuple[SimNode, int]]
    expected: float


@dataclass(frozen=True, slots=True)
class _Reserved:
    """What the first job that does not fit was promised."""

    pool: Pool
    at: float
    extra: int


@dataclass
class Farm:
    """One run of one workload under one policy: `run` does it all; the fields are what came out. `told` is called with
    how many jobs were submitted since the last call."""

    work: Workload
    policy: Policy
    told: Callable[[int], object] | None = None
    pools: dict[str, Pool] = field(default_factory=dict)
    waiting: dict[Key, deque[Task]] = field(default_factory=dict)
    running: dict[Key, int] = field(default_factory=lambda: defaultdict(int))
    waits: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    lost: int = 0
    shared: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Slot-seconds of each share while all of them had jobs waiting."""
    now: float = 0.0

    def __post_init__(self) -> None:
        self.pools = {name: Pool(type) for name, type in self.work.types.items()}
        self._matcher = Matcher(self.work.types, self.work.rules)
        self._fits: dict[Key, list[tuple[Pool, int]]] = {}
        self._kinds: dict[Key, int] = {}
        self._lost: dict[Key, int] = defaultdict(int)
        self._why: dict[Key, str] = {}
        self._priority = {q.name: q.priority for q in self.work.queues}
        self._weight = {s.name: s.shares for s in self.work.shares}
        self._has: dict[str, int] = defaultdict(int)
        self._queued: dict[str, int] = defaultdict(int)
        self._events: list[tuple[float, int, str, object]] = []
        self._runs: dict[int, _Run] = {}
        self._number = 0
        self._used = 0.0
        self._before = 0.0

    def run(self) -> Farm:
        """Runs until the last job has ended."""
        tasks, at, look, calm = self.work.tasks, 0, 0.0, False
        every = self.policy.look or self.work.look
        while at < len(tasks) or self._runs or self.waiting:
            arrival = tasks[at].submitted if at < len(tasks) else float("inf")
            event = self._events[0][0] if self._events else float("inf")
            if calm and self.policy.look is not None and look < min(arrival, event):
                look += ceil((min(arrival, event) - look) / every) * every  # nothing new to see before
            self.now = min(arrival, event, look)
            self._account()
            changed, before, first = False, self._number, at
            while at < len(tasks) and tasks[at].submitted <= self.now:
                changed |= self._arrive(tasks[at])
                at += 1
            if at > first and self.told is not None:
                self.told(at - first)
            while self._events and self._events[0][0] <= self.now:
                changed |= self._happen(*heappop(self._events)[2:])
            if changed:
                self._start()
            calm = calm and not changed
            if look <= self.now:
                if self._look():
                    self._start()
                look += every
                calm = self._number == before and not changed
        for pool in self.pools.values():
            pool.end(self.now)
        return self

    def unserved(self) -> list[Unserved]:
        """The jobs that no type serves, the most first."""
        found: dict[tuple[str, str, str, str], int] = defaultdict(int)
        for key, jobs in self._lost.items():
            found[(plain(key[0]), plain(key[1]), plain(key[3].text), self._why[key])] += jobs
        return [
            Unserved(jobs, *key) for key, jobs in sorted(found.items(), key=lambda item: (-item[1], item[0]))
        ]

    def _account(self) -> None:
        if self._weight and len(self._queued) and all(self._queued.get(s, 0) for s in self._weight):
            for name in self._weight:
                self.shared[name] += self._has[name] * (self.now - self._before)
        self._before = self.now

    def _arrive(self, task: Task) -> bool:
        key = (task.queue, task.user, task.group, task.requirements)
        if not self.fit(key):
            self.lost += 1
            self._lost[key] += 1
            return False
        self.waiting.setdefault(key, deque()).append(task)
        self._queued[self._share(key)] += 1
        return True

    def fit(self, key: Key) -> list[tuple[Pool, int]]:
        """The types that serve such jobs, in the order of preference, with the slots that one takes."""
        if key not in self._fits:
            fit = self._matcher.fit(Pending(*key, jobs=1, oldest=self.work.begin))
            self._fits[key] = [] if isinstance(fit, str) else [self._width(name, key[3]) for name, _ in fit]
            if isinstance(fit, str):
                self._why[key] = fit
            self._kinds[key] = len(self._kinds)
        return self._fits[key]

    def _width(self, name: str, r: Requirements) -> tuple[Pool, int]:
        pool = self.pools[name]
        return pool, max(1, ceil(nodes_for(pool.type, r) * pool.type.slots - 1e-9))

    def _share(self, key: Key) -> str:
        return key[1] if key[1] in self._weight else key[2] or ""

    def _happen(self, what: str, of: object) -> bool:
        if isinstance(of, _Run):
            return self._end(of)
        assert isinstance(of, tuple)
        pool, node = of
        if node.gone:
            return False
        if what == "ready":
            pool.join(node, self.now)
            return True
        if node.open and node.ready:
            pool.drain(node, self.now)
        return False

    def _end(self, run: _Run) -> bool:
        for node, slots in run.taken:
            run.pool.give(node, slots, self.now)
        task = run.task
        key = (task.queue, task.user, task.group, task.requirements)
        self.running[key] -= 1
        if not self.running[key]:
            del self.running[key]
        self._has[self._share(key)] -= sum(slots for _, slots in run.taken)
        del self._runs[id(run)]
        return True

    def _later(self, at: float, what: str, of: object) -> None:
        self._number += 1
        heappush(self._events, (at, self._number, what, of))

    def _look(self) -> bool:
        view = View(self, self.now)
        stopped = False
        wanted = self.policy.decide(view)
        for name, nodes in wanted.items():
            pool = self.pools[name]
            have = len(pool.nodes) - pool.draining
            # nodes that drain hold their place: the maximum is of VMs
            nodes = max(0, min(nodes, pool.type.maximum - pool.draining))
            for _ in range(min(nodes - have, self._room(pool))):
                self._launch(pool)
                stopped |= not self.policy.boots
            for node in pool.surplus(have - nodes) if have > nodes else ():
                pool.stop(node, self.now)
        busy = sum(p.used / p.type.slots for p in self.pools.values())
        nodes_now = {name: len(pool.nodes) for name, pool in self.pools.items()}
        pending = sum(map(len, self.waiting.values()))
        self.samples.append(Sample(self.now, pending, nodes_now, busy, dict(self._has), wanted))
        return stopped

    def _room(self, pool: Pool) -> int:
        """How many nodes of a type the capacity of the whole farm still holds."""
        limit, cores = self.work.capacity, pool.type.flavour.cores
        room = pool.type.maximum
        if limit.nodes is not None:
            room = min(room, limit.nodes - sum(len(p.nodes) for p in self.pools.values()))
        if limit.cores is not None:
            taken = sum(len(p.nodes) * p.type.flavour.cores for p in self.pools.values())
            room = min(room, (limit.cores - taken) // cores)
        return room

    def _launch(self, pool: Pool) -> None:
        self._number += 1
        until = self.now + self.policy.lifetime(pool.type, pool.launches)
        node = pool.launch(self.now, until, self._number)
        if self.policy.boots:
            self._later(self.now + self.work.boot, "ready", (pool, node))
        else:
            pool.join(node, self.now)
        if until < float("inf"):
            self._later(until, "old", (pool, node))

    def _start(self) -> None:
        """Starts what can be started now."""
        if not any(pool.free for pool in self.pools.values()):
            return
        order = [(*self._rank(key), key) for key in self.waiting]
        heapify(order)
        reserved: _Reserved | None = None
        tried = 0
        while order and tried < DEEPEST:
            rank, key = order[0][:4], order[0][4]
            if (now := self._rank(key)) != rank:
                heapreplace(order, (*now, key))
                continue
            run = self._try(key, reserved)
            if run is None:
                tried += 1
                if reserved is None and not key[3].one_host:
                    reserved = self._reserve(key)
                heappop(order)
                continue
            if reserved is not None and run.pool is reserved.pool and run.expected > reserved.at:
                slots = sum(n for _, n in run.taken)
                reserved = _Reserved(reserved.pool, reserved.at, reserved.extra - slots)
            if not any(pool.free for pool in self.pools.values()):
                return
            if key in self.waiting:
                heapreplace(order, (*self._rank(key), key))
            else:
                heappop(order)

    def _rank(self, key: Key) -> tuple[int, float, float, int]:
        share = self._share(key)
        weight = self._weight.get(share)
        has = self._has[share] / weight if weight else 0.0
        return -self._priority.get(key[0], 0), has, self.waiting[key][0].submitted, self._kinds[key]

    def _try(self, key: Key, reserved: _Reserved | None) -> _Run | None:
        jobs = self.waiting[key]
        task = jobs[0]
        expected = self.now + max(task.limit, 1.0)
        for pool, slots in self._fits[key]:
            if (
                reserved is not None
                and pool is reserved.pool
                and expected > reserved.at
                and slots > reserved.extra
            ):
                continue
            taken = pool.take(slots, key[3].one_host, self.now)
            if taken is None:
                continue
            jobs.popleft()
            if not jobs:
                del self.waiting[key]
            share = self._share(key)
            self._queued[share] -= 1
            self._has[share] += slots
            self.running[key] += 1
            pool.hours.used += slots * task.seconds
            self.waits.append(self.now - task.submitted)
            run = _Run(task, pool, taken, expected)
            self._runs[id(run)] = run
            self._later(self.now + task.seconds, "end", run)
            return run
        return None

    def _reserve(self, key: Key) -> _Reserved:
        """When the job would start if every job ran to its limit; where nodes are still to be launched for it, when
        they could be ready."""
        pool, slots = self._fits[key][0]
        free = pool.free
        later = [(run.expected, sum(n for node, n in run.taken if node.open)) for run in self._runs.values()
                 if run.pool is pool]  # fmt: skip
        later += [(node.launched + self.work.boot, node.free) for node in pool.coming.values()]
        later.sort()
        for at, more in later:
            free += more
            if free >= slots:
                return _Reserved(pool, max(at, self.now), free - slots)
        return _Reserved(pool, self.now + self.work.boot + self.work.look, 0)
