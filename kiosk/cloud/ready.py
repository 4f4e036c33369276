"""Waiting until a VM is ready: every stage told as it begins, every way of not becoming ready an error.
And waiting until one that drains has stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from kiosk.cloud.api import VmState
from kiosk.errors import GuestError

PAUSE = 0.25
Seen = Callable[[list[VmState]], None]


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
        if state.phase in ("failed", "stopped", "stopping", "draining"):
            raise NotReady(state.reason or f"the VM is {state.phase}", stage=state.stage)
        if waited > timeout:
            raise NotReady(f"not ready after {timeout:.0f} s", stage=state.stage)
        time.sleep(PAUSE)


def gone(
    look: Callable[[], list[VmState]], ids: Sequence[str], *, timeout: float, on_look: Seen
) -> list[VmState]:
    """Waits until none of these VMs runs any more, and returns their last states; GuestError when some still run after
    `timeout` seconds: they go on draining. One that somebody removed meanwhile has stopped."""
    start = time.monotonic()
    last: dict[str, VmState] = {}
    while True:
        found = {state.id: state for state in look() if state.id in ids}
        last.update(found)
        left = [state for state in found.values() if state.phase not in ("stopped", "failed")]
        on_look(left)
        if not left:
            return list(last.values())
        if time.monotonic() - start > timeout:
            names = ", ".join(state.name for state in left[:5])
            raise GuestError(
                f"{len(left)} VMs have not stopped after {timeout:.0f} s, and go on draining: {names}",
                hint="See `kiosk vm list`.",
            )
        time.sleep(PAUSE)
