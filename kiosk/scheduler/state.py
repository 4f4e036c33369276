"""What the scheduler keeps beside its ledger and its history: what control remembers, and what its last tick decided,
for people and machines to read. Each file is replaced whole; one that can't be read is as if it were not there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kiosk import files
from kiosk.errors import CorruptError, NotFoundError
from kiosk.log import logger
from kiosk.model.base import plain
from kiosk.scheduler.control import Memory
from kiosk.scheduler.effects import subject
from kiosk.scheduler.execute import Result
from kiosk.scheduler.model import Node
from kiosk.scheduler.tick import Decision

log = logger(__name__)
SCHEMA = "kiosk.scheduler/1"
MOST = 200


@dataclass(frozen=True)
class Folder:
    """The scheduler's folder: `ledger.sqlite`, `history.sqlite`, `memory.json`, `status.json`, `metrics.prom`, and
    `workload.json` where jobs come from a file."""

    root: Path

    @property
    def ledger(self) -> Path:
        """What nodes there are."""
        return self.root / "ledger.sqlite"

    @property
    def history(self) -> Path:
        """What was asked for in the hours before."""
        return self.root / "history.sqlite"

    @property
    def workload(self) -> Path:
        """What became of a workload file's jobs."""
        return self.root / "workload.json"

    def memory(self) -> Memory:
        """What control remembers; nothing where the file is not there, or can't be read."""
        path = self.root / "memory.json"
        try:
            return Memory.load(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return Memory()
        except (ValueError, CorruptError) as e:
            log.warning("%s can't be read and begins anew: %s", path, e)
            return Memory()

    def remember(self, memory: Memory) -> None:
        """Keeps it."""
        files.write(self.root / "memory.json", json.dumps(memory.dump()).encode())

    def publish(self, status: Mapping[str, Any], metrics: str) -> None:
        """Replaces what is told of the last tick."""
        files.write(self.root / "status.json", json.dumps(status, indent=1).encode(), mode=0o644)
        files.write(self.root / "metrics.prom", metrics.encode(), mode=0o644)

    def status(self) -> dict[str, Any]:
        """What the last tick told. NotFoundError where there was none."""
        path = self.root / "status.json"
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise NotFoundError(
                "no scheduler has run here yet", where=str(path), hint="kiosk scheduler run --observe --once"
            ) from None
        except ValueError as e:
            raise CorruptError(f"can't be read: {e}", where=str(path)) from None
        if not isinstance(found, dict) or found.get("schema") != SCHEMA:
            raise CorruptError(f"is no {SCHEMA}", where=str(path))
        return found


def status(
    now: datetime, decision: Decision, results: Sequence[Result], nodes: Mapping[str, Node], faults: Sequence[str],
    took: float, queries: int, observes: bool,
) -> dict[str, Any]:  # fmt: skip
    """The last tick as a document."""
    targets = {t.type: t for t in decision.targets or ()}
    phases: dict[str, Counter[str]] = {}
    for node in nodes.values():
        phases.setdefault(node.type, Counter())[node.phase] += 1
    types = {}
    for name in sorted({*targets, *phases, *decision.needs}):
        need, supply = decision.needs.get(name), decision.supplies.get(name)
        types[name] = {
            "target": targets[name].nodes if name in targets else None,
            "because": list(targets[name].because) if name in targets else [],
            "nodes": dict(phases.get(name, {})),
            "needed": need.nodes if need else None,
            "pending": need.pending if need else None,
            "running": need.running if need else None,
            "oldest": need.oldest if need else None,
            "queues": dict(need.by_queue) if need else {},
            "busy": supply.busy if supply else None,
            "idle": supply.idle if supply else None,
            "coming": supply.coming if supply else None,
            "draining": supply.draining if supply else None,
            "real": supply.real if supply else None,
            "granted": decision.granted.get(name),
            "forecast": asdict(decision.forecasts[name]) if name in decision.forecasts else None,
        }
    found: dict[str, Any] = plain(
        {
            "schema": SCHEMA,
            "at": now.isoformat(),
            "observes": observes,
            "seconds": round(took, 3),
            "queries": queries,
            "faults": list(faults),
            "notes": list(decision.plan.notes)[:MOST],
            "types": types,
            "unserved": [asdict(one) for one in decision.unserved[:MOST]],
            "effects": [
                {
                    "what": type(r.effect).__name__.lower(),
                    "node": subject(r.effect),
                    "outcome": r.outcome,
                    "note": r.note,
                    "reason": getattr(r.effect, "reason", ""),
                }
                for r in results[:MOST]
            ],
        }
    )
    return found


def metrics(status: Mapping[str, Any], results: Sequence[Result]) -> str:
    """The last tick for Prometheus, in its text format (a file for node_exporter's textfile collector)."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()

    def gauge(name: str, help: str, values: Mapping[tuple[str, ...], float], labels: Sequence[str]) -> None:
        made = Gauge(f"kiosk_scheduler_{name}", help, labels, registry=registry)
        for key, value in values.items():
            (made.labels(*key) if labels else made).set(value)

    types = status["types"]
    at: dict[tuple[str, ...], float] = {(): datetime.fromisoformat(status["at"]).timestamp()}
    gauge("last_tick_timestamp_seconds", "When the last tick was.", at, ())
    gauge("tick_seconds", "How long it took.", {(): status["seconds"]}, ())
    gauge("queries", "Commands run to ask the batch system, in it.", {(): status["queries"]}, ())
    gauge("faults", "What could not be looked at or done, in it.", {(): len(status["faults"])}, ())
    for field in ("target", "needed", "pending", "running", "granted", "idle", "real"):
        values: dict[tuple[str, ...], float] = {
            (name,): t[field] for name, t in types.items() if t[field] is not None
        }
        gauge(field, f"Nodes: {field}.", values, ("type",))
    phases: dict[tuple[str, ...], float] = {
        (n, p): c for n, t in types.items() for p, c in t["nodes"].items()
    }
    gauge("nodes", "Nodes by type and phase.", phases, ("type", "phase"))
    gauge("unserved_jobs", "Jobs that no type serves.", {(): sum(u["jobs"] for u in status["unserved"])}, ())
    outcomes = Counter((type(r.effect).__name__.lower(), str(r.outcome)) for r in results)
    gauge(
        "effects",
        "Effects of the last tick.",
        {k: float(v) for k, v in outcomes.items()},
        ("what", "outcome"),
    )
    return generate_latest(registry).decode()
