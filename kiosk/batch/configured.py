"""The batch system that a configuration names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from kiosk.batch.api import BatchSystem
from kiosk.batch.ask import Commands
from kiosk.batch.lsf.driver import Lsf
from kiosk.batch.lsf.follow import EventLog, Followed
from kiosk.batch.lsf.log import Position
from kiosk.batch.slurm.driver import Slurm
from kiosk.batch.slurm.jobs import ENVIRONMENT
from kiosk.errors import UsageError


def batch_system(
    system: Literal["lsf", "slurm"],
    commands: Path | None = None,
    events: Path | None = None,
    timeout: float = 60.0,
    since: Position | None = None,
    asks: bool = False,
) -> BatchSystem:
    """The batch system: its commands in the folder `commands` (None: in PATH), each within `timeout` seconds. With
    `events`, the folder of LSF's event log, jobs are read from there, from `since` on where that is known; with `asks`
    hosts, queues and shares are asked for besides. Nothing is run yet. UsageError for what can't go together."""
    if system == "slurm":
        if events is not None:
            raise UsageError("[batch] `events` is LSF's event log: Slurm has none", hint="leave it out")
        return Slurm(Commands(commands, timeout, env=ENVIRONMENT))
    driver = Lsf(Commands(commands, timeout))
    return driver if events is None else Followed(EventLog(events, since), driver, asks)
