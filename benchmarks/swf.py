"""Reads a workload in the Standard Workload Format, with its farm from FILE.machines where that is there."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from kiosk.batch.api import Requirements
from kiosk.model.flavour import Flavour
from kiosk.scheduler.model import NodeType
from kiosk.scheduler.simulate.workload import Task, Workload


def workload(path: Path, nodes: int | None = None, slots: int | None = None) -> Workload:
    """Jobs that ran, each on any hosts' cores; nodes of one type with the machines' number and slots."""
    begin, tasks = datetime(2002, 1, 1, tzinfo=timezone.utc), []
    for line in path.read_text().splitlines():
        if line.startswith("; UnixStartTime:"):
            begin = datetime.fromtimestamp(int(line.split(":")[1]), timezone.utc)
        fields = line.split()
        if not fields or fields[0].startswith(";") or float(fields[3]) < 0 or int(fields[4]) < 1:
            continue
        seconds = float(fields[3])
        limit = float(fields[8]) if float(fields[8]) > 0 else seconds
        cores = int(fields[4])
        r = Requirements(cores, one_host=cores == 1, run_limit=int(limit))
        tasks.append(Task(float(fields[1]), seconds, limit, "batch", f"user{fields[11]}", None, r))
    count, each = _machines(path.with_suffix(".machines"))
    count, each = nodes or count, slots or each
    tasks.sort(key=lambda task: task.submitted)
    flavour = Flavour(cores=each, memory=each, scratch=10)
    type = NodeType("node", "node-worker", (), flavour, each, each * 1024, 0, count)
    return Workload(path.stem, begin, tasks, {"node": type})


def _machines(path: Path) -> tuple[int, int]:
    """Nodes and slots of each: the third and fourth column of its first line."""
    if not path.exists():
        return 100, 1
    words = path.read_text().split()
    return int(words[2]), int(words[3])
