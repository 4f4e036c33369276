"""LSF's queues and fair shares, from `bqueues -l -r`, `bqueues` or `bhpart -r`: by the names of their columns."""

from __future__ import annotations

import itertools
import re

from kiosk.batch.api import Queue, Share
from kiosk.batch.ask import Answer, plain
from kiosk.batch.lsf.tables import rows, unread

BLOCK = re.compile(r"^QUEUE: *(\S.*?) *$", re.MULTILINE)
SHARES = re.compile(r"^SHARE_INFO_FOR: *(\S+?)/ *$", re.MULTILINE)
FIGURE = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?$")
INFINITE = re.compile(r"[0-9]{1,9}$")


def queues(answer: Answer) -> tuple[tuple[Queue, ...], tuple[Share, ...], int]:
    """All queues, their shares, and how many unfinished jobs' slots they count in all."""
    if answer.status == 0 and not BLOCK.search(answer.text):
        table = rows(answer, "QUEUE_NAME")
        return tuple(_queue(row.pop("QUEUE_NAME"), row, answer) for row in table), (), _jobs(table)
    if answer.status != 0 or not answer.text.endswith("\n"):
        raise unread(answer, "failed, or ended in the middle of a line")
    parts = BLOCK.split(answer.text)[1:]
    found, shares, counted = [], [], []
    for name, block in zip(parts[::2], parts[1::2], strict=True):
        row = _figures(name, block, answer)
        counted.append(row)
        found.append(_queue(name, row, answer))
        shares += share_tables(block, name)
    return tuple(found), tuple(shares), _jobs(counted)


def _figures(name: str, block: str, answer: Answer) -> dict[str, str]:
    lines = block.split("\n")
    for header, cells in itertools.pairwise(lines):
        if header.split()[:1] == ["PRIO"]:
            names, words = header.split(), cells.split()
            if len(words) != len(names):
                break
            return dict(zip(names, words, strict=True))
    raise unread(answer, f"printed half of the queue {plain(name)!r}")


def _queue(name: str, row: dict[str, str], answer: Answer) -> Queue:
    priority, status, limit = row.get("PRIO", ""), row.get("STATUS", ""), row.get("MAX", "")
    if not re.fullmatch(r"-?[0-9]{1,9}", priority) or not status:
        raise unread(answer, f"has no priority and status of the queue {plain(name)!r}")
    started = status.rsplit(":", 1)[-1].lower().startswith("active")
    return Queue(name, int(priority), started, int(limit) if INFINITE.match(limit) else None)


def _jobs(table: list[dict[str, str]]) -> int:
    return sum(int(row["NJOBS"]) for row in table if row.get("NJOBS", "").isdecimal())


def share_tables(text: str, queue: str | None) -> list[Share]:
    """The tables after `SHARE_INFO_FOR: queue/group/`, whatever their columns; of a row that is none, nothing."""
    found = []
    parts = SHARES.split(text)[1:]
    for path, block in zip(parts[::2], parts[1::2], strict=True):
        group = path.split("/")[1:]
        header: list[str] = []
        for line in block.split("\n"):
            words = line.split()
            if words[:1] == ["USER/GROUP"]:
                header = words
            elif header and len(words) == len(header):
                row = dict(zip(header, words, strict=True))
                if not FIGURE.match(row.get("SHARES", "")):
                    break
                found.append(_share(row, queue, group[-1] if group else None))
            elif header:
                break
    return found


def _share(row: dict[str, str], queue: str | None, parent: str | None) -> Share:
    used = next((row[key] for key in ("RUN_TIME", "CPU_TIME") if FIGURE.match(row.get(key, ""))), None)
    priority = row.get("PRIORITY", "")
    return Share(
        row["USER/GROUP"], float(row["SHARES"]), queue, parent,
        max(float(used), 0.0) if used is not None else None, float(priority) if FIGURE.match(priority) else None,
    )  # fmt: skip


def partitions(answer: Answer) -> tuple[Share, ...]:
    """The shares of host partitions, from `bhpart -r`; none where there are no partitions."""
    if answer.status != 0 or "SHARE_INFO_FOR" not in answer.text:
        return ()
    return tuple(share_tables(answer.text, None))
