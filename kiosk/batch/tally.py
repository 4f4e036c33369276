"""Jobs that are alike, counted: from one call for each job to the groups of a Look.

What a job requires is understood once for each group and not once for each job: jobs are told apart by what the batch
system printed of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from typing import Generic, TypeVar

from kiosk.batch.api import Pending, Requirements, Running

Raw = TypeVar("Raw", bound=Hashable)


class Tally(Generic[Raw]):
    """Counts jobs. `understand` makes a job's requirements of what was printed of them."""

    def __init__(self, understand: Callable[[Raw], Requirements]) -> None:
        self._understand = understand
        self._waits: dict[tuple[str, str, str | None, Raw, bool], list[float]] = {}
        self._runs: dict[tuple[str, str, str | None, Raw], int] = {}

    def wait(
        self, queue: str, user: str, group: str | None, raw: Raw, held: bool, submitted: float, jobs: int = 1
    ) -> None:
        """Jobs wait since `submitted`, seconds since the epoch."""
        found = self._waits.get((queue, user, group, raw, held))
        if found is None:
            self._waits[queue, user, group, raw, held] = [jobs, submitted]
            return
        found[0] += jobs
        if submitted < found[1]:
            found[1] = submitted

    def run(self, queue: str, user: str, group: str | None, raw: Raw, jobs: int = 1) -> None:
        """Jobs run."""
        key = (queue, user, group, raw)
        self._runs[key] = self._runs.get(key, 0) + jobs

    def pending(self) -> tuple[Pending, ...]:
        """The groups that wait."""
        return tuple(
            Pending(queue, user, group, self._understand(raw), int(jobs), moment(oldest), held)
            for (queue, user, group, raw, held), (jobs, oldest) in self._waits.items()
        )

    def running(self) -> tuple[Running, ...]:
        """The groups that run."""
        return tuple(
            Running(queue, user, group, self._understand(raw), jobs)
            for (queue, user, group, raw), jobs in self._runs.items()
        )


def moment(seconds: float) -> datetime:
    """A time of seconds since the epoch; what lies beyond the calendar is its end."""
    return datetime.fromtimestamp(min(max(seconds, 0.0), 253402300799.0), UTC)
