"""What `sacct --parsable2` printed, by the names of its columns.

    sacct --allusers --allocations --parsable2 --starttime 2026-11-01 \\
        --format JobID,User,Account,Partition,ReqCPUS,NNodes,ReqMem,Timelimit,Submit,Start,End,NodeList,Constraints

Needed are JobID, User, Partition, Submit, End, and one of ReqCPUS, NCPUS and AllocCPUS. JobName should not be among
them: users may put the separator, or a new line, into it. Steps are passed over, and so are jobs that have not ended.
Times are in the time zone of the host that reads them, unless they are seconds since the epoch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from kiosk.batch.accounts.files import lines, shown, wrong
from kiosk.batch.api import Job, Requirements
from kiosk.batch.slurm.jobs import constraint
from kiosk.batch.slurm.values import listed, mebibytes, number, seconds
from kiosk.batch.tally import moment

NEEDED = ("JobID", "User", "Partition", "Submit", "End")
CPUS = ("ReqCPUS", "NCPUS", "AllocCPUS")
HINT = (
    "sacct --allusers --allocations --parsable2 --format JobID,User,Account,Partition,ReqCPUS,NNodes,ReqMem,\
Timelimit,Submit,Start,End,NodeList,Constraints"
)


class Sacct:
    """The jobs of a file; see Accounts."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def jobs(self) -> Iterator[Job]:
        """See Accounts."""
        header: list[str] = []
        for number_, line in lines(self._path):
            cells = line.split("|")
            if not header:
                header = self._header(cells, number_)
            elif line:
                if len(cells) not in (len(header), len(header) + 1):
                    what = f"has {len(cells)} columns instead of {len(header)}: {shown(line)}"
                    raise wrong(self._path, number_, what, "leave out the column JobName")
                row = dict(zip(header, cells, strict=False))
                job = None if "." in row["JobID"] else self._job(row, number_)
                if job is not None:
                    yield job

    def _header(self, cells: list[str], number_: int) -> list[str]:
        lacking = [name for name in NEEDED if name not in cells]
        if lacking or not any(name in cells for name in CPUS):
            what = f"is no header of sacct's: it lacks {', '.join(lacking or CPUS)}"
            raise wrong(self._path, number_, what, HINT)
        return [cell for cell in cells if cell]

    def _job(self, row: dict[str, str], number_: int) -> Job | None:
        submitted, ended = self._time(row["Submit"], number_), self._time(row["End"], number_)
        if ended is None:
            return None
        if submitted is None:
            raise wrong(self._path, number_, "has no time of submission")
        cores = next((found for name in CPUS if (found := number(row.get(name))) is not None), 1) or 1
        one_host = (number(row.get("NNodes")) or 1) == 1
        tags, values = constraint(row.get("Constraints", ""))
        wanted = Requirements(
            cores, one_host, _memory(row.get("ReqMem", ""), cores, one_host, number(row.get("NNodes")) or 1),
            seconds(row.get("Timelimit", "")), tags, values, row.get("Constraints", "")[:1000],
        )  # fmt: skip
        started = self._time(row.get("Start", ""), number_)
        return Job(
            row["JobID"], row["Partition"].split(",")[0], row["User"], row.get("Account") or None, wanted,
            moment(submitted), None if started is None else moment(started), moment(ended),
            listed(row.get("NodeList", "")) if row.get("NodeList") != "None assigned" else (),
        )  # fmt: skip

    def _time(self, text: str, number_: int) -> float | None:
        if text in ("Unknown", "None", "", "N/A"):
            return None
        if text.isdecimal():
            return float(text)
        try:
            return datetime.fromisoformat(text).astimezone().timestamp()
        except (ValueError, OverflowError):
            raise wrong(self._path, number_, f"has a time that is none: {shown(text)}") from None


def _memory(text: str, cores: int, one_host: bool, nodes: int) -> int | None:
    """What a job asked for: `4000M` in all (22.05 and later), `2Gc` for each core, `4Gn` for each node."""
    amount = mebibytes(text) if re.match(r"[1-9]", text) else None
    if amount is None:
        return None
    each = text[-1:]
    if one_host:
        return amount * cores if each == "c" else amount
    total = amount * cores if each == "c" else amount * nodes if each == "n" else amount
    return -(-total // cores)
