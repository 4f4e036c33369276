"""How Slurm writes numbers, amounts, lengths of time, lists of hosts and of array tasks."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any

from kiosk.batch.ask import Answer
from kiosk.errors import BatchError

HINT = "is slurmctld up? `scontrol ping` says; nothing is concluded until it answers"
UNITS = {"K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1048576.0, "P": 1073741824.0}
RANGE = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?(?::([0-9]{1,10}))?$")
MOST_HOSTS = 100_000
UNLIMITED = frozenset({"UNLIMITED", "Partition_Limit", "NOT_SET", "INVALID", "(null)", "", "N/A"})


def unread(answer: Answer, what: str) -> BatchError:
    """An answer that can't be understood, or is none."""
    silent = re.search(r"[Uu]nable to contact|timed out|connect failure|Connection refused", answer.error)
    return answer.refused("does not reach slurmctld" if silent else what, HINT)


def number(value: Any) -> int | None:
    """A number: as such, as text, or as newer Slurms write it ({"set": true, "number": 3}); None for none."""
    if isinstance(value, dict):
        return number(value.get("number")) if value.get("set") and not value.get("infinite") else None
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float)):
        return int(value) if 0 <= value < 1 << 62 else None
    text = str(value).split("-")[0].strip()
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def mebibytes(text: str) -> int | None:
    """An amount of memory such as `200M`, `2.50G`; MiB where it has no unit."""
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)([KMGTP])?i?B?[cn]?", text.strip())
    return math.ceil(float(found[1]) * UNITS[found[2] or "M"]) if found else None


def tres(text: str) -> dict[str, str]:
    """`cpu=2,mem=200M,node=1` as a mapping."""
    return {key: value for key, eq, value in (part.partition("=") for part in text.split(",")) if eq}


def seconds(text: str) -> int | None:
    """A time limit (`10:00`, `1-02:00:00`, `30`): seconds, or None for none."""
    if text in UNLIMITED:
        return None
    found = re.fullmatch(r"(?:([0-9]{1,6})-)?([0-9]{1,9})(?::([0-9]{2}))?(?::([0-9]{2}))?", text)
    if not found:
        return None
    days, first, second, third = (int(part) if part else None for part in found.groups())
    if days is not None:
        return days * 86400 + (first or 0) * 3600 + (second or 0) * 60 + (third or 0)
    if third is not None:
        return (first or 0) * 3600 + (second or 0) * 60 + third
    return (first or 0) * 60 + (second or 0)


@lru_cache(maxsize=10_000)
def tasks(text: str) -> int:
    """How many tasks `3-20,30%3` names; 1 where it names none. A list that was cut (`1,3,...`) counts what is there."""
    count = 0
    for part in text.split("%")[0].split(","):
        found = RANGE.match(part.strip())
        if found:
            first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
            count += max(0, last - first) // max(1, step) + 1
    return max(1, count)


@lru_cache(maxsize=50_000)
def listed(text: str) -> tuple[str, ...]:
    """The hosts of `n[1-3,07],gpu1`, in their order; at most MOST_HOSTS."""
    if text in ("", "(null)", "None"):
        return ()
    names: list[str] = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text):
        names += _expanded(part)
        if len(names) > MOST_HOSTS:
            return tuple(names[:MOST_HOSTS])
    return tuple(names)


def _expanded(text: str) -> list[str]:
    found = re.match(r"([^\[]*)\[([^\]]*)\](.*)$", text, re.DOTALL)
    if not found:
        return [text]
    tails = _expanded(found[3])
    names: list[str] = []
    for part in found[2].split(","):
        first, dash, last = part.partition("-")
        numbers = [part]
        if dash and first.isdecimal() and last.isdecimal() and int(last) - int(first) < MOST_HOSTS:
            numbers = [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)]
        names += [found[1] + number + tail for number in numbers for tail in tails][: MOST_HOSTS - len(names)]
    return names
