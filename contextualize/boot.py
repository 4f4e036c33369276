"""The stages in order, and what happens when one of them refuses: the machine specified, or no machine.

Ends with status 0 only when every stage has succeeded and the hypervisor was told so. With any other
status systemd never reaches kiosk-ready.target and powers the machine off (kiosk-contextualize.service).
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Dict, Iterator, List

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
from contextualize.stages.report import Reporter, plain


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


def boot(machine: Machine, reporter: Reporter) -> int:
    """Goes through the stages; 0 when the machine is ready, 1 when it must not live."""
    print(f"begins after {processor():.2f} s of processor time", flush=True)
    stage = Progress(reporter)
    try:
        _stages(machine, reporter, stage)
    except Refused as e:
        print(f"failed in {stage.stage}: {plain(e.reason, None)}", flush=True)
        _undo(machine, stage.stage)
        reporter.failed(stage.stage, e.reason)
        return 1
    except BaseException as e:  # a fault of this program, or a signal: told to the hypervisor, then as it was
        _undo(machine, stage.stage)
        reporter.failed(stage.stage, f"{type(e).__name__}: {e}")
        raise
    return 0


def _undo(machine: Machine, stage: str) -> None:
    """No job may start on, or believe in, a machine that is about to stop."""
    from contextualize.stages import join

    join.undo(machine, f"its boot failed in {stage}")
    machine.path(attest.ATTESTATION).unlink(missing_ok=True)


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
    with stage("layers"):
        layers.run(machine, verified.layers)
    with stage("apply"):
        services = apply.run(machine, verified.layers)
    if found.context.scratch:
        with stage("scratch"):
            scratch.run(machine, found.context.scratch)
    allowed = switches.allowed(verified.layers)
    switched_on: List[str] = []
    farm = found.context.farm
    if farm:
        with stage("farm"):
            farm, used = farms.settled(farm, verified.layers, allowed)
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
    if farm:
        from contextualize.stages import join  # most of a boot's imports; not every machine has a farm

        with stage("join"):
            join.run(machine, found.context, farm)
    if found.context.hooks.epilog is not None:
        with stage("hooks"):
            hooks.epilog(machine, found)
    stage.stage = "report"
    reporter.ready(attestation)
