"""Draining: no new jobs, wait for those that run, leave the farm, power off. No job is lost before the limit.

Goes on where it was when it is interrupted, by whatever signal. The first reason stands and is reported; those of
later requests are remembered. What can't be told is never taken for "no jobs": a farm that does not answer, or that
has not confirmed that it sends no more, is waited for until the limit. Jobs that run at the limit are reported, and
end with the machine.
"""

from __future__ import annotations

import contextlib
import fcntl
from typing import Callable, Iterator, Optional, Protocol, Tuple

from contextualize.errors import Refused
from contextualize.life import plan as plans
from contextualize.life import requests, state
from contextualize.life.plan import Plan
from contextualize.life.state import State
from contextualize.machine import PRIVATE, Machine
from contextualize.stages.report import Reporter

LOCK = f"{PRIVATE}/drain.lock"
FIRST, LONGEST = 2.0, 60.0
"""Seconds between two looks at the jobs: short at first, as most drains find few of them."""
LEAVE_TRIES = 3
MOST_REPORTS = 500
END, AFTER = "kiosk-drain-end", 300
"""The timer of an early drain, and how many seconds after the drain's last moment it ends the machine."""
SLACK = 5
"""A timer may fire so many seconds early by this program's reckoning."""


class Member(Protocol):
    """This machine's place in its farm."""

    def close(self, reason: str) -> None:
        """Has the farm send no more jobs; Refused unless it confirmed that."""

    def busy(self) -> int:
        """The jobs that are here; Refused when that can't be told."""

    def leave(self, reason: str, *, last: bool = True) -> None:
        """Takes the machine off the farm; at the last try nothing of it is left here, whatever it says."""


Load = Callable[[Machine], Optional[Member]]


class Drain:
    """One drain, from wherever it stands."""

    def __init__(self, machine: Machine, reporter: Reporter, load: Load) -> None:
        self._machine = machine
        self._reporter = reporter
        self._load = load
        self._reported = 0
        self._jobs: Optional[int] = None

    def run(self, reason: Optional[str] = None) -> int:
        """Drains for a reason, or for that of the first request; 0 when the machine powers off, or when another
        process is at it already and has been told of the reason."""
        machine = self._machine
        if reason is not None:
            requests.record(machine, reason)
        with self._alone() as alone:
            if not alone:
                print("another process drains already; the reason is remembered", flush=True)
                return 0
            plan = plans.load(machine)
            now = self._begin(plan)
            self._keep(plan, now)
            if now.step in ("close", "wait"):
                now = self._wait(plan, now)
            if now.step == "leave":
                now = self._leave(plan, now)
            self._stop(now)
        return 0

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        self._machine.folder(PRIVATE, 0o700)
        with self._machine.path(LOCK).open("wb") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def _begin(self, plan: Plan) -> State:
        """The drain that is under way, or a new one."""
        found = state.load(self._machine)
        if found is not None:
            print(f"goes on to drain ({found.step}): {found.reason}", flush=True)
            return found
        uptime = self._machine.uptime()
        asked = requests.reasons(self._machine)
        if uptime >= plan.drains - SLACK:
            asked.append(f"its age: {plan.drains} s after its start it is to drain")
        reason = asked[0] if asked else "asked for on the machine (systemctl start kiosk-drain)"
        until = min(int(uptime) + plan.patience, max(plan.stops, int(uptime)))
        print(f"drains, until {until - int(uptime)} s from now at the latest: {reason}", flush=True)
        if until < plan.stops:
            self._end_at(until + AFTER)
        return State(reason, int(uptime), until)

    def _end_at(self, uptime: int) -> None:
        """An early drain has an end of its own: the timer that the boot has set comes much later, and still comes."""
        seconds = max(1, round(uptime - self._machine.uptime()))
        words = ["systemd-run", f"--unit={END}", f"--on-active={seconds}", "--timer-property=AccuracySec=1s"]
        try:
            self._machine.run([*words, "systemctl", "start", "--no-block", "kiosk-stop.service"])
        except Refused as e:  # it is there already where a drain was killed before it had kept anything
            print(f"{END}.timer was not set: {e.reason}", flush=True)

    def _keep(self, plan: Plan, now: State) -> State:
        """Keeps the state with all that was asked meanwhile, tells everybody, and returns it."""
        now = now.with_asked(tuple(requests.reasons(self._machine)))
        state.save(self._machine, now)
        state.publish(self._machine, plan, now, self._jobs)
        if now.step != "stop" and self._reported < MOST_REPORTS:
            self._reported += 1
            self._reporter.draining(now.reason, self._jobs)
        return now

    def _wait(self, plan: Plan, now: State) -> State:
        """Closes the host, and returns once no job is here or the limit has come."""
        pause = FIRST
        while True:
            member, told = self._member()
            if member is None and told:
                self._jobs = 0
                return self._keep(plan, now._replace(step="leave"))
            if member is not None and now.step == "close" and self._close(member, now.reason):
                now = self._keep(plan, now._replace(step="wait"))
            jobs = None if member is None else self._busy(member)
            if jobs == 0 and now.step == "wait":
                self._jobs = 0
                return self._keep(plan, now._replace(step="leave"))
            left = now.until - self._machine.uptime()
            if left <= 0:
                self._jobs = jobs
                print(f"the limit has come: {_lost(jobs)}", flush=True)
                return self._keep(plan, now._replace(step="leave", note=_lost(jobs)))
            if jobs != self._jobs or now != now.with_asked(tuple(requests.reasons(self._machine))):
                self._jobs = jobs
                now = self._keep(plan, now)
            self._machine.sleep(min(pause, left))
            pause = min(pause * 1.5, LONGEST)

    def _member(self) -> Tuple[Optional[Member], bool]:
        """The machine's place in its farm, and whether that could be told."""
        try:
            return self._load(self._machine), True
        except Refused as e:
            print(f"can't tell which farm this machine is in: {e.reason}", flush=True)
            return None, False

    def _close(self, member: Member, reason: str) -> bool:
        try:
            member.close(reason)
        except Refused as e:
            print(f"the farm has not confirmed that it sends no more jobs: {e.reason}", flush=True)
            return False
        print("the farm sends no more jobs", flush=True)
        return True

    def _busy(self, member: Member) -> Optional[int]:
        """How many jobs are here; None when that can't be told."""
        try:
            found = member.busy()
        except Refused as e:
            print(f"can't tell how many jobs run here: {e.reason}", flush=True)
            return None
        if found != self._jobs:
            print(f"{found} jobs run here", flush=True)
        return found

    def _leave(self, plan: Plan, now: State) -> State:
        """Leaves the farm. A farm that can't be told learns it from our silence."""
        for left in reversed(range(LEAVE_TRIES)):
            member, told = self._member()
            if member is None and told:
                break
            try:
                if member is not None:
                    member.leave(now.reason, last=not left)
                    print("has left the farm", flush=True)
                    break
            except Refused as e:
                print(f"could not leave the farm: {e.reason}", flush=True)
            if left:
                self._machine.sleep(FIRST)
        self._reporter.stopping("; ".join(x for x in (now.reason, now.note) if x))
        return self._keep(plan, now._replace(step="stop"))

    def _stop(self, now: State) -> None:
        print(f"powers off: {now.reason}", flush=True)
        self._machine.systemctl("poweroff", "--no-block")


def _lost(jobs: Optional[int]) -> str:
    """What is said of the jobs that are here at the limit."""
    return "nobody could tell whether jobs still ran" if jobs is None else f"{jobs} jobs still ran"


def leave(machine: Machine, reporter: Reporter, load: Load) -> int:
    """The machine is shut down by somebody else than the drain: says so, and takes it off its farm. Jobs end with
    it. Nothing happens after a drain, which did all that."""
    found = state.load(machine)
    if found is not None and found.step == "stop":
        return 0
    reason = (
        "it was told to shut down" if found is None else f"it was told to shut down, draining: {found.reason}"
    )
    reporter.stopping(reason)
    try:
        member = load(machine)
        if member is not None:
            member.leave(reason)
    except Refused as e:
        print(f"could not leave the farm: {e.reason}", flush=True)
    return 0
