"""A push: hosts are asked to fetch images now. In waves, a growing share of them is asked. Pure.

A host's place in a push follows from its name, so a wave only ever adds hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from kiosk.model.report import Report
from kiosk.model.rollout import WHOLE, place

State = Literal["later", "asked", "fetching", "done", "failed"]
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
        return (
            not self.over(now)
            and self.matches(host)
            and place(f"push {self.id}", "", host) * 100 < self.share(now) * WHOLE
        )


def progress(
    push: Push,
    host: str,
    report: Report | None,
    reported: float | None,
    wanted: Sequence[tuple[str, str]],
    now: float,
) -> State:
    """How far a host is with the versions (name, version) that it is to hold, by what it reported last."""
    held = {(h.name, h.version) for h in report.held} if report else set()
    if all(one in held for one in wanted):
        return "done"
    if not push.asks(host, now) and not push.over(now):
        return "later"
    if report is None or reported is None or reported < push.created:
        return "asked"
    missing = [one for one in wanted if one not in held]
    if any(f"{name}@{version}" in report.failed for name, version in missing):
        return "failed"
    now_fetched = report.fetching and (report.fetching.name, report.fetching.version)
    return "fetching" if now_fetched in missing else "asked"
