"""Slurm's unfinished jobs, from `squeue`: as columns, which take a twentieth of what its JSON takes, and as JSON.

The columns are told apart by a character that no name has. What waits of a job array is one line there, and counts as
many jobs as it has tasks. Of a job's name and script nothing is used.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import orjson

from kiosk.batch.api import Requirements
from kiosk.batch.ask import Answer, plain
from kiosk.batch.slurm.values import listed, mebibytes, number, seconds, tasks, tres, unread
from kiosk.batch.tally import Tally

SEPARATOR = "\x1f"
COLUMNS = (
    "ArrayTaskID", "State", "Partition", "UserName", "Account", "Reason", "NumCPUs", "NumNodes", "MinMemory",
    "tres-alloc", "TimeLimit", "SubmitTime", "NodeList", "Feature",
)  # fmt: skip
FORMAT = ",".join(f"{name}:0{SEPARATOR}" for name in COLUMNS)
"""Each as wide as it needs to be (0), and ended by the separator."""
ENVIRONMENT = {"SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "%s"}
"""Lists of tasks whole, times as seconds since the epoch."""
WAITS = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD", "REQUEUE_HOLD"})
RUNS = frozenset(
    {"RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
)
HELD = frozenset({
    "JobHeldUser", "JobHeldAdmin", "Dependency", "DependencyNeverSatisfied", "BeginTime", "JobArrayTaskLimit",
    "JobHoldMaxRequeue", "InvalidAccount", "InvalidQOS", "BadConstraints", "Licenses", "Reservation", 
})  # fmt: skip
LIMITS = ("QOS", "Assoc", "MaxJob")
"""Reasons for which no node would help: another job, a date, or a person must act first; so for limits of a QOS or an
account, whose names begin like this."""
TAG = re.compile(r"[A-Za-z0-9_.:/=-]{1,100}")
Raw = tuple[str, str, str, str, str, str]
"""What was printed of what a job requires: CPUs, nodes, whether it asked for memory, tres, time limit, features."""


@lru_cache(maxsize=65_536)
def requirements(raw: Raw) -> Requirements:
    """What a job requires, of what was printed. Memory that a job did not ask for (Slurm then gives it all that a
    node has) is none that it requires."""
    cpus, nodes, asked, resources, limit, features = raw
    cores = max(1, number(cpus) or 1)
    one_host = (number(nodes) or 1) == 1
    memory = tres(resources).get("mem") if asked.rstrip("MGTKc") not in ("0", "") else None
    mib = mebibytes(memory) if memory else None
    if mib is not None and not one_host:
        mib = -(-mib // cores)
    tags, values = constraint(features)
    return Requirements(cores, one_host, mib, seconds(limit), tags, values, plain(features, 1000))


def constraint(text: str) -> tuple[frozenset[str], frozenset[tuple[str, str]]]:
    """The features that each of a job's nodes must have. Of a constraint with alternatives, counts or groups nothing
    is concluded. A feature `os=debian12` is a value."""
    if text in ("", "(null)") or not re.fullmatch(r"[A-Za-z0-9_.:/=&,-]{1,4000}", text):
        return frozenset(), frozenset()
    words = [word for word in re.split(r"[&,]", text) if TAG.fullmatch(word)]
    return (
        frozenset(word for word in words if "=" not in word),
        frozenset(
            (key, value) for key, eq, value in (word.partition("=") for word in words) if eq and key and value
        ),
    )


@dataclass
class Jobs:
    """All unfinished jobs: in groups, and how many are on which node."""

    tally: Tally[Raw] = field(default_factory=lambda: Tally(requirements))
    on: Counter[str] = field(default_factory=Counter)

    def job(
        self, state: str, row: tuple[str, str, str], reason: str, raw: Raw, when: float, more: tuple[str, str]
    ) -> None:
        """Counts a job, or what waits of an array; `row` is partition, user and account, `more` nodes and tasks."""
        partition, user, account = row
        group = account if account not in ("", "(null)") else None
        if state in WAITS:
            first = partition.split(",")[0]
            held = reason in HELD or reason.startswith(LIMITS) or "held" in reason or "HOLD" in state
            self.tally.wait(first, user, group, raw, held, when, tasks(more[1]))
        elif state in RUNS:
            self.tally.run(partition, user, group, raw)
            for host in listed(more[0]):
                self.on[host] += 1


def from_columns(answer: Answer, now: float) -> Jobs:
    """The jobs of `squeue --noheader -O FORMAT`. BatchError for half a table, or other columns than were asked for."""
    if answer.status != 0:
        raise unread(answer, "failed")
    jobs, wide = Jobs(), len(COLUMNS)
    if answer.text and not answer.text.endswith("\n"):
        raise unread(answer, "ended in the middle of a line")
    for line in answer.text.split("\n"):
        if not line:
            continue
        cells = line.split(SEPARATOR)
        if len(cells) != wide + 1:
            raise unread(answer, f"printed {len(cells) - 1} columns instead of {wide}: {plain(line)!r}")
        (
            task,
            state,
            partition,
            user,
            account,
            reason,
            cpus,
            nodes,
            asked,
            resources,
            limit,
            when,
            where,
            features,
            _,
        ) = cells
        if not (state and partition and user):
            raise unread(answer, f"has a job without state, partition or user: {plain(line)!r}")
        raw = (cpus, nodes, asked, resources, limit, features)
        submitted = float(when) if when.isdecimal() else now
        jobs.job(state, (partition, user, account), reason, raw, submitted, (where, task))
    return jobs


def from_json(answer: Answer, now: float) -> Jobs:
    """The jobs of `squeue --json`, of Slurm 22.05 and of newer ones (numbers and states in objects)."""
    jobs = Jobs()
    for job in document(answer, "jobs"):
        states = job.get("job_state")
        state = str(states[0] if isinstance(states, list) and states else states or "")
        row = (
            str(job.get("partition") or ""),
            str(job.get("user_name") or ""),
            str(job.get("account") or ""),
        )
        if not state or not row[0]:
            raise unread(answer, f"has a job without state or partition: {plain(str(job))}")
        asked = number(job.get("memory_per_cpu")) or number(job.get("memory_per_node")) or 0
        limit = number(job.get("time_limit"))
        raw = (
            str(number(job.get("cpus")) or 1), str(number(job.get("node_count")) or 1), str(asked),
            str(job.get("tres_req_str") or ""), f"{limit}:00" if limit else "", str(job.get("features") or ""),
        )  # fmt: skip
        when = number(job.get("submit_time"))
        more = (str(job.get("nodes") or ""), str(job.get("array_task_string") or ""))
        jobs.job(state, row, str(job.get("state_reason") or ""), raw, when if when else now, more)
    return jobs


def document(answer: Answer, key: str) -> list[dict[str, Any]]:
    """The list of records of a JSON answer. BatchError where there is none, or where it tells of errors."""
    if answer.status != 0:
        raise unread(answer, "failed")
    try:
        found = orjson.loads(answer.text.encode(errors="replace"))
    except orjson.JSONDecodeError as e:
        raise unread(answer, f"printed JSON that can't be read ({e})") from None
    listed_errors = found.get("errors") if isinstance(found, dict) else None
    if listed_errors:
        raise unread(replace(answer, text=""), f"tells of errors: {plain(str(listed_errors))}")
    records = found.get(key) if isinstance(found, dict) else None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise unread(answer, f"printed JSON without {key}")
    return records
