"""The Standard Workload Format: 18 numbers a line, -1 for what is not known, comments after a semicolon.

Times count from `UnixStartTime` of the header (0 where there is none). Users, groups and queues are numbers there,
named `u5`, `g2`, `q1` here. The format does not say whether a job must be on one host: it is taken to be where it needs
no more than `cores_per_host`, which whoever reads it must know.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from kiosk.batch.accounts.files import lines, shown, wrong
from kiosk.batch.api import Job, Requirements
from kiosk.batch.tally import moment

FIELDS = 18
HINT = (
    "a line of the format has 18 numbers: job, submit, wait, run, processors, ..., previous job, think time"
)


class Swf:
    """The jobs of a file; see Accounts."""

    def __init__(self, path: Path, cores_per_host: int = 1) -> None:
        self._path, self._cores = path, cores_per_host

    def jobs(self) -> Iterator[Job]:
        """See Accounts."""
        start = 0.0
        for number, line in lines(self._path):
            if line.lstrip().startswith(";"):
                found = re.match(r"\s*;\s*UnixStartTime:\s*([0-9]{1,12})", line)
                start = float(found[1]) if found else start
            elif line.strip():
                yield self._job(line, number, start)

    def _job(self, line: str, number: int, start: float) -> Job:
        try:
            row = [float(word) for word in line.split()]
        except ValueError:
            raise wrong(self._path, number, f"is not all numbers: {shown(line)}", HINT) from None
        if len(row) != FIELDS or not all(math.isfinite(value) for value in row):
            raise wrong(self._path, number, f"has {len(row)} numbers instead of {FIELDS}", HINT)
        id, submit, wait, run, used, _, _, asked, limit, memory, _, user, group, _, queue, *_ = row
        cores = int(asked if asked > 0 else max(used, 1))
        one_host = cores <= self._cores
        submitted = start + max(submit, 0.0)
        started = submitted + wait if wait >= 0 and run >= 0 else None
        ended = submitted + max(wait, 0.0) + max(run, 0.0)
        wanted = Requirements(cores, one_host, _memory(memory, cores if one_host else 1), _seconds(limit))
        return Job(
            str(int(id)), f"q{int(queue)}" if queue >= 0 else "q", f"u{int(user)}" if user >= 0 else "u",
            f"g{int(group)}" if group >= 0 else None, wanted, moment(submitted),
            None if started is None else moment(started), moment(ended),
        )  # fmt: skip


def _memory(kib: float, cores: int) -> int | None:
    return math.ceil(kib * cores / 1024) if kib > 0 else None


def _seconds(limit: float) -> int | None:
    return round(limit) if limit > 0 else None
