"""The work's process, as the daemon sees it: lines in and out, none of which ever blocks the daemon."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from typing import Any

MOST = 4 << 20
"""Bytes of a line, or that wait to be written, after which the work is taken for broken."""
BEAT = 20.0
"""Seconds between the work's signs of life."""
LONGEST_SILENCE = 120.0
STUCK = 900.0
"""Seconds without a word that tells of a step, after which the work hangs: signs of life come from a thread of their
own. What may rightly take longer says so before (`busy`)."""


class Child:
    """A run of `kiosk.agent.work`."""

    def __init__(self, job: dict[str, Any], selector: selectors.BaseSelector) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kiosk.agent.work"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        os.set_blocking(self._in.fileno(), False)
        os.set_blocking(self._out.fileno(), False)
        self._selector = selector
        self._read = b""
        self._unwritten = b""
        self._open = True
        self.heard_at = self.stepped_at = time.monotonic()
        self._within = 0.0
        selector.register(self._out, selectors.EVENT_READ, "work")
        self.tell(job)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tell(self, message: dict[str, Any]) -> None:
        """Writes a line, now or as soon as there is room."""
        self._unwritten += json.dumps(message).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Writes what can be written."""
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[os.write(self._in.fileno(), self._unwritten) :]
        except BlockingIOError:
            if len(self._unwritten) > MOST:
                self.kill()
        except OSError:
            self._unwritten = b""

    @property
    def waits_to_write(self) -> bool:
        """Whether something could not be written yet."""
        return bool(self._unwritten)

    def hear(self) -> list[dict[str, Any]]:
        """The messages that have come. After the last, `ended` is true."""
        try:
            data = os.read(self._out.fileno(), 1 << 18)
        except BlockingIOError:
            return []
        if not data:
            self._selector.unregister(self._out)
            self._open = False
            return []
        self.heard_at = time.monotonic()
        *lines, self._read = (self._read + data).split(b"\n")
        if len(self._read) > MOST:
            self.kill()
            self._read = b""
        messages = [json.loads(line) for line in lines if line]
        for message in messages:
            if message["say"] != "alive":
                self.stepped_at = self.heard_at
            if message["say"] == "busy":
                self._within = message["within"]
        return messages

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return not self._open

    def expect(self, seconds: float) -> None:
        """Nothing will happen for so long, and rightly so."""
        self.stepped_at = max(self.stepped_at, time.monotonic() + seconds)

    def hangs(self) -> str | None:
        """What speaks for its being ended: it gives no sign of life, or gets nowhere."""
        now = time.monotonic()
        if now - self.heard_at > LONGEST_SILENCE:
            return "gives no sign of life"
        if now - self.stepped_at > STUCK + self._within:
            return f"gets nowhere, for {(now - self.stepped_at) / 60:.0f} min"
        return None

    def stop(self) -> None:
        """Asks it to end; what it has is kept."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def wait(self, seconds: float) -> int:
        """Its exit code; it is killed when it takes longer."""
        for f in (self._in, self._out):
            if f is self._out and self._open:
                self._selector.unregister(f)
                self._open = False
            with contextlib.suppress(OSError):
                f.close()
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()
