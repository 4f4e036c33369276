"""How far a drain has come, kept after every step; and what everybody may see of it in /run/kiosk/life.json."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any, Dict, NamedTuple, Optional, Tuple

from contextualize import features
from contextualize.document import read, stamp
from contextualize.life.plan import YEARS, Plan
from contextualize.machine import PRIVATE, Machine

STATE, PUBLIC = f"{PRIVATE}/life.json", "/run/kiosk/life.json"
SCHEMA = "kiosk.life/1"
REASON = r"[^\x00-\x1f\x7f]{1,500}"


class State(NamedTuple):
    """A drain that has begun. `since` and `until` are uptimes in whole seconds; `asked` are the reasons of those who
    asked later; `step` is the one that comes next, and `note` says what of the jobs at the limit."""

    reason: str
    since: int
    until: int
    asked: Tuple[str, ...] = ()
    step: str = "close"
    note: str = ""

    def with_asked(self, reasons: Tuple[str, ...]) -> State:
        """The same, with later reasons remembered."""
        new = [r for r in dict.fromkeys(reasons) if r != self.reason and r not in self.asked]
        return self._replace(asked=(*self.asked, *new)[:50])


def load(machine: Machine) -> Optional[State]:
    """The drain of this boot, or None where none has begun."""
    if not machine.exists(STATE):
        return None
    f = read(machine.read(STATE), STATE)
    f.schema(SCHEMA)
    return State(
        f.text("reason", REASON),
        f.integer("since", 0, YEARS),
        f.integer("until", 0, YEARS),
        f.texts("asked", REASON, 50),
        f.text("step", "close|wait|leave|stop"),
        f.text("note", r"[^\x00-\x1f\x7f]{0,200}"),
    )


def save(machine: Machine, state: State) -> None:
    """Keeps the state."""
    machine.replace(STATE, json.dumps({"schema": SCHEMA, **state._asdict()}).encode(), 0o600)


def publish(machine: Machine, plan: Plan, state: Optional[State] = None, jobs: Optional[int] = None) -> None:
    """Tells everybody on the machine how it stands and when it stops at the latest: in life.json and, as the
    machine's shutdown time, in its features."""
    uptime, now = machine.uptime(), machine.now()
    stops = plan.stops if state is None else min(state.until, plan.stops)

    def at(moment: float) -> str:
        return stamp(now + timedelta(seconds=moment - uptime))

    said: Dict[str, Any] = {"schema": SCHEMA, "state": "ready", "stops": at(stops), "stops_uptime": stops}
    if state is not None:
        said.update(
            state="stopping" if state.step == "stop" else "draining",
            reason=state.reason,
            since=at(state.since),
            asked=list(state.asked),
            jobs=jobs,
        )
    machine.replace(PUBLIC, (json.dumps(said, indent=2) + "\n").encode())
    features.shutdown_time(machine, int(now.timestamp() + stops - uptime))
