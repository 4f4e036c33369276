"""LSF's unfinished jobs, from `bjobs`: as JSON, as columns, or as the paragraphs of `bjobs -l`.

All three give the same groups. Of a job's name and command nothing is used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from kiosk.batch.api import Requirements
from kiosk.batch.ask import Answer, plain
from kiosk.batch.lsf import resources
from kiosk.batch.lsf.tables import NO_JOBS, Streamed, cell, unread
from kiosk.batch.lsf.times import minutes
from kiosk.batch.tally import Tally
from kiosk.log import logger

log = logger(__name__)

FIELDS = (
    "jobid", "stat", "user", "user_group", "queue", "nreq_slot", "runtimelimit", "submit_time", "exec_host",
    "pend_reason", "combined_resreq",
)  # fmt: skip
"""The columns that are asked for where `-o` is understood, what may have blanks in it last."""
DELIMITER = "^"
WAITS = frozenset({"PEND", "PSUSP"})
RUNS = frozenset({"RUN", "SSUSP", "USUSP", "UNKWN", "WAIT", "PROV"})
HELD = re.compile(
    r"dependency condition|start time|waiting for .{0,30}(?:dependen|event)|condition.{0,30}not (?:been )?satisfied"
    r"|not yet (?:reached|arrived)|specified time|held by"
    r"|\b(?:user|queue|groups?|project|application|array)\b[^;:\n]{0,60}\breached",
    re.IGNORECASE,
)
"""Reasons for which a job waits for another job, a date or a person; so for a limit of its user or queue."""
TIMES = re.compile(r"([0-9]{1,6})\*")
Raw = tuple[str, str, int]
"""What the batch system printed of what a job requires: its resource string, its run limit, its slots."""


@lru_cache(maxsize=50_000)
def hosts(where: str) -> frozenset[str]:
    """The hosts of `h1:h1:h2` or `4*h1:h2`."""
    found = (TIMES.sub("", name).strip() for name in where.split(":"))
    return frozenset(name for name in found if name and name != "-")


@lru_cache(maxsize=65_536)
def requirements(raw: Raw) -> Requirements:
    """What a job requires, of what was printed."""
    text, limit, slots = raw
    wanted = resources.understood(text)
    cores = max(1, slots)
    one_host = cores == 1 or wanted.hosts == 1 or (wanted.ptile or 0) >= cores
    memory = wanted.memory
    if wanted.task_memory is not None:
        memory = max(memory or 0, wanted.task_memory * (cores if one_host else 1))
    elif memory is not None and not one_host and wanted.ptile:
        memory = -(-memory // wanted.ptile)
    shown = plain(text, resources.SHOWN)
    return Requirements(cores, one_host, memory, minutes(limit), wanted.tags, wanted.values, shown)


@dataclass
class Jobs:
    """All unfinished jobs: in groups, and how many have slots on which host."""

    tally: Tally[Raw] = field(default_factory=lambda: Tally(requirements))
    on: Counter[str] = field(default_factory=Counter)
    seen: int = 0

    def job(
        self,
        state: str,
        queue: str,
        user: str,
        group: str,
        raw: Raw,
        submitted: float,
        reason: str,
        where: str,
    ) -> None:
        """Counts one job; `where` is what EXEC_HOST says."""
        self.seen += 1
        if state in WAITS:
            held = state == "PSUSP" or (reason != "" and HELD.search(reason) is not None)
            self.tally.wait(queue, user, group or None, raw, held, submitted)
        elif state in RUNS:
            self.tally.run(queue, user, group or None, raw)
            for host in hosts(where):
                self.on[host] += 1


def from_json(source: Streamed, when: Callable[[str], float | None], now: float) -> Jobs:
    """The jobs of `bjobs -o ... -json`, read while they are printed; none where it is no JSON, which `source` then
    says. BatchError where a record lacks its state, user or queue."""
    jobs = Jobs()
    for record in source:
        _count(jobs, record, source.answer, when, now)
    return jobs


def _count(
    jobs: Jobs, record: dict[str, str], answer: Answer, when: Callable[[str], float | None], now: float
) -> None:
    state, user, queue = cell(record, "STAT"), cell(record, "USER"), cell(record, "QUEUE")
    if not (state and user and queue):
        raise unread(answer, f"has a job without state, user or queue: {plain(str(record))}")
    slots = cell(record, "NREQ_SLOT", "SLOTS", "MIN_REQ_PROC")
    text = cell(record, "COMBINED_RESREQ", "EFFECTIVE_RESREQ", "RESREQ")
    raw = ("" if text == "-" else text, cell(record, "RUNTIMELIMIT"), int(slots) if slots.isdecimal() else 1)
    group = cell(record, "USER_GROUP")
    jobs.job(
        state, queue, user, "" if group == "-" else group, raw, when(cell(record, "SUBMIT_TIME")) or now,
        cell(record, "PEND_REASON"), cell(record, "EXEC_HOST"),
    )  # fmt: skip


def from_columns(answer: Answer, when: Callable[[str], float | None], now: float) -> Jobs:
    """The jobs of `bjobs -o "... delimiter='^'"`, as `from_json`."""
    jobs = Jobs()
    if no_jobs(answer):
        return jobs
    if answer.status != 0 or not answer.text.endswith("\n"):
        raise unread(answer, "failed, or ended in the middle of a line")
    header: list[str] = []
    for line in answer.text.split("\n"):
        words = line.split(DELIMITER, len(header) - 1 if header else -1)
        if words[0].strip() == "JOBID":
            header = [word.strip() for word in words]
        elif header and line.strip():
            if len(words) != len(header):
                raise unread(answer, f"printed half a row: {plain(line)!r}")
            record = {k: "" if w.strip() == "-" else w.strip() for k, w in zip(header, words, strict=True)}
            _count(jobs, record, answer, when, now)
    if not header:
        raise unread(answer, "printed no table with a column JOBID")
    return jobs


def no_jobs(answer: Answer) -> bool:
    """Whether an answer says that there are no jobs. The status alone says nothing: 0, 254 and 255 occur."""
    short = len(answer.text) < 2000 and answer.text.count("\n") <= 5
    return bool(short and "{" not in answer.text and NO_JOBS.search(answer.text + answer.error))


HEAD = re.compile(
    r"Job <(?P<id>[0-9]{1,10}(?:\[[0-9]+\])?)>,.{0,20000}?\bUser <(?P<user>[^<>\n]{1,200})>,(?P<between>.{0,4000}?)"
    r"\bStatus <(?P<state>[A-Z]{1,10})>, .{0,200}?\bQueue <(?P<queue>[^<>\n]{1,200})>",
    re.DOTALL,
)
GROUP = re.compile(r"\bUser Group <([^<>\n]{1,200})>")
DATE = r"\n(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} +[0-9]{1,2} [0-9:]{5,8}(?: [0-9]{4})?"
SUBMITTED = re.compile(rf"({DATE}): Submitted from ")
SLOTS = re.compile(r"[,;] ([0-9]{1,7})(?:-[0-9]+)? (?:Processors\b|Task\(s\)|Tasks\b|Slots?\b)")
COMBINED = re.compile(r"\n Combined: ([^\n]*)")
REQUESTED = re.compile(r"Requested Resources <([^\n]*?)>[,;]")
LIMIT = re.compile(r"\n RUNLIMIT[^\n]*\n\s*([0-9.]+) min")
REASONS = re.compile(r"\n PENDING REASONS:\n((?: [^\n]+\n){1,20})")
STARTED = re.compile(
    rf"{DATE}: (?:\[[0-9]+\] )?(?:[Ss]tarted|Dispatched)[^<;]{{0,80}}((?:<[^<>\n]{{1,300}}>[ ,]*)+)"
)
RULE = re.compile(r"^-{60,}$", re.MULTILINE)
FOLD = "\n                     "
ODD = 20
"""How many paragraphs may be such that they can't be understood, besides one of a hundred."""


def from_paragraphs(
    pieces: Generator[str, None, Answer], when: Callable[[str], float | None], now: float
) -> tuple[Jobs, Answer]:
    """The jobs of `bjobs -l`, read while they are printed. A user can name a job so that its paragraph can't be
    understood: a few of them are passed over, but not the last one, which may be half of what there is."""
    jobs = Jobs()
    source = Paragraphs(pieces)
    odd, last, first = 0, True, ""
    for text in source:
        last = _paragraph(jobs, text, when, now)
        if not last:
            odd, first = odd + 1, first or plain(text)
    answer = source.answer
    if jobs.seen == 0 and odd == 0 and not no_jobs(answer):
        raise unread(answer, "printed no job, and does not say that there are none")
    if jobs.seen + odd and answer.status != 0:
        raise unread(answer, "failed after it had printed some jobs")
    if not last or odd > max(ODD, jobs.seen // 100):
        raise unread(answer, f"printed {odd} jobs that can't be understood, such as {first!r}")
    if odd:
        log.warning("%d jobs of bjobs -l can't be understood, such as %r", odd, first)
    return jobs, answer


class Paragraphs:
    """The paragraphs of `bjobs -l`, each whole."""

    def __init__(self, pieces: Generator[str, None, Answer]) -> None:
        self._pieces = pieces
        self.answer = Answer("bjobs -l", 0, "", "")

    def __iter__(self) -> Iterator[str]:
        rest, ended = "", False
        while not ended:
            try:
                rest += next(self._pieces)
            except StopIteration as end:
                self.answer, ended = end.value, True
            if len(rest) > 1 << 24:
                raise unread(self.answer, "printed a paragraph of more than 16 MiB")
            parts = RULE.split(rest)
            rest = parts.pop()
            yield from parts
        if "Job <" in rest:
            yield rest
        else:
            self.answer = Answer(self.answer.command, self.answer.status, rest, self.answer.error)


def _paragraph(jobs: Jobs, text: str, when: Callable[[str], float | None], now: float) -> bool:
    """Counts the job of a paragraph; False where it can't be understood."""
    start = text.find("\nJob <")
    if start < 0 and not text.startswith("Job <"):
        return False
    text = text[start:] if start >= 0 else "\n" + text
    if FOLD in text:
        text = text.replace(FOLD, "")  # IBM folds long lines
    head = HEAD.match(text, 1)
    submitted = SUBMITTED.search(text)
    if not head or not submitted:
        return False
    line_end = text.find("\n", submitted.end())
    line = text[submitted.start() : line_end if line_end > 0 else len(text)]
    slots = SLOTS.search(line)
    combined, asked = COMBINED.search(text), REQUESTED.search(line)
    limit, reasons = LIMIT.search(text), REASONS.search(text)
    group = GROUP.search(head["between"])
    started = STARTED.search(text, submitted.end()) if head["state"] not in WAITS else None
    where = ":".join(re.findall(r"<([^<>]*)>", started[1])) if started else ""
    raw = (
        (combined[1] if combined else asked[1] if asked else "").strip(),
        limit[1] if limit else "",
        int(slots[1]) if slots else 1,
    )
    jobs.job(
        head["state"], head["queue"], head["user"], group[1] if group else "", raw, when(submitted[1]) or now,
        reasons[1] if reasons else "", where,
    )  # fmt: skip
    return True
