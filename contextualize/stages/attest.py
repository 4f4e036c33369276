"""Stage `attest`: writes down, for jobs and people, what this machine is and how that was verified.

/run/kiosk/attestation.json can be read by everybody and changed by root only. It says nothing that was
not verified in this boot, and holds no secret.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any, Dict, Mapping

from contextualize.context import Context
from contextualize.machine import Machine
from contextualize.stages.context import Found
from contextualize.stages.verify import Verified

ATTESTATION = "/run/kiosk/attestation.json"
SCHEMA = "kiosk.attestation/1"


def run(machine: Machine, found: Found, verified: Verified, seconds: Mapping[str, float]) -> Dict[str, Any]:
    """Writes the attestation and returns it."""
    context, now = found.context, machine.now()
    attestation = {
        "schema": SCHEMA,
        "node": {"id": context.node_id, "name": context.node_name},
        "image": {
            "name": context.image,
            "version": context.version,
            "root_hash": verified.root_hash,
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
        "context": {"source": found.source, "digest": found.digest},
        "verified": {
            "signatures": True,
            "root_hash": True,
            "layers": True,
            "root_version": verified.root_version,
            "metadata_expires": verified.expires,
        },
        "scratch": context.scratch.mount if context.scratch else None,
        "ready": stamp(now),
        "stops": stamp(stops(machine, context)),
        "boot_seconds": round(machine.uptime(), 2),
        "stage_seconds": {stage: round(took, 3) for stage, took in seconds.items()},
    }
    machine.replace(ATTESTATION, (json.dumps(attestation, indent=2) + "\n").encode())
    return attestation


def stops(machine: Machine, context: Context) -> datetime:
    """When the machine begins to drain: its age counts from the start of its kernel."""
    return machine.now() + timedelta(seconds=context.life.drains(context.node_id) - machine.uptime())


def stamp(time: datetime) -> str:
    """A time as ISO 8601 in UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
