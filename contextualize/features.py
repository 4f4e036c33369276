"""The machine's features as batch jobs of the grid look for them (HSF-TN-2016-02): a folder of one-value files.

    total_cpu       processors                 jobslots   slots, where the site's layer says so
    shutdowntime    when the machine stops at the latest, in seconds since 1970; earlier once a drain has begun
    grace_secs      the seconds that a drain waits for jobs
    hs06            HS06 of the whole machine, where the site's layer says how many a processor has

Jobs make their own features in a small file system in memory that is theirs alone: a job that fills it takes nothing
from /run, where a drain keeps what it must remember.

A site says what only it knows by files that its layer declares: /etc/kiosk/hs06-per-cpu and /etc/kiosk/jobslots.
"""

from __future__ import annotations

import os
import re

from contextualize.errors import Refused
from contextualize.machine import Machine

FOLDER = "/run/kiosk/machinefeatures"
JOBS = "/run/kiosk/jobfeatures"
OPTIONS = "nosuid,nodev,noexec,size=64m,nr_inodes=32k,mode=1777"
HS06, JOBSLOTS = "/etc/kiosk/hs06-per-cpu", "/etc/kiosk/jobslots"


def machine_features(machine: Machine, grace: int) -> None:
    """Writes the features that stay the same, and makes the folder in which jobs have theirs; Refused where a value
    of the site's is no number."""
    cpus = os.cpu_count() or 1
    put(machine, "total_cpu", cpus)
    put(machine, "grace_secs", grace)
    if machine.exists(HS06):
        put(machine, "hs06", round(float(_number(machine, HS06, r"[0-9]{1,4}(?:\.[0-9]{1,3})?")) * cpus, 3))
    if machine.exists(JOBSLOTS):
        put(machine, "jobslots", int(_number(machine, JOBSLOTS, r"[0-9]{1,5}")))
    machine.folder(JOBS)
    machine.mount("kiosk-jobs", JOBS, "tmpfs", OPTIONS)


def shutdown_time(machine: Machine, at: int) -> None:
    """Says when the machine stops at the latest."""
    put(machine, "shutdowntime", at)


def put(machine: Machine, name: str, value: float) -> None:
    """Writes one value, in one piece."""
    machine.replace(f"{FOLDER}/{name}", f"{value}\n".encode())


def _number(machine: Machine, path: str, pattern: str) -> str:
    text = machine.read(path, 100).decode(errors="replace").strip()
    if not re.fullmatch(pattern, text):
        raise Refused(f"{path}: {text!r:.40} is not a number")
    return text
