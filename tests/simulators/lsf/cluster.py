"""The state of a simulated cluster: a JSON file that every program reads and writes under a lock.

Time is simulated: `now` is a number in the file that only the test moves. What a host is at a moment follows from
when its daemons started and stopped, and whether their processes live; so do the states in between.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LISTED, BATCH_OK, LOAD_OK = 2.0, 6.0, 16.0
"""Seconds after it was admitted (added, or in IBM's dialect its wait time over) until a host whose daemons run is
known to the master, ok in bhosts, and ok in lsload: in this order, as recorded."""
MISSED = 85.0
"""Seconds until a host that has died is unavail."""
FORGOTTEN = 35.0
"""Seconds until bhosts has forgotten a host that lsrmhost removed."""
DAEMONS = ("lim", "res", "sbatchd")


class State:
    """The cluster, as its programs see it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def __call__(self) -> Iterator[dict[str, Any]]:
        """The state, under a lock; what is changed is written."""
        with self.path.open("r+") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            state = json.load(f)
            yield state
            f.seek(0)
            f.truncate()
            json.dump(state, f)

    @classmethod
    def create(cls, path: Path, dialect: str, master: str = "lavam") -> State:
        """A cluster of one master with two slots."""
        own = {
            "admitted": 0.0,
            "started": dict.fromkeys(DAEMONS, 0.0),
            "pids": {},
            "closed": "",
            "slots": 2,
        }
        path.write_text(
            json.dumps(
                {
                    "dialect": dialect,
                    "name": "volclava",
                    "master": master,
                    "here": master,
                    "now": 1000.0,
                    "up": True,
                    "admits": dialect == "ibm",
                    "wait_time": 10.0,
                    "denied": [],
                    "hosts": {master: own},
                    "jobs": [],
                    "number": 0,
                }
            )
        )
        return cls(path)


def host(state: dict[str, Any], name: str) -> dict[str, Any]:
    """A host's entry, made when there is none. `admitted` is None until the master takes it."""
    entry: dict[str, Any] = state["hosts"].setdefault(
        name, {"admitted": None, "started": {}, "pids": {}, "closed": "", "slots": 2}
    )
    return entry


def alive(entry: dict[str, Any], daemon: str) -> bool:
    """Whether a daemon of a host runs; one without a process lives as long as the test leaves it."""
    if daemon not in entry["started"]:
        return False
    pid = entry["pids"].get(daemon)
    if pid is None:
        return True
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return False
    return words[0] not in "ZX"


def admission(state: dict[str, Any], name: str) -> float | None:
    """When the master took a host, or None: `lsaddhost` was run, or IBM's dynamic host waited long enough."""
    entry = state["hosts"].get(name)
    if entry is None or entry.get("removed") is not None:
        return None
    if entry["admitted"] is None and state["admits"] and alive(entry, "lim"):
        return float(entry["started"]["lim"] + state["wait_time"])
    return None if entry["admitted"] is None else float(entry["admitted"])


def known(state: dict[str, Any], name: str) -> bool:
    """Whether the master knows a host."""
    since = admission(state, name)
    return since is not None and state["now"] >= since


def load_status(state: dict[str, Any], name: str) -> str:
    """lsload's word for a host."""
    entry = state["hosts"][name]
    since = max(admission(state, name) or 0.0, entry["started"].get("lim", 1e12))
    if not alive(entry, "lim"):
        return (
            "unavail"
            if state["now"] - entry.setdefault("died", state["now"]) >= MISSED or since > 1e11
            else "ok"
        )
    if state["now"] < since + LOAD_OK:
        return "unavail"
    return "ok" if alive(entry, "res") else "-ok"


def batch_status(state: dict[str, Any], name: str, wide: bool) -> str:
    """bhosts' word for a host."""
    entry = state["hosts"][name]
    used = slots(state, name)
    since = max(admission(state, name) or 0.0, entry["started"].get("sbatchd", 1e12))
    if not alive(entry, "sbatchd"):
        if since > 1e11:
            return "unreach"
        if state["now"] - entry.setdefault("died", state["now"]) >= MISSED:
            return "unavail"
    elif state["now"] < since + BATCH_OK:
        return "unreach"
    if entry["closed"]:
        return "closed_Adm" if wide else "closed"
    return ("closed_Full" if wide else "closed") if used >= entry["slots"] else "ok"


def slots(state: dict[str, Any], name: str) -> int:
    """How many slots jobs have on a host."""
    return sum(job["hosts"].count(name) for job in state["jobs"])


def pid_of_this(name: str) -> int:
    """Starts what stays of a daemon in the background, and returns its process."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return int(Path(os.environ["KIOSK_DAEMON"]).read_text())
    os.setsid()
    child = os.fork()
    if child:
        Path(os.environ["KIOSK_DAEMON"]).write_text(str(child))
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    while True:
        os.read(os.pipe()[0], 1)
