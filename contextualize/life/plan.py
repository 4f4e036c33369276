"""What a machine's later life needs to know of its context and of what was verified; written once, by `attest`.

It holds no secret, but is for root only: it says where a drain can be asked for.
"""

from __future__ import annotations

import json
from typing import Dict, NamedTuple, Optional, Tuple

from contextualize.context import MOUNT, UUID, Repository, repository
from contextualize.document import LAYER_NAME, NAME, VERSION, LayerName, read
from contextualize.machine import PRIVATE, Machine
from contextualize.manifest import USER_NAME

PLAN = f"{PRIVATE}/plan.json"
SCHEMA = "kiosk.plan/1"
YEARS = 10 * 366 * 86400


class Plan(NamedTuple):
    """`drains` is the uptime at which the machine begins to drain by its age, `patience` the most seconds that a
    drain waits for jobs; `users` are the accounts that experiments' health checks run as, by layer."""

    node_id: str
    image: str
    version: str
    layers: Tuple[Tuple[LayerName, str], ...]
    source: str
    drains: int
    patience: int
    repository: Optional[Repository] = None
    scratch: Optional[str] = None
    users: Optional[Dict[str, str]] = None

    @property
    def stops(self) -> int:
        """The uptime at which the machine stops at the latest."""
        return self.drains + self.patience


def write(machine: Machine, plan: Plan) -> None:
    """Keeps the plan for this boot."""
    kept = {
        "schema": SCHEMA,
        "node": plan.node_id,
        "image": {"name": plan.image, "version": plan.version},
        "layers": [{"name": str(name), "version": version} for name, version in plan.layers],
        "source": plan.source,
        "drains": plan.drains,
        "patience": plan.patience,
        "users": plan.users or {},
    }
    if plan.repository is not None:
        proxy = {"proxy": plan.repository.proxy} if plan.repository.proxy else {}
        kept["repository"] = {"url": plan.repository.url, **proxy}
    if plan.scratch is not None:
        kept["scratch"] = plan.scratch
    machine.replace(PLAN, json.dumps(kept).encode(), 0o600)


def load(machine: Machine) -> Plan:
    """The plan of this boot; Refused where there is none."""
    f = read(machine.read(PLAN), PLAN)
    f.schema(SCHEMA)
    image = f.fields("image")
    layers = [(LayerName.parse(item["name"]), str(item["version"])) for item in f.items("layers", 16)]
    return Plan(
        node_id=f.text("node", UUID),
        image=image.text("name", NAME),
        version=image.text("version", VERSION),
        layers=tuple(layers),
        source=f.text("source", r"[^\x00-\x1f]{1,300}"),
        drains=f.integer("drains", 0, YEARS),
        patience=f.integer("patience", 0, YEARS),
        repository=repository(f.fields("repository")) if f.has("repository") else None,
        scratch=f.text("scratch", MOUNT) if f.has("scratch") else None,
        users=f.pairs("users", LAYER_NAME, USER_NAME, 16),
    )
