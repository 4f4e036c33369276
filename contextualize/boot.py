"""The stages in order, and what happens when one of them refuses: the machine specified, or no machine.

Ends with status 0 only when every stage has succeeded and the hypervisor was told so. With any other
status systemd never reaches kiosk-ready.target and powers the machine off (kiosk-contextualize.service). SIGTERM
(the boot took too long, or the machine is shut down) ends the boot like a refusal; from a second one on it is passed
over, so that the farm is left in any case.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from types import FrameType
from typing import Dict, Iterator, List, Optional

from contextualize import farms, switches
from contextualize.errors import Refused
from contextualize.machine import Machine
from contextualize.stages import (
    access,
    apply,
    attest,
    context,
    hooks,
    identity,
    layers,
    network,
    scratch,
    verify,
)
from contextualize.stages.report import Reporter


class Progress:
    """Which stage is running, and how long those before it took."""

    def __init__(self, reporter: Reporter) -> None:
        self.stage = "start"
        self.seconds: Dict[str, float] = {}
        self._reporter = reporter

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self.stage = stage
        self._reporter.booting(stage)
        print(f"{stage} ...", flush=True)
        start, busy = time.monotonic(), processor()
        yield
        took = time.monotonic() - start
        self.seconds[stage] = self.seconds.get(stage, 0.0) + took
        print(f"{stage} took {took:.2f} s, and {processor() - busy:.2f} s of processor time", flush=True)


def processor() -> float:
    """Seconds of processor time that this process and its programs have had."""
    return sum(os.times()[:4])


class Told(BaseException):
    """SIGTERM came."""


@contextlib.contextmanager
def _told_to_stop() -> Iterator[None]:
    """Within it the first SIGTERM raises Told, wherever the boot is; programs that it runs get their own."""

    def first(_number: int, _frame: Optional[FrameType]) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)
        raise Told

    before = signal.signal(signal.SIGTERM, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def boot(machine: Machine, reporter: Reporter) -> int:
    """Goes through the stages; 0 when the machine is ready, 1 when it must not live."""
    print(f"begins after {processor():.2f} s of processor time", flush=True)
    stage = Progress(reporter)
    with _told_to_stop():
        try:
            _stages(machine, reporter, stage)
        except Refused as e:
            _end(machine, reporter, stage.stage, e.reason)
            return 1
        except Told:
            _end(machine, reporter, stage.stage, "was told to stop, or took too long (SIGTERM)")
            return 1
        except BaseException as e:  # a fault of this program: told to the hypervisor, then as it was
            _end(machine, reporter, stage.stage, f"{type(e).__name__}: {e}")
            raise
    return 0


def _end(machine: Machine, reporter: Reporter, stage: str, reason: str) -> None:
    """Says why, and then takes back what there is: no job may start on, or believe in, a machine that is about to
    stop. Nothing that goes wrong with the one keeps the other from being done."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    print(f"failed in {stage}: {reason}", flush=True)
    reporter.failed(stage, reason)
    with contextlib.suppress(OSError):
        machine.path(attest.ATTESTATION).unlink(missing_ok=True)
    try:
        from contextualize.stages import join

        join.undo(machine, f"its boot failed in {stage}")
    except BaseException as e:  # noqa: BLE001 - the reason of the boot's end is the one that counts
        print(f"could not leave the farm: {type(e).__name__}: {e}", flush=True)


def _stages(machine: Machine, reporter: Reporter, stage: Progress) -> None:
    with stage("context"):
        found = context.run(machine)
    with stage("identity"):
        identity.run(machine, found.context)
    with stage("network"):
        network.run(machine, found.context)
    with stage("verify"):
        verified = verify.run(machine, found.context, found.bundle)
        context.release(machine)
        network.start_clock(machine, found.context)
    with stage("layers"):
        layers.run(machine, verified.layers)
    with stage("apply"):
        services = apply.run(machine, verified.layers)
    if found.context.scratch:
        with stage("scratch"):
            scratch.run(machine, found.context.scratch)
    declared = [layer.declared for layer in verified.layers]
    allowed = switches.allowed(declared)
    switched_on: List[str] = []
    farm = found.context.farm
    if farm:
        with stage("farm"):
            farm, used = farms.settled(farm, declared, allowed)
            switched_on += used
    if found.context.root_keys:
        with stage("access"):
            switched_on += access.run(machine, found.context, allowed)
    if hooks.wanted(found.context):
        with stage("hooks"):
            switched_on += hooks.prolog(machine, found, allowed)
    with stage("attest"):
        attestation = attest.run(machine, found, verified, stage.seconds, switched_on)
        apply.start(machine, [*attest.TIMERS, *services])
    if found.context.hooks.epilog is not None:
        with stage("hooks"):
            hooks.epilog(machine, found)
    if farm:
        from contextualize.stages import join  # most of a boot's imports; not every machine has a farm

        with stage("join"):
            join.run(machine, found.context, farm)
    stage.stage = "report"
    reporter.ready(attestation)
