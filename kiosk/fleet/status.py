"""The fleet as people see it, from the hosts' rows. Pure: the same rows and the same clock, the same answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kiosk.fleet.catalogue import Catalogue
from kiosk.fleet.database import Host
from kiosk.model.names import Version
from kiosk.model.report import LATE, LOST, REPORT_SECONDS

State = Literal["online", "late", "lost", "silent"]


@dataclass(frozen=True)
class HostStatus:
    """One host. `age` is the seconds since its last report; `silent` hosts never sent one. `held` are NAME@VERSION,
    `behind` the names of which it does not have what it is offered."""

    host: str
    state: State
    age: float | None
    address: str
    agent: str = ""
    doing: str = ""
    held: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    fetching: str | None = None
    done: int = 0
    size: int = 0
    transport: str | None = None
    origin_bytes: int = 0
    swarm_bytes: int = 0
    uploaded_bytes: int = 0
    free_bytes: int = 0
    error: str | None = None
    failed: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether it is here, up to date, and complains of nothing."""
        return self.state == "online" and not self.behind and self.error is None and not self.failed


@dataclass(frozen=True)
class Summary:
    """Counts over hosts: by state, `behind` of those that are online, `failing` with an error, `holding` by
    NAME@VERSION, and sums of their byte counters."""

    hosts: int
    states: dict[str, int]
    behind: int
    failing: int
    fetching: int
    holding: dict[str, int]
    origin_bytes: int
    swarm_bytes: int
    uploaded_bytes: int


def status(row: Host, catalogue: Catalogue, now: float) -> HostStatus:
    """What is to be said of one host."""
    report = row.report
    if report is None or row.reported is None:
        return HostStatus(row.host, "silent", None, row.address)
    age = max(0.0, now - row.reported)
    state: State = (
        "online" if age < LATE * REPORT_SECONDS else "late" if age < LOST * REPORT_SECONDS else "lost"
    )
    busy = report.fetching
    return HostStatus(
        host=row.host,
        state=state,
        age=age,
        address=row.address,
        agent=report.agent,
        doing=report.state,
        held=tuple(f"{h.name}@{h.version}" for h in report.held),
        behind=behind(row, catalogue),
        fetching=f"{busy.name}@{busy.version}" if busy else None,
        done=busy.done if busy else 0,
        size=busy.size if busy else 0,
        transport=busy.transport if busy else None,
        origin_bytes=report.origin_bytes,
        swarm_bytes=report.swarm_bytes,
        uploaded_bytes=report.uploaded_bytes,
        free_bytes=report.free_bytes,
        error=report.error,
        failed=report.failed,
    )


def behind(row: Host, catalogue: Catalogue) -> tuple[str, ...]:
    """The names that a host holds in older versions than the one it is offered."""
    if row.report is None:
        return ()
    best: dict[str, Version] = {}
    for held in row.report.held:
        version = Version.parse(held.version)
        best[held.name] = max(version, best.get(held.name, version))
    wanted = {name: catalogue.offered(name, row.host) for name in best}
    return tuple(sorted(n for n, v in best.items() if (w := wanted[n]) and v < Version.parse(w)))


def statuses(rows: Iterable[Host], catalogue: Catalogue, now: float) -> list[HostStatus]:
    """All hosts, those that need a look first."""
    found = [status(row, catalogue, now) for row in rows]
    return sorted(found, key=lambda s: (s.good, s.host))


def summary(found: Sequence[HostStatus]) -> Summary:
    """The fleet in numbers."""
    states = Counter(s.state for s in found)
    return Summary(
        hosts=len(found),
        states={state: states.get(state, 0) for state in ("online", "late", "lost", "silent")},
        behind=sum(s.state == "online" and bool(s.behind) for s in found),
        failing=sum(s.error is not None or bool(s.failed) for s in found),
        fetching=sum(s.fetching is not None and s.state == "online" for s in found),
        holding=dict(Counter(v for s in found if s.state != "lost" for v in set(s.held)).most_common()),
        origin_bytes=sum(s.origin_bytes for s in found),
        swarm_bytes=sum(s.swarm_bytes for s in found),
        uploaded_bytes=sum(s.uploaded_bytes for s in found),
    )


def fleet(found: Sequence[HostStatus]) -> dict[str, Any]:
    """The fleet as JSON has it."""
    return {"summary": vars(summary(found)), "hosts": [vars(s) for s in found]}
