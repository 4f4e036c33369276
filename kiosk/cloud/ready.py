"""Waiting until a VM is ready: every stage told as it begins, every way of not becoming ready an error."""

from __future__ import annotations

import time
from collections.abc import Callable

from kiosk.cloud.api import VmState
from kiosk.errors import GuestError

PAUSE = 0.25


class NotReady(GuestError):
    """A VM that did not come up; `stage` is the last that was reached."""

    def __init__(self, reason: str, *, stage: str | None, hint: str | None = None) -> None:
        super().__init__(
            f"the VM failed in {stage}: {reason}" if stage else f"the VM failed: {reason}", hint=hint
        )
        self.stage = stage
        self.reason = reason


def wait(look: Callable[[], VmState], *, timeout: float, on_look: Callable[[VmState, float], None]) -> float:
    """Waits until the VM that `look` shows is ready, and returns the seconds that took; NotReady otherwise.
    A guest that reports nothing (an imported image's) is waited for until it runs."""
    start = time.monotonic()
    while True:
        state = look()
        waited = time.monotonic() - start
        on_look(state, waited)
        if state.phase in ("ready", "running"):
            return waited
        if state.phase in ("failed", "stopped", "stopping"):
            raise NotReady(state.reason or f"the VM is {state.phase}", stage=state.stage)
        if waited > timeout:
            raise NotReady(f"not ready after {timeout:.0f} s", stage=state.stage)
        time.sleep(PAUSE)
