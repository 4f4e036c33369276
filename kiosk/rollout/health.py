"""Whether the hosts that have a version are well, from what they report. Pure.

What is not known never counts as well: hosts that say nothing, hosts that once took part and are not heard of any
more, reports dated in the future. A host's report speaks for that host alone, and one host alone never decides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

from kiosk.model.report import Report
from kiosk.model.rollout import WHOLE, Rollout
from kiosk.rollout.plan import Plan, percent

Answer = Literal["good", "bad", "unknown"]
MOST_HOSTS = 20_000


@dataclass(frozen=True)
class Heard:
    """A host's last report, and when it came, by the clock of the kiosk."""

    report: Report
    received: datetime


class Reports(Protocol):
    """Where the reports of the fleet are."""

    def latest(self) -> Sequence[Heard]:
        """The last report of every host. KioskError when they can't be had."""
        ...


@dataclass(frozen=True)
class Health:
    """Of the hosts that are offered a version: how many hold it as current, have failed it, are on the way, or are
    silent. `hosts` are their names."""

    done: int = 0
    failed: int = 0
    working: int = 0
    silent: int = 0
    hosts: tuple[str, ...] = ()

    @property
    def offered(self) -> int:
        """All of them."""
        return self.done + self.failed + self.working + self.silent


@dataclass(frozen=True)
class Verdict:
    """What follows, and why."""

    answer: Answer
    why: str


def health(
    rollout: Rollout, heard: Iterable[Heard], known: Collection[str], now: datetime, fresh: float
) -> Health:
    """The health of the hosts that a roll-out offers its version. `known` are hosts that took part before; they
    count as silent when nothing is heard of them. Hosts that have nothing to do with the name are left out."""
    last = {h.report.host: h for h in heard}
    hosts = {host for host, h in last.items() if _concerns(h.report, rollout.name)} | set(known)
    part = sorted(host for host in hosts if rollout.offers(host) == rollout.version)[:MOST_HOSTS]
    counts = {"done": 0, "failed": 0, "working": 0, "silent": 0}
    for host in part:
        counts[_state(last.get(host), rollout, now, timedelta(seconds=fresh))] += 1
    return Health(hosts=tuple(part), **counts)


def _concerns(report: Report, name: str) -> bool:
    held = any(h.name == name for h in report.held)
    fetching = report.fetching is not None and report.fetching.name == name
    return held or fetching or any(f.startswith(f"{name}@") for f in report.failed)


def _state(heard: Heard | None, rollout: Rollout, now: datetime, fresh: timedelta) -> str:
    if heard is None:
        return "silent"
    if f"{rollout.name}@{rollout.version}" in heard.report.failed:
        return "failed"  # also when the host has fallen silent since
    if not -fresh <= now - heard.received <= fresh:
        return "silent"
    has = any(
        h.name == rollout.name and h.version == rollout.version and h.current for h in heard.report.held
    )
    return "done" if has else "working"


def judge(found: Health, asked: Answer, plan: Plan) -> Verdict:
    """What the counts and the answer of the command (`good` where none is asked) come to."""
    n = found.offered
    if found.failed >= plan.least_failed and found.failed * WHOLE > plan.max_failed * n:
        return Verdict("bad", f"{found.failed} of {n} hosts failed, more than {percent(plan.max_failed)}")
    if asked == "bad":
        return Verdict("bad", "the command that was asked says that it is not well")
    if n == 0:
        return Verdict("unknown", "no host of this share has reported")
    if found.done * WHOLE < plan.min_done * n:
        rest = [f"{c} {w}" for w, c in (("failed", found.failed), ("silent", found.silent)) if c]
        said = f" ({', '.join(rest)})" if rest else ""
        return Verdict("unknown", f"{found.done} of {n} hosts have it{said}; {percent(plan.min_done)} must")
    if asked == "unknown":
        return Verdict("unknown", "the command that was asked gives no answer")
    return Verdict("good", f"{found.done} of {n} hosts have it and are well")
