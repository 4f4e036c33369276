"""What `kiosk vm drain` does: tells each guest, says how far they are, and waits where that is asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kiosk.cli.common import emit, say
from kiosk.cli.vm_common import facts
from kiosk.cloud import ready
from kiosk.cloud.api import VmState
from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.errors import GuestError, KioskError
from kiosk.progress import bar


@dataclass(frozen=True)
class Order:
    """VMs to drain by id or name (none: all that are ready), why, and how many seconds to wait for their end."""

    cloud: QemuCloud
    vms: tuple[str, ...]
    reason: str
    wait: int | None


def run(order: Order, *, json: bool, dry_run: bool) -> None:
    """Drains them. One that can't be told does not keep the others from it; GuestError at the end."""
    found = [order.cloud.find(one) for one in order.vms] if order.vms else order.cloud.list_vms()
    chosen = [s for s in found if order.vms or s.phase in ("ready", "draining")]
    if dry_run:
        _show(chosen, "would drain", json=json)
        return
    faults = _tell(order, chosen)
    told = [s for s in chosen if s.id not in faults]
    if order.wait is not None and told:
        _wait(order, told, json=json)
    elif not json:
        _show(told, "told to drain:", json=False)
    if json:
        ids = {s.id for s in chosen}
        emit([{**facts(s), "error": faults.get(s.id)} for s in order.cloud.list_vms() if s.id in ids])
    if faults:
        raise GuestError(f"{len(faults)} of {len(chosen)} VMs do not drain: {'; '.join(faults.values())}")


def _tell(order: Order, chosen: list[VmState]) -> dict[str, str]:
    """Tells them side by side, and returns what went wrong by id."""
    faults: dict[str, str] = {}
    with bar("telling", len(chosen), unit="VM") as progress, ThreadPoolExecutor(max_workers=8) as pool:
        for state, done in [(s, pool.submit(order.cloud.drain, s.id, order.reason)) for s in chosen]:
            try:
                done.result()
            except KioskError as e:
                faults[state.id] = f"{state.name}: {e.what}"
            progress.update()
    return faults


def _wait(order: Order, told: list[VmState], *, json: bool) -> None:
    """Waits for their end, with a bar of VMs and the number of jobs that are known."""
    assert order.wait is not None
    with bar("draining", len(told), unit="VM") as progress:

        def seen(left: list[VmState]) -> None:
            progress.update(len(told) - len(left) - progress.n)
            progress.set_postfix_str(f"{sum(s.jobs or 0 for s in left)} jobs left")

        ids = [s.id for s in told]
        ended = ready.gone(order.cloud.list_vms, ids, timeout=order.wait, on_look=seen)
    if not json:
        for state in ended:
            say(f"{state.id} {state.name} {state.phase}: {state.reason or order.reason}")


def _show(states: list[VmState], words: str, *, json: bool) -> None:
    if json:
        emit([facts(state) for state in states])
        return
    for state in states:
        say(f"{words} {state.id} {state.name} ({state.phase})")
