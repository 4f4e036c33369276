"""Slurm's nodes and partitions, from `sinfo --json` (22.05) or `scontrol show nodes --json` (23.02 and later).

A node is kiosk's to open where the reason of its drain begins with kiosk's mark.
"""

from __future__ import annotations

import re
from typing import Any

from kiosk.batch.api import Host, HostStatus, Queue
from kiosk.batch.ask import Answer, plain
from kiosk.batch.slurm.jobs import constraint, document
from kiosk.batch.slurm.values import number, tres, unread

MARK = "kiosk:"
AWAY = frozenset({
    "DOWN", "NOT_RESPONDING", "NO_RESPOND", "UNKNOWN", "FUTURE", "POWERED_DOWN", "POWERING_DOWN", "POWERING_UP",
    "ERROR", "REBOOT_ISSUED", "INVAL", "INVALID_REG",
})  # fmt: skip
CLOSED = frozenset(
    {"DRAIN", "DRAINED", "DRAINING", "FAIL", "FAILING", "MAINTENANCE", "MAINT", "RESERVED", "PLANNED_DRAIN"}
)


def nodes(answer: Answer, jobs: dict[str, int]) -> tuple[Host, ...]:
    """All nodes. BatchError for what is no list of nodes."""
    found = []
    for node in document(answer, "nodes"):
        name, states = str(node.get("name") or ""), _states(node)
        slots = number(node.get("cpus"))
        if not name or not states or slots is None:
            raise unread(answer, f"has a node without name, state or CPUs: {plain(str(node))}")
        found.append(_host(name, states, slots, node, jobs.get(name, 0)))
    return tuple(found)


def _states(node: dict[str, Any]) -> frozenset[str]:
    words = [*_list(node.get("state")), *_list(node.get("state_flags"))]
    return frozenset(str(word).upper() for word in words)


def _list(value: Any) -> list[Any]:
    """A value that may be one, several, or none."""
    return value if isinstance(value, list) else [value] if value else []


def _host(name: str, states: frozenset[str], slots: int, node: dict[str, Any], jobs: int) -> Host:
    reason = str(node.get("reason") or "")
    closed = bool(states & CLOSED)
    status: HostStatus = "unavailable" if states & AWAY else "closed" if closed else "open"
    mine = closed and reason.startswith(MARK)
    features = _list(node.get("active_features")) or _list(node.get("features"))
    tags, values = constraint(",".join(map(str, features)))
    used = number(node.get("alloc_cpus"))
    if used is None:
        used = number(tres(str(node.get("tres_used") or "")).get("cpu")) or 0
    memory = number(node.get("real_memory"))
    return Host(
        name, status, slots, used, jobs, memory, tags, values, mine, closed and not mine,
        plain(reason) if status != "open" else "",
    )  # fmt: skip


def partitions(answer: Answer) -> tuple[Queue, ...]:
    """The partitions, from `scontrol --oneliner show partitions`. One is open while its jobs are started. Slurm sorts
    by PriorityTier first, then PriorityJobFactor."""
    if answer.status != 0:
        raise unread(answer, "failed")
    found = []
    for line in answer.text.split("\n"):
        if not line.strip() or line.startswith("No partitions"):
            continue
        row = dict(re.findall(r"(?:^| )([A-Za-z]+)=(\S*)", line))
        tier, factor = number(row.get("PriorityTier")), number(row.get("PriorityJobFactor"))
        if not row.get("PartitionName") or "State" not in row or tier is None:
            raise unread(answer, f"printed half of a partition: {plain(line)!r}")
        is_open = row["State"] in ("UP", "DRAIN")
        found.append(Queue(row["PartitionName"], tier * 65536 + (factor or 0), is_open))
    if not found:
        raise unread(answer, "printed no partition")
    return tuple(found)
