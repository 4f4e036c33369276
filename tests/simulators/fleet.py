"""A fleet of hosts that do what a signed roll-out offers them, as far as their reports show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from kiosk import clock
from kiosk.model.report import HeldVersion, Report
from kiosk.model.rollout import Rollout
from kiosk.rollout.health import Heard
from kiosk.rollout.step import Moment

BEGIN = clock.now()  # readers check the dates of what is signed by the real clock


@dataclass
class Time:
    """The wall clock, which may be set, and the machine's own, which only goes on."""

    wall: datetime = BEGIN
    since_boot: float = 100.0
    boot: str = "first"

    def now(self) -> datetime:
        """The wall clock."""
        return self.wall

    def moment(self) -> Moment:
        """The machine's own."""
        return Moment(boot=self.boot, seconds=self.since_boot)

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.wall += timedelta(seconds=seconds)
        self.since_boot += seconds

    def reboot(self) -> None:
        """The machine starts anew."""
        self.boot, self.since_boot = self.boot + "+", 1.0


def report(
    host: str, name: str, version: str | None, failed: Sequence[str] = (), sequence: int = 0
) -> Report:
    """What a host says that has `version` as current."""
    held = (HeldVersion(name=name, version=version, current=True),) if version else ()
    return Report(
        host=host,
        sequence=sequence,
        agent="1",
        since=0,
        state="failed" if failed else "idle",
        held=held,
        failed=tuple(failed),
    )


@dataclass
class Fleet:
    """Hosts by name with the version that they have. `broken` versions fail everywhere; `silent` hosts say nothing.
    Its reports are a `kiosk.rollout.health.Reports`."""

    time: Time
    name: str = "worker"
    has: dict[str, str | None] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    heard: dict[str, Heard] = field(default_factory=dict)

    @classmethod
    def of(cls, time: Time, hosts: int, version: str = "1") -> Fleet:
        """So many hosts that have this version."""
        fleet = cls(time, has={f"hv{i:03}.example.org": version for i in range(hosts)})
        fleet.follow(None)
        return fleet

    def follow(self, rollout: Rollout | None) -> None:
        """Every host that is not silent does what it is offered, and reports."""
        for host in self.has.keys() - self.silent:
            wanted = rollout.offers(host) if rollout is not None else self.has[host]
            failed = []
            if wanted is not None and wanted in self.broken:
                failed = [f"{self.name}@{wanted}"]
            elif wanted is not None:
                self.has[host] = wanted
            self.heard[host] = Heard(report(host, self.name, self.has[host], failed), self.time.wall)

    def latest(self) -> Sequence[Heard]:
        """The last report of every host."""
        return list(self.heard.values())

    def with_version(self, version: str) -> int:
        """How many hosts have it."""
        return sum(v == version for v in self.has.values())
