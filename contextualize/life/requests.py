"""Asking for a drain: one file for each request, in the order in which they came, until the drain has read it.

A request is whole or not there, survives the death of whoever asked and of whoever drains, and has one plain line
of reason. Asking again changes nothing of a drain that has begun: the first reason stands, others are remembered.
"""

from __future__ import annotations

import time
from typing import List

from contextualize.errors import Refused
from contextualize.machine import PRIVATE, Machine
from contextualize.stages.report import plain

FOLDER = f"{PRIVATE}/drain"
SERVICE = "kiosk-drain.service"
MOST = 50
"""Requests that are kept: whoever asks more often has been heard."""


def ask(machine: Machine, reason: str) -> None:
    """Writes a request down and has the drain begin. Refused where that is not possible."""
    record(machine, reason)
    machine.systemctl("start", "--no-block", SERVICE)


def record(machine: Machine, reason: str) -> None:
    """Writes a request down."""
    said = plain(reason).strip() or "no reason given"
    machine.folder(FOLDER, 0o700)
    taken = _names(machine)
    if len(taken) < MOST and said not in reasons(machine):
        machine.replace(f"{FOLDER}/{time.monotonic_ns():020d}.request", said.encode(), 0o600)


def reasons(machine: Machine) -> List[str]:
    """The reasons so far, the first that came first."""
    found = []
    for name in _names(machine):
        try:
            found.append(plain(machine.read(f"{FOLDER}/{name}", 4096).decode(errors="replace")))
        except Refused:
            continue
    return found


def _names(machine: Machine) -> List[str]:
    if not machine.exists(FOLDER):
        return []
    return sorted(path.name for path in machine.path(FOLDER).glob("*.request"))
