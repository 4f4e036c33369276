"""systemd's part in starting units that a program writes: start, stop, is-active, and the journal.

Reads the very unit files (quoting, Environment, User, Restart, Type=simple and oneshot), as far as the
contextualization writes them; anything else in one is a fault.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.simulators.namespaces import signal_child

KNOWN = {
    "Description", "DefaultDependencies", "Before", "Conflicts", "StartLimitIntervalSec", "Type", "User", "Group",
    "Restart", "RestartSec",
    "TimeoutStopSec", "Delegate", "KillMode", "LimitNOFILE", "LimitMEMLOCK", "LimitSTACK", "TasksMax",
    "Environment", "ExecStart", "RemainAfterExit",
}  # fmt: skip


class Units:
    """The units of a machine in a folder; `inside` makes the command that runs another one on that machine."""

    def __init__(self, root: Path, inside: Callable[[Sequence[str]], list[str]] = list) -> None:
        self._folder = root / "run/systemd/system"
        self._journal = root / "journal"
        self._inside = inside
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.started: list[str] = []

    def read(self, unit: str) -> dict[str, list[str]]:
        """The keys of a unit."""
        found: dict[str, list[str]] = {}
        for line in (self._folder / unit).read_text().splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                assert key in KNOWN, f"{unit}: {line}"
                found.setdefault(key, []).append(value.replace("%%", "%"))
        return found

    def start(self, unit: str) -> None:
        """Starts a unit's program; nothing of the machine's own environment reaches it."""
        found = self.read(unit)
        self.started.append(unit)
        argv = [word.replace("$$", "$") for word in shlex.split(found["ExecStart"][0])]
        environment = dict(shlex.split(value)[0].split("=", 1) for value in found.get("Environment", ()))
        environment["KIOSK_UNIT"] = self._mark(unit)
        environment["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
        if "User" in found:
            argv = ["runuser", "-u", found["User"][0], "--", *argv]
        self._journal.mkdir(exist_ok=True)
        with (self._journal / unit).open("ab") as log:
            self._running[unit] = subprocess.Popen(
                self._inside(argv), env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if found["Type"] == ["oneshot"]:
            assert self._running[unit].wait(10) == 0, self.said(unit)

    def active(self, unit: str) -> str:
        """`active`, or what else a unit is; one that is to be started again is, after it was said so."""
        process = self._running.get(unit)
        if process is None:
            return "inactive"
        found = self.read(unit)
        if found["Type"] == ["oneshot"] or process.poll() is None:
            return "active"
        if found.get("Restart") == ["on-failure"] and process.returncode != 0:
            self.start(unit)
            return "activating"
        return "failed" if process.returncode else "inactive"

    def stop(self, unit: str) -> None:
        """Ends a unit's main process; of a oneshot, all that it left in the background."""
        process = self._running.pop(unit, None)
        if process is None:
            return
        if self.read(unit)["Type"] == ["oneshot"]:
            for pid in self.left(unit):
                os.kill(pid, signal.SIGTERM)
            while self.left(unit):
                time.sleep(0.005)
        if process.poll() is None:
            signal_child(process, signal.SIGTERM)
            process.wait(20)

    def _mark(self, unit: str) -> str:
        return f"{self._folder}/{unit}"

    def left(self, unit: str) -> list[int]:
        """Processes that a unit has started, as its control group would show them."""
        mark, found = f"KIOSK_UNIT={self._mark(unit)}".encode(), []
        for process in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in process.read_bytes().split(b"\0"):
                    found.append(int(process.parent.name))
        return found

    def said(self, unit: str) -> str:
        """What a unit wrote."""
        path = self._journal / unit
        return path.read_text() if path.exists() else ""

    def alive(self) -> list[str]:
        """Units that run."""
        return [unit for unit in self._running if self.active(unit) == "active"]

    def tell(self, unit: str) -> None:
        """A daemon is sent SIGTERM, its unit not stopped."""
        process = self._running.get(unit)
        if process is not None and process.poll() is None:
            signal_child(process, signal.SIGTERM)

    def kill(self, unit: str) -> None:
        """A daemon dies."""
        process = self._running[unit]
        signal_child(process, signal.SIGKILL)
        process.wait(10)


def owner(path: Path) -> str:
    """Who a file belongs to, and its mode."""
    return f"{path.owner()} {path.stat().st_mode & 0o777:04o}"
