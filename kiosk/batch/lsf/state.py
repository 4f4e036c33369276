"""What LSF's event log adds up to: the jobs that wait and run, who closed which host, which queues are open.

The same as mbatchd does with the same log when it starts. A record of a kind that is not known changes nothing; one
that is known and can't be read is an error.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from kiosk.batch.api import Host, Queue
from kiosk.batch.ask import plain
from kiosk.batch.lsf.events import BadRecord, Fields, New, job_new
from kiosk.batch.lsf.hosts import MARK
from kiosk.batch.lsf.jobs import Raw, requirements
from kiosk.batch.tally import Tally

PEND, PSUSP, RUN, SSUSP, USUSP, EXIT, DONE, UNKNOWN = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x10000
WAITS, ENDED = PEND | PSUSP, EXIT | DONE
HAS_SLOTS = RUN | SSUSP | USUSP | UNKNOWN
OPENED, CLOSED, ACTIVE, INACTIVE = 1, 2, 3, 4
"""Operations of HOST_CTRL and QUEUE_CTRL."""
FORGET = 86400
SUB_JOB_NAME, SUB_QUEUE, SUB_HOST, SUB_RES_REQ = 0x01, 0x02, 0x04, 0x40000


@dataclass
class Live:
    """A job, or an array: what is known of it, and of each task what is not as when it was submitted."""

    new: New
    raw: Raw
    queue: str
    status: int = PEND
    tasks: dict[int, tuple[int, tuple[str, ...]]] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    ended_at: int = 0
    size: int = 1
    """How many tasks it had at first."""

    @property
    def over(self) -> bool:
        """Whether all of it has ended."""
        return len(self.ended) >= self.size


@dataclass
class State:
    """The whole: changed by `record`, read by `count`."""

    jobs: dict[int, Live] = field(default_factory=dict)
    known: set[int] = field(default_factory=set)
    closed: dict[str, tuple[str, str]] = field(default_factory=dict)
    hosts: dict[str, int] = field(default_factory=dict)
    queues: dict[str, bool] = field(default_factory=dict)
    master_since: int = 0
    master_ended: bool = False
    newest: int = 0

    def record(self, kind: str, time: int, rest: str) -> None:
        """One record. BadRecord where it can't be read."""
        change = KINDS.get(kind)
        self.newest = max(self.newest, time)
        if change is None:
            return
        try:
            change(self, Fields(rest), time)
        except BadRecord as e:
            raise BadRecord(f"{kind}: {e}") from None

    def new(self, fields: Fields, time: int) -> None:
        """JOB_NEW."""
        new = job_new(fields)
        limit = f"{new.limit / 60:.1f}" if new.limit > 0 else ""
        self.known.add(new.job)
        size = 1 if new.indices is None else len(new.indices)
        self.jobs[new.job] = Live(new, (new.text, limit, new.slots), new.queue, size=size)
        self.queues.setdefault(new.queue, True)

    def start(self, fields: Fields, time: int) -> None:
        """JOB_START."""
        job = self.jobs.get(fields.number())
        fields.skip(4)
        hosts = fields.hosts()
        for name in set(hosts):
            self.hosts[name] = max(self.hosts.get(name, 0), hosts.count(name))
        fields.strings()  # queuePreCmd, queuePostCmd
        fields.number()
        fields.strings()  # userGroup, where there is one
        index = fields.number()
        if job is not None:
            job.tasks[index] = (RUN, tuple(sorted(set(hosts))))
            job.ended.discard(index)

    def status(self, fields: Fields, time: int) -> None:
        """JOB_STATUS."""
        number, status = fields.number(), fields.number()
        fields.skip(4)
        usage = fields.number()
        fields.skip(19 if usage else 0)
        fields.number()  # exitStatus
        index = fields.number()
        job = self.jobs.get(number)
        if job is None:
            return
        if index == 0 and job.new.indices is not None:
            if status & ENDED:
                job.tasks.clear()
                job.ended, job.ended_at = set(job.new.indices), time
            elif status & WAITS:
                job.status = status
            return
        if status & ENDED:
            job.ended.add(index)
            job.ended_at = time
            job.tasks.pop(index, None)
        elif status & WAITS:
            job.ended.discard(index)
            job.tasks[index] = (status, ())
        elif status & HAS_SLOTS:
            job.tasks[index] = (status, job.tasks.get(index, (0, ()))[1])

    def switch(self, fields: Fields, time: int) -> None:
        """JOB_SWITCH."""
        fields.number()
        job, queue = self.jobs.get(fields.number()), fields.string()
        if job is not None:
            job.queue = queue
        self.queues.setdefault(queue, True)

    def requeue(self, fields: Fields, time: int) -> None:
        """JOB_REQUEUE, MIG: it waits again."""
        job, index = self.jobs.get(fields.number()), fields.number()
        if job is not None:
            job.ended.discard(index)
            job.tasks[index] = (PEND, ())

    def clean(self, fields: Fields, time: int) -> None:
        """JOB_CLEAN: mbatchd has forgotten a job that ended."""
        number, index = fields.number(), fields.number()
        job = self.jobs.get(number)
        if job is None:
            return
        if index and job.new.indices is not None:
            job.ended.add(index)
            job.tasks.pop(index, None)
        if not index or job.over:
            self.jobs.pop(number)

    def modify(self, fields: Fields, time: int) -> None:
        """JOB_MODIFY2: of what `bmod` can change, what matters here."""
        name = fields.string().split("[")[0]
        options = fields.number()
        fields.skip(3)
        fields.string()
        fields.skip(2)
        slots = fields.number()
        fields.skip(4)
        job = self.jobs.get(int(name)) if name.isdecimal() else None
        if options & SUB_JOB_NAME:
            fields.string()
        queue = fields.string() if options & SUB_QUEUE else None
        if options & SUB_HOST:
            fields.hosts()
        text = fields.string() if options & SUB_RES_REQ else None
        if job is not None:
            before, limit, cores = job.raw
            job.raw = (before if text is None else text, limit, slots if 0 < slots < 1_000_000 else cores)
            job.queue = queue or job.queue

    def host(self, fields: Fields, time: int) -> None:
        """HOST_CTRL."""
        operation, name, _, user = fields.number(), fields.string(), fields.number(), fields.string()
        said = (*fields.strings(), "")[0]
        if operation == OPENED:
            self.closed.pop(name, None)
        elif operation == CLOSED and name not in self.closed:
            self.closed[name] = (user, said)
        self.hosts.setdefault(name, 0)

    def queue(self, fields: Fields, time: int) -> None:
        """QUEUE_CTRL."""
        operation, name = fields.number(), fields.string()
        if operation in (ACTIVE, INACTIVE):
            self.queues[name] = operation == ACTIVE
        else:
            self.queues.setdefault(name, True)

    def master(self, fields: Fields, time: int) -> None:
        """MBD_START."""
        self.master_since, self.master_ended = time, False

    def end(self, fields: Fields, time: int) -> None:
        """MBD_DIE."""
        self.master_ended = True

    def count(self, tally: Tally[Raw], now: float) -> Counter[str]:
        """Counts all jobs into a tally; returns how many are on each host. Jobs that ended more than a day ago, and
        that mbatchd never said to have forgotten, are forgotten."""
        on: Counter[str] = Counter()
        living, names = self._living()
        old = []
        wait, run = tally.wait, tally.run
        for number, job in self.jobs.items():
            new, tasks = job.new, job.tasks
            untouched = job.size - len(tasks)
            if job.ended:
                untouched -= len(job.ended)
                if job.over:
                    old += [number] if job.ended_at < self.newest - FORGET else []
                    continue
            if untouched <= 0 and len(tasks) == 1 and 0 in tasks and not tasks[0][0] & WAITS:
                run(job.queue, new.user, new.group, job.raw)
                on.update(tasks[0][1])
                continue
            held = job.status & PSUSP != 0 or new.begins > now
            held = held or (new.depends != "" and _depends(new.depends, living, names))
            if new.at_once is not None and untouched > 0 and not held:
                runs = sum(not status & WAITS for status, _ in tasks.values())
                over = untouched - max(0, new.at_once - runs)
                if over > 0:  # they wait for other tasks of the array to end
                    wait(job.queue, new.user, new.group, job.raw, True, new.submitted, over)
                    untouched -= over
            if untouched > 0:
                wait(job.queue, new.user, new.group, job.raw, held, new.submitted, untouched)
            for status, hosts in tasks.values():
                if status & WAITS:
                    wait(job.queue, new.user, new.group, job.raw, held or status & PSUSP != 0, new.submitted)
                else:
                    run(job.queue, new.user, new.group, job.raw)
                    on.update(hosts)
        for number in old:
            del self.jobs[number]
        return on

    def _living(self) -> tuple[set[str], set[str]]:
        """Numbers and names of the jobs that have not ended; none where no job waits for another."""
        if not any(job.new.depends for job in self.jobs.values()):
            return set(), set()
        alive = [(str(number), job.new.name) for number, job in self.jobs.items() if not job.over]
        return {number for number, _ in alive}, {name for _, name in alive if name}

    def used(self) -> Counter[str]:
        """How many slots are busy on each host, where jobs are of one host."""
        busy: Counter[str] = Counter()
        for job in self.jobs.values():
            if not job.tasks:
                continue
            for status, hosts in job.tasks.values():
                if not status & WAITS and hosts:
                    for name in hosts:
                        busy[name] += -(-job.raw[2] // len(hosts))
        return busy

    def seats(self, on: Counter[str]) -> tuple[Host, ...]:
        """The hosts that the log has named. `slots` is the most that was seen busy at once."""
        busy = self.used()
        found = []
        for name in sorted({*self.hosts, *self.closed, *busy}):
            self.hosts[name] = most = max(self.hosts.get(name, 0), busy[name])
            user, said = self.closed.get(name, ("", ""))
            closed, mine = name in self.closed, said.startswith(MARK)
            reason = plain(said or (f"closed by {user}" if closed else ""))
            found.append(
                Host(name, "closed" if closed else "open", most, busy[name], on[name], mine=closed and mine,
                     others=closed and not mine, reason=reason)
            )  # fmt: skip
        return tuple(found)

    def of_queues(self) -> tuple[Queue, ...]:
        """The queues that the log has named; their priorities are not in it (0)."""
        return tuple(Queue(name, 0, is_open) for name, is_open in sorted(self.queues.items()))


def _depends(condition: str, living: set[str], names: set[str]) -> bool:
    """Whether a job waits for one that has not ended: by number, or by name. That a condition came true is not in the
    log; once all jobs that it names have ended, it is taken for true."""
    return bool(condition) and any(
        word in living or word in names for word in re.findall(r"[^\s()&|!,\"'<>=]+", condition)
    )


def fresh_tally() -> Tally[Raw]:
    """A tally of what a job requires as LSF writes it."""
    return Tally(requirements)


KINDS: dict[str, Callable[[State, Fields, int], None]] = {
    "JOB_NEW": State.new, "JOB_START": State.start, "JOB_STATUS": State.status, "JOB_SWITCH": State.switch,
    "JOB_REQUEUE": State.requeue, "JOB_CLEAN": State.clean, "JOB_MODIFY2": State.modify, "HOST_CTRL": State.host,
    "QUEUE_CTRL": State.queue, "MBD_START": State.master, "MBD_DIE": State.end,
}  # fmt: skip
