"""What the workload needs of the machines that its jobs run in, and what it tells systemd there.

A job is a transient unit with a name of its own that outlives its end, so that starting it twice is refused and its
exit status can be asked for later. It runs as a user that nobody else is. What a guest answers is not trusted: it can
only say of its own jobs how they ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from kiosk.batch.workload.file import Jobs

SYSTEMCTL, RUN = "/usr/bin/systemctl", "/usr/bin/systemd-run"
PROPERTIES = "Id,LoadState,ActiveState,SubState,ExecMainCode,ExecMainStatus"
KILLED = (2, 3)
"""Codes of a process that a signal ended (CLD_KILLED, CLD_DUMPED)."""
ANSWER = 1 << 20


Status = Literal["open", "closed", "silent"]


@dataclass(frozen=True)
class Guest:
    """A machine. open: it takes jobs; closed: it does not any more, its jobs go on; silent: it is there, and what its
    jobs do can't be asked."""

    name: str
    status: Status
    slots: int
    memory: int | None = None
    tags: frozenset[str] = frozenset()
    values: frozenset[tuple[str, str]] = frozenset()
    reason: str = ""


class Guests(Protocol):
    """The machines. A KioskError says that nothing is known."""

    def list(self) -> Sequence[Guest]:
        """All that are up. One that is not listed does not exist any more, nor do its jobs."""

    def run(self, name: str, argv: Sequence[str], timeout: float) -> tuple[int, bytes]:
        """Runs a command as root in a machine; its exit status and what it printed. KioskError where it can't be
        told, and then it may have run."""


@dataclass(frozen=True)
class Ran:
    """What a guest says of a job. unknown: it has no such job; `status` is the exit status (a signal's number plus
    128) of one that has ended, None where it never began."""

    state: Literal["unknown", "running", "ended"]
    status: int | None = None


def unit(group: str, index: int, attempt: int) -> str:
    """The name of a job's unit."""
    return f"kiosk-job-{group}.{index}-{attempt}.service"


def start(name: str, jobs: Jobs) -> list[str]:
    """The command that starts a job."""
    limits = [
        *([f"--property=MemoryMax={jobs.memory}M"] if jobs.memory is not None else []),
        *([f"--property=RuntimeMaxSec={jobs.limit}"] if jobs.limit is not None else []),
    ]
    return [
        RUN, "--quiet", "--no-block", "--remain-after-exit", f"--unit={name}", "--property=DynamicUser=yes",
        "--property=Slice=kiosk-jobs.slice", *limits, "--", *jobs.argv,
    ]  # fmt: skip


def ask(units: Sequence[str]) -> list[str]:
    """The command that says how jobs are."""
    return [SYSTEMCTL, "show", "--no-pager", f"--property={PROPERTIES}", "--", *units]


def forget(ran: dict[str, Ran]) -> list[list[str]]:
    """The commands that have a guest forget jobs that ended: those that went well, and those that did not."""
    well = sorted(name for name, one in ran.items() if one.status == 0)
    ill = sorted(name for name, one in ran.items() if one.status != 0)
    return [
        *([[SYSTEMCTL, "stop", "--", *well]] if well else []),
        *([[SYSTEMCTL, "reset-failed", "--", *ill]] if ill else []),
    ]


def understood(answer: bytes, units: Sequence[str]) -> dict[str, Ran]:
    """What a guest answered to `ask`. A unit of which it says nothing, or nonsense, is left out."""
    asked, found = set(units), {}
    for block in answer[:ANSWER].decode(errors="replace").split("\n\n"):
        facts = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        name = facts.get("Id", "")
        if name in asked and (ran := _ran(facts)) is not None:
            found[name] = ran
    return found


def _ran(facts: dict[str, str]) -> Ran | None:
    active, sub = facts.get("ActiveState"), facts.get("SubState")
    if facts.get("LoadState") == "not-found":
        return Ran("unknown")
    if active == "failed" or (active, sub) == ("active", "exited"):
        return Ran("ended", _status(facts.get("ExecMainCode", ""), facts.get("ExecMainStatus", "")))
    if active in ("activating", "active", "reloading", "deactivating"):
        return Ran("running")
    return Ran("unknown") if active == "inactive" else None


def _status(code: str, status: str) -> int | None:
    if not (code.isascii() and code.isdigit() and status.isascii() and status.isdigit()) or code == "0":
        return None
    return (int(status[:6]) + (128 if int(code[:6]) in KILLED else 0)) & 0xFF
