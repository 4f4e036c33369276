"""Stage `attest`: writes down, for jobs and people, what this machine is and how that was verified.

/run/kiosk/attestation.json can be read by everybody and changed by root only. It says nothing that was
not verified in this boot, and holds no secret. When the machine drains and stops is in it as planned;
/run/kiosk/life.json says what is true now. From here on the machine's life is timed: at its age it drains,
and some minutes after the last moment of that drain it stops, whatever became of it.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any, Dict, Mapping, Sequence

from contextualize import features
from contextualize.document import stamp
from contextualize.life import plan as plans
from contextualize.life import state
from contextualize.life.plan import Plan
from contextualize.machine import Machine
from contextualize.stages import hooks
from contextualize.stages.apply import UNITS
from contextualize.stages.context import Found
from contextualize.stages.verify import Verified

ATTESTATION = "/run/kiosk/attestation.json"
SCHEMA = "kiosk.attestation/1"
TIMERS = ("kiosk-drain.timer", "kiosk-stop.timer")
"""What times the machine's life, to be started once the attestation is written."""
TIMER = """[Unit]
Description=kiosk: the end of this machine's life
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target

[Timer]
OnActiveSec={seconds}
AccuracySec=1s
"""
SLACK = 300
"""Seconds that a drain has, after its last moment, to leave the farm."""


def run(
    machine: Machine,
    found: Found,
    verified: Verified,
    seconds: Mapping[str, float],
    switched_on: Sequence[str] = (),
) -> Dict[str, Any]:
    """Writes the attestation and returns it. `switched_on` is what the context used of what a site layer allows."""
    context, now = found.context, machine.now()
    plan = _plan(found, verified)
    farm = context.farm
    attestation = {
        "schema": SCHEMA,
        "node": {"id": context.node_id, "name": context.node_name},
        "image": {
            "name": context.image,
            "version": context.version,
            "root_hash": verified.root_hash,
            "checked": "verity",
            "role": verified.image.role,
            "keys": list(verified.image.keys),
        },
        "layers": [
            {
                "name": str(layer.use.name),
                "version": layer.use.version,
                "prefix": layer.use.name.prefix,
                "digest": layer.manifest.digest,
                "size": layer.manifest.size,
                "checked": layer.checked,
                "role": layer.signed.role,
                "keys": list(layer.signed.keys),
            }
            for layer in verified.layers
        ],
        "context": {
            "source": found.source,
            "digest": found.digest,
            "scripts": found.beside if hooks.wanted(context) else {},
        },
        "verified": {
            "signatures": True,
            "root_hash": True,
            "layers": True,
            "root_version": verified.root_version,
            "metadata_expires": verified.expires,
        },
        "floors": verified.floors,
        "switched_on": list(dict.fromkeys(switched_on)),
        "farm": {"kind": farm.kind, "name": farm.name} if farm else None,
        "scratch": context.scratch.mount if context.scratch else None,
        "ready": stamp(now),
        "drains": stamp(now + timedelta(seconds=plan.drains - machine.uptime())),
        "stops": stamp(now + timedelta(seconds=plan.stops - machine.uptime())),
        "boot_seconds": round(machine.uptime(), 2),
        "stage_seconds": {stage: round(took, 3) for stage, took in seconds.items()},
    }
    plans.write(machine, plan)
    features.machine_features(machine, plan.patience)
    state.publish(machine, plan)
    machine.replace(ATTESTATION, (json.dumps(attestation, indent=2) + "\n").encode())
    _timer(machine, TIMERS[0], plan.drains)
    _timer(machine, TIMERS[1], plan.stops + SLACK)
    return attestation


def _plan(found: Found, verified: Verified) -> Plan:
    """What the machine's later life goes by."""
    context = found.context
    users = {
        str(layer.use.name): layer.manifest.declares.users[0].name
        for layer in verified.layers
        if layer.use.name.kind == "experiment" and layer.manifest.declares.users
    }
    return Plan(
        node_id=context.node_id,
        image=context.image,
        version=context.version,
        layers=tuple((layer.use.name, layer.use.version) for layer in verified.layers),
        source=found.source,
        drains=context.life.drains(context.node_id),
        patience=context.life.drain,
        repository=context.repository,
        scratch=context.scratch.mount if context.scratch else None,
        users=users,
    )


def _timer(machine: Machine, name: str, uptime: int) -> None:
    """Writes a timer that starts the service of its name at an uptime; it is started with the layers' services, as
    each call of systemctl takes a noticeable part of a boot."""
    left = max(1, round(uptime - machine.uptime()))
    machine.replace(f"{UNITS}/{name}", TIMER.format(seconds=left).encode())
