"""A push: hosts are asked to fetch images now. In waves, a growing share of them is asked. Pure.

A host's place in a push follows from its name, so a wave only ever adds hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from kiosk.model.report import LATE, REPORT_SECONDS, Report
from kiosk.model.rollout import WHOLE, place

State = Literal["later", "asked", "fetching", "silent", "done", "failed"]
GRACE = 60.0
"""A host that is late has this many seconds to answer before it is silent."""
LONGEST = 1000
"""The most hosts' patterns or images of a push."""


@dataclass(frozen=True)
class Push:
    """A push of `images` (names without versions) to the hosts that match one of `hosts` (fnmatch patterns; none:
    all). `waves` are shares in percent, each `every` seconds after the one before; times in seconds of the epoch.
    After `expires` it has ended, whoever began it."""

    id: int
    images: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    waves: tuple[int, ...] = (100,)
    every: float = 0
    created: float = 0
    expires: float = 0
    ended: float | None = None

    def over(self, now: float) -> bool:
        """Whether nobody is asked any more."""
        return self.ended is not None or now >= self.expires

    def share(self, now: float) -> int:
        """The percentage of the hosts that is asked by now."""
        passed = len(self.waves) - 1 if self.every <= 0 else int(max(0, now - self.created) / self.every)
        return self.waves[min(passed, len(self.waves) - 1)]

    def matches(self, host: str) -> bool:
        """Whether it is for a host, now or later."""
        return not self.hosts or any(fnmatchcase(host, pattern) for pattern in self.hosts)

    def asks(self, host: str, now: float) -> bool:
        """Whether a host is asked now."""
        return not self.over(now) and self.matches(host) and self._covers(self.share(now), host)

    def asked_at(self, host: str) -> float:
        """When the wave begins that has a host in it."""
        wave = next(n for n, share in enumerate(self.waves) if self._covers(share, host))
        return self.created + wave * self.every

    def _covers(self, share: int, host: str) -> bool:
        return place(f"push {self.id}", "", host) * 100 < share * WHOLE


def progress(
    push: Push,
    host: str,
    report: Report | None,
    reported: float | None,
    wanted: Sequence[tuple[str, str]],
    now: float,
) -> State:
    """How far a host is with the versions (name, version) that it is to hold, by what it reported last. One that
    was asked and does not report as often as agents do is `silent`, until it does again."""
    held = {(h.name, h.version) for h in report.held} if report else set()
    if all(one in held for one in wanted):
        return "done"
    if not push.asks(host, now) and not push.over(now):
        return "later"
    if now - (reported or 0) > LATE * REPORT_SECONDS and now - push.asked_at(host) > GRACE:
        return "silent"
    if report is None or reported is None or reported < push.created:
        return "asked"
    missing = [one for one in wanted if one not in held]
    if any(f"{name}@{version}" in report.failed for name, version in missing):
        return "failed"
    now_fetched = report.fetching and (report.fetching.name, report.fetching.version)
    return "fetching" if now_fetched in missing else "asked"
