"""Tells the hypervisor and the console how the boot goes: one JSON line and one line of text an event.

A report that can't be delivered never stops a good boot, and never keeps a failed one from ending: writing
is bounded in time, and a missing channel is passed over.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import sys
import termios
import time
from typing import Any, Mapping, Optional

from contextualize.machine import Machine

PORT = "/dev/virtio-ports/org.kiosk.report"
CONSOLE = "/dev/console"
SCHEMA = "kiosk.report/1"


class Reporter:
    """Both channels. `patience` is the most seconds that one report may take on each of them."""

    def __init__(self, machine: Machine, patience: float = 5.0) -> None:
        self._machine = machine
        self._patience = patience

    def booting(self, stage: str) -> None:
        """A stage begins."""
        self._send({"state": "booting", "stage": stage}, f"booting: {stage}")

    def ready(self, attestation: Mapping[str, Any]) -> None:
        """Everything holds."""
        image = attestation["image"]
        layers = "".join(f" + {layer['name']}@{layer['version']}" for layer in attestation["layers"])
        words = f"ready: {image['name']}@{image['version']}{layers} after {attestation['boot_seconds']} s"
        self._send({"state": "ready", "attestation": attestation}, words)

    def failed(self, stage: str, reason: str) -> None:
        """A stage refused; the machine is about to stop."""
        reason = plain(reason)
        self._send({"state": "failed", "stage": stage, "reason": reason}, f"failed in {stage}: {reason}")

    def draining(self, reason: str, jobs: Optional[int]) -> None:
        """The machine takes no new jobs, and stops when those that run here (None: nobody knows) have ended."""
        reason = plain(reason)
        known = {} if jobs is None else {"jobs": jobs}
        words = f"draining: {reason}" if jobs is None else f"draining, {jobs} jobs left: {reason}"
        self._send({"state": "draining", "reason": reason, **known}, words)

    def stopping(self, reason: str) -> None:
        """The machine is about to stop in good order."""
        self._send({"state": "stopping", "reason": plain(reason)}, f"stopping: {plain(reason)}")

    def _send(self, report: Mapping[str, Any], words: str) -> None:
        line = json.dumps({"schema": SCHEMA, **report}, separators=(",", ":"))
        self._write(PORT, line.encode() + b"\n")
        self._write(CONSOLE, f"kiosk: {words}\r\n".encode("ascii", "replace"))

    def _write(self, path: str, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            fd = os.open(self._machine.path(path), flags)
        except OSError:
            return
        end = time.monotonic() + self._patience
        try:
            with contextlib.suppress(OSError):
                self._write_all(fd, data, end)
                if os.isatty(fd):
                    self._sent(fd, end)
        finally:
            os.close(fd)

    def _sent(self, fd: int, end: float) -> None:
        """Waits until a terminal has sent what it holds; one that somebody has halted never would."""
        while int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder):
            if time.monotonic() >= end:
                return
            time.sleep(0.01)
        termios.tcdrain(fd)

    def _write_all(self, fd: int, data: bytes, end: float) -> None:
        while data and time.monotonic() < end:
            try:
                data = data[os.write(fd, data) :]
            except BlockingIOError:
                select.select([], [fd], [], max(0.0, end - time.monotonic()))


def plain(text: str, limit: Optional[int] = 500) -> str:
    """One bounded line without control characters: parts of a reason can come from a hostile document."""
    return "".join(c if c.isprintable() else " " for c in text)[:limit]
