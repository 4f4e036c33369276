"""The steps of `kiosk vm start`: start what was planned, wait until it is ready, explain where it is not."""

from __future__ import annotations

from pathlib import Path

from kiosk import files, progress
from kiosk.cloud import ready, untrusted
from kiosk.cloud.api import VmState
from kiosk.cloud.qemu import argv
from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.errors import GuestError
from kiosk.order import Plan, checked


def launch(
    driver: QemuCloud, metadata: Path, planned: Plan, timeout: float | None
) -> tuple[VmState, float | None]:
    """Starts the VM; with a timeout waits until it is ready and returns how long that took.

    A VM that does not come up is ended, also by Ctrl-C; its console and report are kept and named.
    """
    with files.scratch(driver.vms, prefix="bundle-") as bundle:
        state = driver.start(checked(driver.cache, metadata, planned, bundle))
    if timeout is None:
        return state, None
    log = driver.folder(state.id) / argv.CONSOLE_LOG
    try:
        took = wait(driver, state.id, log, timeout)
    except ready.NotReady as e:
        driver.give_up(state.id, stage=e.stage, reason=e.reason)
        raise GuestError(e.what, where=state.name, hint=explanation(state.id, log)) from None
    except KeyboardInterrupt:
        driver.stop(state.id, now=True)
        raise
    return driver.show(state.id), took


def wait(driver: QemuCloud, id: str, log: Path, timeout: float) -> float:
    """Waits with a bar that shows the stage, or the last line of the console before there is one."""
    with progress.bar("booting", int(timeout), unit=" s") as bar:

        def on_look(state: VmState, waited: float) -> None:
            bar.n = min(int(waited), int(timeout))
            if state.stage:
                bar.set_description_str(state.stage, refresh=False)
            elif not bar.disable:
                bar.set_postfix_str("".join(untrusted.last_lines(log, 1))[:40], refresh=False)
            bar.refresh()

        return ready.wait(lambda: driver.show(id), timeout=timeout, on_look=on_look)


def explanation(id: str, log: Path) -> str:
    """What the end of the console says, and where the rest is."""
    lines = [f"  | {line}" for line in untrusted.last_lines(log, 8)]
    shown = "\n".join(["The end of its console:", *lines]) if lines else "Its console is empty."
    return f"{shown}\n  All of it: {log}\n  `kiosk vm stop {id}` removes it."
