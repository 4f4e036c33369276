"""Records of LSF's event log and accounts (`lsb.events`, `lsb.acct`): one a line, words and quoted strings.

Which fields there are, and in which order, is known from IBM's reference of both files (10.1), from published lines of
LSF 9.1 and 10.1, and from the published source of OpenLava and volclava, which write the same records without the
fields that IBM added. Used are, after type, version and time:

    JOB_NEW       jobId userId options numProcessors submitTime beginTime termTime sigValue chkpntPeriod restartPid
                  "userName" rLimits... "hostSpec" hostFactor umask "queue" "resReq" "fromHost" "cwd" "chkpntDir"
                  "inFile" "outFile" "errFile" "subHomeDir" "jobFile" numAskedHosts "askedHosts"... "dependCond"
                  "preExecCmd" ["postExecCmd"] "jobName" "command" nxf xf... "mailUser" "projectName" [niosPort]
                  maxNumProcessors "schedHostType" "loginShell" ["timeEvent" "userGroup" "exceptList"] options2 idx
    JOB_START     jobId jStatus jobPid jobPGid hostFactor numExHosts "execHosts"... ... idx is not needed before
                  "queuePreCmd" "queuePostCmd" jFlags ["userGroup"] idx
    JOB_STATUS    jobId jStatus reason subreasons cpuTime endTime ru [19 figures of usage] exitStatus idx
    JOB_SWITCH    userId jobId "queue" idx "userName"
    JOB_REQUEUE   jobId idx            JOB_CLEAN   jobId idx            MIG   jobId numAskedHosts ... userId idx
    JOB_MODIFY2   "jobIdStr" options options2 delOptions userId "userName" submitTime umask numProcessors beginTime
                  termTime sigValue restartPid ["jobName"] ["queue"] [numAskedHosts "askedHosts"...] ["resReq"]
    QUEUE_CTRL    opCode "queue" userId "userName"
    HOST_CTRL     opCode "host" userId "userName" ["message"]
    MBD_DIE, MBD_START, LOG_SWITCH: that they are there
    JOB_FINISH    jobId userId options numProcessors submitTime beginTime termTime startTime "userName" "queue"
                  "resReq" "dependCond" "preExecCmd" ["postExecCmd"] "fromHost" "cwd" "inFile" "outFile" "errFile"
                  "jobFile" numAskedHosts "askedHosts"... numExHosts "execHosts"... jStatus hostFactor "jobName"

Fields that are there or not, by the product or its version, are told apart by their kind (a number, or a string) and
not by the version. A quote within a string is doubled. With SHORT_EVENTFILE a host stands once, as `4*host`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HEAD = re.compile(r'"([A-Z][A-Z0-9_]{1,39})" "([0-9]+(?:\.[0-9]+)*)" ([0-9]{1,12})(?: |$)')
WORD = re.compile(r'"((?:[^"]|"")*)"|([^\s"]+)')
TIMES = re.compile(r"([0-9]{1,6})\*(.+)$", re.DOTALL)
ARRAY = re.compile(r"\[([0-9,:\-\s]+)\](?:%([0-9]{1,9}))?$")
MOST = 1_000_000
"""Tasks of an array."""
RUN_LIMIT = 9
"""Which of the limits is that of the run time, in seconds."""


class BadRecord(ValueError):
    """A record that can't be read; the message says why."""


class Fields:
    """The fields of a record, taken one after the other. What is not there, or of the other kind, is a BadRecord."""

    def __init__(self, text: str) -> None:
        self._words = WORD.findall(text)
        self._at = 0

    def number(self) -> int:
        """The next field, a number (of a real one, its whole part)."""
        _, bare = self._next()
        try:
            return int(float(bare)) if "." in bare or "e" in bare else int(bare)
        except (ValueError, OverflowError):
            raise BadRecord(f"field {self._at} is no number") from None

    def numbers(self) -> list[int]:
        """All numbers that come next, up to a string."""
        found = []
        while self.is_number:
            found.append(self.number())
        return found

    def string(self) -> str:
        """The next field, a string."""
        quoted, bare = self._next()
        if bare:
            raise BadRecord(f"field {self._at} is no string")
        return quoted.replace('""', '"') if '"' in quoted else quoted

    def strings(self) -> list[str]:
        """All strings that come next, up to a number."""
        found = []
        while self._at < len(self._words) and not self.is_number:
            found.append(self.string())
        return found

    def skip(self, count: int) -> None:
        """Passes over some fields of any kind."""
        self._at += count
        if self._at > len(self._words):
            raise BadRecord("ends too early")

    @property
    def is_number(self) -> bool:
        """Whether the next field is there and a number."""
        return self._at < len(self._words) and bool(self._words[self._at][1])

    def hosts(self) -> list[str]:
        """A number, and as many names of hosts; one name for each slot."""
        count = self.number()
        if not 0 <= count <= 1_000_000:
            raise BadRecord(f"names {count} hosts")
        found: list[str] = []
        for _ in range(count):
            name = self.string()
            times = TIMES.match(name)
            found += [times[2]] * int(times[1]) if times else [name]
        return found

    def _next(self) -> tuple[str, str]:
        if self._at >= len(self._words):
            raise BadRecord("ends too early")
        self._at += 1
        quoted, bare = self._words[self._at - 1]
        return quoted, bare


@dataclass(frozen=True)
class New:
    """A job, or an array of jobs: `indices` is None for one job, else the indices of the array's tasks, of which
    `at_once` may run at a time (None: all)."""

    job: int
    user: str
    group: str | None
    queue: str
    slots: int
    submitted: int
    begins: int
    text: str
    name: str
    depends: str
    limit: int
    indices: range | tuple[int, ...] | None
    at_once: int | None = None


def job_new(fields: Fields) -> New:
    """A JOB_NEW, after its time."""
    job, _user_id, _options, slots, submitted, begins, *_rest = (fields.number() for _ in range(10))
    user = fields.string()
    limits = fields.numbers()
    fields.skip(3)  # hostSpec, hostFactor, umask
    queue, text = fields.string(), fields.string()
    fields.skip(8)  # fromHost to jobFile
    fields.hosts()
    depends, *names = fields.strings()
    if len(names) < 3:
        raise BadRecord("has no job name and command")
    name = names[-2]
    for _ in range(fields.number()):
        fields.skip(3)
    fields.skip(2)  # mailUser, projectName
    fields.numbers()  # niosPort where it is interactive, maxNumProcessors
    after = fields.strings()
    group = after[3] if len(after) >= 5 else ""
    array = ARRAY.search(name)
    at_once = int(array[2]) if array and array[2] else None
    tasks = indices(name)
    name = name[: array.start()] if array else name
    limit = limits[RUN_LIMIT] if len(limits) > RUN_LIMIT else -1
    return New(
        job, user, group or None, queue, max(1, slots), submitted, begins, text, name, depends, limit,
        tasks, at_once,
    )  # fmt: skip


def indices(name: str) -> range | tuple[int, ...] | None:
    """The tasks that the name of an array lists: `name[1-100]`, `name[1-9:2,15]%5`. None where it is no array."""
    found = ARRAY.search(name)
    if not found:
        return None
    parts: list[range] = []
    for part in found[1].split(","):
        piece = re.fullmatch(r"\s*([0-9]{1,9})(?:\s*-\s*([0-9]{1,9})(?:\s*:\s*([0-9]{1,9}))?)?\s*", part)
        if not piece:
            return None
        first = int(piece[1])
        parts.append(
            range(first, min(int(piece[2] or first), first + 1_000_000) + 1, max(1, int(piece[3] or 1)))
        )
    return parts[0] if len(parts) == 1 else tuple(sorted({i for part in parts for i in part}))


@dataclass(frozen=True)
class Finished:
    """A job's record in the accounts."""

    job: int
    index: int
    user: str
    queue: str
    slots: int
    submitted: int
    started: int
    ended: int
    text: str
    hosts: tuple[str, ...]


def job_finish(fields: Fields, ended: int) -> Finished:
    """A JOB_FINISH, after its time, which is when the job ended."""
    job, _user_id, _options, slots, submitted, _begins, _term, started = (fields.number() for _ in range(8))
    user, queue, text, *others = fields.strings()
    if len(others) < 8:
        raise BadRecord("has too few strings")
    fields.hosts()
    hosts = fields.hosts()
    fields.skip(4)  # jStatus, hostFactor, jobName, command
    return Finished(
        job, _index(fields), user, queue, max(1, slots), submitted, started, ended, text, tuple(dict.fromkeys(hosts))
    )  # fmt: skip


def _index(fields: Fields) -> int:
    """The array index that follows in a JOB_FINISH; 0 where the record is too short for one."""
    try:
        fields.skip(19 + 2)  # usage, mailUser, projectName
        fields.skip(2)  # exitStatus, maxNumProcessors
        fields.strings()
        return fields.number()
    except BadRecord:
        return 0
