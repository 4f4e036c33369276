"""Daemons of a farm as systemd units, written to /run when the machine joins.

The units have no default dependencies and are ordered after nothing: they are started from within the boot,
which everything else of the machine may be waiting for. Words of a command mean themselves to systemd.
"""

from __future__ import annotations

from string import Template
from typing import Mapping, NamedTuple, Tuple

from contextualize.errors import Refused
from contextualize.farm.driver import Seat, template

UNITS = "/run/systemd/system"
ANSWERS = 20.0
"""Seconds that a daemon has, once started, until it answers."""
ENDS = 10.0
"""Seconds that a daemon has to end while the machine is shut down."""


class Service(NamedTuple):
    """A daemon: `kind` is systemd's Type, `lines` more lines of its [Service] section, and `answers` a program
    that succeeds as soon as the daemon does its work (empty: not asked). `process` is what a daemon that goes to
    the background is called there: systemd does not know whether it lives (empty: systemd knows)."""

    name: str
    what: str
    argv: Tuple[str, ...]
    environment: Tuple[Tuple[str, str], ...] = ()
    kind: str = "simple"
    lines: Tuple[str, ...] = ()
    answers: Tuple[str, ...] = ()
    process: str = ""

    @property
    def unit(self) -> str:
        """The name of its unit."""
        return f"kiosk-farm-{self.name}.service"

    def text(self, farm: str) -> str:
        """The unit."""
        lines = [*self.lines, *(f"Environment={quoted(f'{k}={v}')}" for k, v in self.environment)]
        return Template(template("service.service")).substitute(
            farm=farm,
            what=self.what,
            kind=self.kind,
            lines="".join(f"{line}\n" for line in lines),
            command=" ".join(quoted(word).replace("$", "$$") for word in self.argv),
        )


def quoted(word: str) -> str:
    """A word as systemd reads it back."""
    if any(ord(c) < 32 for c in word):
        raise Refused(f"{word!r:.80} can't stand in a unit")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def start(seat: Seat, service: Service, environment: Mapping[str, str]) -> None:
    """Starts a daemon and waits until it answers; Refused with what it last said when it doesn't."""
    seat.machine.replace(f"{UNITS}/{service.unit}", service.text(seat.farm).encode())
    try:
        seat.machine.systemctl("start", service.unit)
    except Refused:  # a systemd before 244 does not see new units by itself; asking it costs time
        seat.machine.systemctl("daemon-reload")
        seat.machine.systemctl("start", service.unit)
    end = seat.machine.clock() + ANSWERS
    while service.answers:
        answer = seat.machine.ask(service.answers, 10, environment)
        if answer.status == 0:
            return
        if not running(seat, service) or seat.machine.clock() >= end:
            raise Refused(f"{service.what} does not answer ({answer.said}): {said(seat, service)}")
        seat.machine.sleep(0.1)


def stop(seat: Seat, service: Service) -> None:
    """Stops a daemon, started or not, and takes its unit away. While the machine is shut down, systemd would stop
    the unit after the one in which we run: there the daemon itself is told, and its unit stays."""
    if seat.ends:
        _end(seat, service)
    elif seat.machine.exists(f"{UNITS}/{service.unit}"):
        seat.machine.systemctl("stop", service.unit)
        seat.machine.ask(["systemctl", "reset-failed", service.unit])
        seat.machine.path(f"{UNITS}/{service.unit}").unlink()


def _end(seat: Seat, service: Service) -> None:
    """Ends a daemon without any job of systemd's, as its unit's KillMode would have it."""
    alone = bool({"KillMode=process", "KillMode=mixed"}.intersection(service.lines))
    seat.machine.ask(["systemctl", "kill", *(["--kill-who=main"] if alone else []), service.unit])
    end = seat.machine.clock() + ENDS
    while service.kind != "oneshot" and running(seat, service) and seat.machine.clock() < end:
        seat.machine.sleep(0.2)


def running(seat: Seat, service: Service) -> bool:
    """Whether a daemon runs; one that ended and will be started again does not. What a job calls itself does not
    count: a daemon in the background is a child of init."""
    active = seat.machine.ask(["systemctl", "is-active", service.unit]).out == "active"
    if not active or not service.process:
        return active
    return seat.machine.processes(service.process, parent=1) > 0


def said(seat: Seat, service: Service, lines: int = 12) -> str:
    """The last lines that a daemon wrote, in one line; those of systemd about it where it wrote none."""
    argv = ["journalctl", "-q", "-n", str(lines), "-o", "cat", "--no-pager"]
    for words in ([f"_SYSTEMD_UNIT={service.unit}"], ["-u", service.unit]):
        found = " | ".join(seat.machine.ask([*argv, *words]).out.splitlines())[-1000:]
        if found:
            return found
    return "it said nothing"
