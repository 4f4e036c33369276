"""LSF's hosts, from `bhosts` (what the batch system makes of them) and `lshosts` (what they are).

`closed_Full` and its like are open: such a host takes jobs when one of its own ends. A host whose closing can't be
explained was closed by somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kiosk.batch.api import Host, HostStatus
from kiosk.batch.ask import Answer, plain
from kiosk.batch.lsf.resources import mebibytes
from kiosk.batch.lsf.tables import cell, is_json, number, records, rows, unread

LOCK = "kiosk"
MARK = "kiosk:"
OPEN = frozenset({"ok", "closed_Full", "closed_Busy", "closed_Excl", "closed_cu_Excl"})
AWAY = frozenset({"unavail", "unreach", "closed_LIM", "unlicensed"})
OWN_LOCK = re.compile(rf"(?:^|[\s\"'(\[<,:]){LOCK}(?=$|[\s\"')\]>,:])")
COMMENT = re.compile(r"^ *ADMIN ACTION COMMENTS?:(.*(?:\n(?:  +|\t).+)*)", re.MULTILINE)


@dataclass(frozen=True)
class Seat:
    """A host's row of `bhosts`: its status in the long form, and what was said when it was closed (None: not
    told); `locked` says that the name of kiosk's lock is among that."""

    name: str
    status: str
    slots: int | None
    used: int
    comment: str | None = None
    locked: bool = False

    @property
    def mine(self) -> bool:
        """Whether kiosk closed it: its lock is there, or the comment begins with its mark."""
        marked = (self.comment or "").lstrip("\"' [{(").startswith(MARK)
        return self.closed and (self.locked or marked)

    @property
    def closed(self) -> bool:
        """Whether somebody closed it."""
        return self.status == "closed_Adm"

    @property
    def others(self) -> bool:
        """Whether somebody else closed it, or what is not known. Who else has a lock beside kiosk's is not told; the
        batch system keeps such a host closed when kiosk opens it."""
        return self.status not in OPEN and self.status not in AWAY and not self.mine


def seats(answer: Answer) -> list[Seat]:
    """The rows of `bhosts`: JSON, `bhosts -w`, or `bhosts -l`. BatchError for half a table."""
    if is_json(answer):
        return [
            _seat(record, answer, cell(record, "COMMENTS", "COMMENT"), True)
            for record in records(answer, "HOSTS")
        ]
    if answer.text.lstrip("\n").startswith("HOST ") or "\nHOST  " in answer.text:
        return _long(answer)
    return [_seat(row, answer) for row in rows(answer, "HOST_NAME")]


def _seat(
    row: Mapping[str, object], answer: Answer, comment: str | None = None, locked: bool = False
) -> Seat:
    name, status = cell(row, "HOST_NAME"), cell(row, "STATUS")
    if not name or not status:
        raise unread(answer, f"has a host without name or status: {plain(str(row))}")
    slots = number(cell(row, "MAX"), answer, "MAX")
    used = number(cell(row, "NJOBS"), answer, "NJOBS") or 0
    return Seat(name, status, slots, used, comment, locked and bool(OWN_LOCK.search(comment or "")))


def _long(answer: Answer) -> list[Seat]:
    """The rows of `bhosts -l`."""
    if answer.status != 0 or not answer.text.endswith("\n"):
        raise unread(answer, "failed, or ended in the middle of a line")
    found = []
    for block in re.split(r"^HOST +", answer.text, flags=re.MULTILINE)[1:]:
        name, *lines = block.split("\n")
        at = next((i for i, line in enumerate(lines) if line.split()[:1] == ["STATUS"]), None)
        if at is None or at + 1 >= len(lines):
            raise unread(answer, f"printed half of the host {plain(name)!r}")
        header, cells = lines[at].split(), lines[at + 1].split()
        if len(cells) < len(header) - 1:
            raise unread(answer, f"printed half of the host {plain(name)!r}")
        comment = COMMENT.search(block)
        row = {"HOST_NAME": name.strip(), **dict(zip(header, cells, strict=False))}
        found.append(_seat(row, answer, comment[1].strip() if comment else None))
    if not found:
        raise unread(answer, "printed no host")
    return found


@dataclass(frozen=True)
class Machine:
    """A host's row of `lshosts`."""

    cores: int | None
    memory: int | None
    tags: frozenset[str]
    values: frozenset[tuple[str, str]]


NOTHING = Machine(None, None, frozenset(), frozenset())


def machines(answer: Answer) -> dict[str, Machine]:
    """The rows of `lshosts -w` by host; what a host that does not answer leaves out is not known."""
    found = {}
    for row in rows(answer, "HOST_NAME"):
        memory = mebibytes(cell(row, "maxmem")) if cell(row, "maxmem") not in ("", "-") else None
        words = cell(row, "RESOURCES").strip("() ").split()
        values = {(key, cell(row, key)) for key in ("type", "model") if cell(row, key) not in ("", "-")}
        values |= {(key, value) for key, eq, value in (word.partition("=") for word in words) if eq}
        cores = cell(row, "ncpus")
        found[cell(row, "HOST_NAME")] = Machine(
            int(cores) if cores.isdecimal() else None,
            round(memory) if memory is not None else None,
            frozenset(word for word in words if "=" not in word and word != "-"),
            frozenset(values),
        )
    return found


def host(seat: Seat, machine: Machine, jobs: int, known_mine: bool) -> Host:
    """A host as a Look has it. `known_mine` says that kiosk closed it and nobody opened it since."""
    status: HostStatus = "open" if seat.status in OPEN else "unavailable" if seat.status in AWAY else "closed"
    mine = seat.mine or (seat.closed and known_mine and not seat.comment)
    slots = seat.slots if seat.slots is not None else machine.cores or seat.used
    reason = plain(seat.comment or "") if seat.status not in OPEN else ""
    others = seat.others and not (mine and not seat.comment)
    return Host(
        seat.name, status, slots, seat.used, jobs, machine.memory, machine.tags, machine.values, mine, others,
        reason or ("" if seat.status == "ok" else plain(seat.status)),
    )  # fmt: skip
