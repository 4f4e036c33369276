"""Looks again at what can change while the machine lives, and asks for a drain where it must.

    the context's source    somebody asks for a drain (contextualize.life.asked)
    the signed repository   this image or a layer here is revoked: its floor is above the version that runs
    the health checks       they never end (contextualize.life.health)

Fail-static: what can't be reached, does not hold or is not understood changes nothing, and the journal says so.
A source that announces an end within minutes (EC2) is looked at all the time, the others once in each call.
"""

from __future__ import annotations

import random
from typing import Callable, Optional, Sequence, Tuple

from contextualize.errors import Refused
from contextualize.floor import Repository, below_floor, floor_of
from contextualize.life import plan as plans
from contextualize.life import requests
from contextualize.life.asked import asked
from contextualize.life.health import stuck
from contextualize.life.plan import Plan
from contextualize.machine import Machine

Look = Callable[[Machine, Plan], Optional[str]]
QUICK, SLOW = 20.0, 900.0
"""Seconds between two looks at a source that is in a hurry, and at everything else meanwhile."""


def run(machine: Machine) -> int:
    """Looks until there is a reason to drain, or once where the source is in no hurry; 0 either way."""
    plan = plans.load(machine)
    looks: Sequence[Tuple[str, Look]] = (
        ("the context's source", lambda m, p: asked(m, p.source)),
        ("the signed repository", revoked),
        ("the health checks", lambda m, _: stuck(m)),
    )
    hurry = plan.source.startswith("ec2:")
    due = 0.0
    while True:
        whole = machine.uptime() >= due
        reason = look(machine, plan, looks if whole else looks[:1])
        if reason is not None:
            requests.ask(machine, reason)
            return 0
        if not hurry:
            return 0
        if whole:
            due = machine.uptime() + SLOW
        machine.sleep(QUICK * random.uniform(0.75, 1.25))  # noqa: S311


def look(machine: Machine, plan: Plan, looks: Sequence[Tuple[str, Look]]) -> Optional[str]:
    """The first reason to drain that one of these finds; one that can't tell is passed over."""
    for what, one in looks:
        try:
            reason = one(machine, plan)
        except (Refused, OSError) as e:
            print(f"{what}: nothing changes: {e}", flush=True)
            continue
        if reason is not None:
            print(f"{what}: {reason}", flush=True)
            return reason
    return None


def revoked(machine: Machine, plan: Plan) -> Optional[str]:
    """Why what runs here is revoked, by the repository that the context names; None where it is not."""
    if plan.repository is None:
        return None
    from contextualize.stages.verify import ROOT, TUF
    from contextualize.trust import Trust

    machine.folder(TUF, 0o700)
    return below(Trust(machine.read(ROOT), None, plan.repository, machine.path(TUF)), plan)


def below(repository: Repository, plan: Plan) -> Optional[str]:
    """Why the first of what runs here is below its signed floor. One floor that can't be read does not keep the
    others from being looked at; Refused only when none of them says that something is revoked."""
    fault: Optional[Refused] = None
    for name, version in [(plan.image, plan.version), *((str(name), v) for name, v in plan.layers)]:
        try:
            reason = below_floor(floor_of(repository, name), name, version)
        except Refused as e:
            fault = fault or e
            continue
        if reason is not None:
            return reason
    if fault:
        raise fault
    return None
