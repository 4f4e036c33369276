"""Looks again at what can change while the machine lives, and asks for a drain where it must.

    the context's source    somebody asks for a drain (contextualize.life.asked)
    the signed repository   this image or a layer here is revoked: its floor is above the version that runs
    the health checks       they never end (contextualize.life.health)

Fail-static: what can't be reached, does not hold or is not understood changes nothing, and the journal says so.
A source that announces an end within minutes (EC2) is looked at all the time, the others once in each call.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

from contextualize.attested import parts
from contextualize.document import VERSION, read
from contextualize.errors import Refused
from contextualize.life import plan as plans
from contextualize.life import requests
from contextualize.life.asked import asked
from contextualize.life.health import stuck
from contextualize.life.plan import Plan
from contextualize.machine import PRIVATE, Machine

Look = Callable[[Machine, Plan], Optional[str]]
FLOOR = "kiosk.floor/1"
ROOT, TUF = "/usr/lib/kiosk/root.json", f"{PRIVATE}/tuf"
QUICK, SLOW = 20.0, 900.0
"""Seconds between two looks at a source that is in a hurry, and at everything else meanwhile."""


@dataclass(frozen=True)
class Item:
    """Something that runs here and can be revoked: what it is called, its folder of targets, its role."""

    name: str
    version: str
    folder: str
    role: str


Fetch = Callable[[str, str], Optional[bytes]]
"""A signed target by its path and role, None where nobody signs one; Refused when that can't be told."""


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
    from contextualize.trust import Trust

    machine.folder(TUF, 0o700)
    open_: Any = Trust
    trust = open_(machine.read(ROOT), None, plan.repository, machine.path(TUF))

    def fetch(path: str, role: str) -> Optional[bytes]:
        found = trust.optional(path, role)
        return None if found is None else bytes(found.data)

    return below_floor(items(plan), fetch)


def items(plan: Plan) -> List[Item]:
    """All that runs here and can be revoked."""
    image = Item(plan.image, plan.version, f"images/{plan.image}", "images")
    return [image, *(Item(str(n), version, f"layers/{n}", n.role) for n, version in plan.layers)]


def below_floor(running: Sequence[Item], fetch: Fetch) -> Optional[str]:
    """The first of these that is below its signed floor, and why that was set. One floor that can't be read does not
    keep the others from being looked at; Refused only when none of them says that something is revoked."""
    faults: List[Refused] = []
    for found in _floors(running, fetch, faults):
        return found
    if faults:
        raise faults[0]
    return None


def _floors(running: Sequence[Item], fetch: Fetch, faults: List[Refused]) -> Iterator[str]:
    for item in running:
        path = f"{item.folder}/floor.json"
        try:
            data = fetch(path, item.role)
            below, why = _floor(data, path, item.name) if data is not None else ("0", "")
        except Refused as e:
            faults.append(e)
            continue
        if parts(item.version) < parts(below):
            yield f"{item.name}@{item.version} is revoked, as all below {below}: {why}"


def _floor(data: bytes, path: str, name: str) -> Tuple[str, str]:
    """The version below which nothing of that name may run, and why."""
    f = read(data, path)
    f.schema(FLOOR)
    found = f.text("name", r".{1,200}")
    if found != name:
        raise Refused(f"{path}: is the floor of {found!r:.80}")
    return f.text("below", VERSION), f.text("reason", r"[^\x00-\x1f\x7f]{0,500}")
