"""What the daemon knows: told to the kiosk in reports, and kept in HOST/agent.json for `kiosk agent status`."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE = "agent.json"
LARGEST = 1 << 20
MOST_FAILED = 50


@dataclass
class State:
    """Everything that a report says, and a little more. `held`, `fetching` and `failed` are as reports have them;
    `expires` is when the verified metadata expires (seconds of the epoch)."""

    host: str
    agent: str
    since: int = field(default_factory=lambda: int(time.time()))
    state: str = "idle"
    held: list[dict[str, Any]] = field(default_factory=list)
    fetching: dict[str, Any] | None = None
    failed: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    error: str | None = None
    free: int = 0
    http: int = 0
    swarm: int = 0
    uploaded: int = 0
    fanout: int = 0
    timestamp: int = 0
    expires: float = 0.0
    connected: bool = False
    reported: bool = False
    pid: int = 0

    def report(self) -> dict[str, Any]:
        """A report, without its host's number."""
        made: dict[str, Any] = {
            "schema": "kiosk.report/1",
            "agent": self.agent,
            "since": self.since,
            "state": self.state,
            "held": self.held,
            "origin_bytes": self.http,
            "swarm_bytes": self.swarm,
            "uploaded_bytes": self.uploaded,
            "free_bytes": self.free,
            "failed": self.failed,
        }
        if self.fetching is not None:
            made["fetching"] = self.fetching
        if self.error is not None:
            made["error"] = plain(self.error)
        return made

    def save(self, folder: Path) -> None:
        """Writes agent.json; a full disk only keeps the old one there."""
        data = json.dumps({"schema": "kiosk.agent/1", "written": int(time.time()), **vars(self)}) + "\n"
        new = folder / f".{FILE}.new"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            new.write_text(data)
            new.replace(folder / FILE)
        except OSError:
            return


def last_fanout(folder: Path) -> int:
    """The fan-out that an earlier daemon knew; 0 where it is not known."""
    found = read(folder).get("fanout", 0)
    return found if isinstance(found, int) and 0 <= found <= 1_000_000 else 0


def read(folder: Path) -> dict[str, Any]:
    """What agent.json says; empty where there is none, or it is damaged."""
    try:
        with (folder / FILE).open("rb") as f:
            found = json.loads(f.read(LARGEST))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def plain(text: str) -> str:
    """A message as a report may carry it: no control characters, 500 characters at the most."""
    return "".join(c if c >= " " and c != "\x7f" else " " for c in text)[:500]
