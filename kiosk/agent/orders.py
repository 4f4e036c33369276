"""What the daemon and its work are started with: the configuration, read and checked by `kiosk agent`.

Light: nothing but the standard library, since the daemon imports it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

TOKEN_BYTES = 32
TOKEN = Path("/etc/kiosk/token")
API_SCHEMES = ("http://", "https://")


@dataclass(frozen=True)
class Orders:
    """The settings of one agent; docs/agent.md says what each key means. Rates are bytes a second, times
    seconds. `agent` is the version of kiosk, `argv` the command that makes these orders anew, for a reload."""

    host: str
    home: str
    url: str
    root: str | None = None
    proxy: str | None = None
    s3_endpoint: str | None = None
    s3_region: str | None = None
    ca: str | None = None
    api: str | None = None
    token_file: str | None = None
    images: tuple[str, ...] = ("*",)
    share: bool = True
    swarm: bool = True
    swarm_listen: tuple[str, ...] = ("0.0.0.0:0",)
    swarm_peers: tuple[str, ...] = ()
    swarm_near: tuple[str, ...] = ()
    swarm_upload: int = 0
    bandwidth: int = 0
    origin_rate: int = 125_000_000
    window: str | None = None
    poll: float = 300.0
    keep: int = 2
    keep_free: str = "5%"
    prestage: bool = True
    handover: tuple[dict[str, object], ...] = ()
    agent: str = ""
    argv: tuple[str, ...] = field(default=())

    @property
    def folder(self) -> Path:
        """The host's cache."""
        return Path(self.home) / "host"

    def to_json(self) -> str:
        """As one line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Orders:
        """Reads what `to_json` wrote."""
        found = json.loads(text)
        for key in ("images", "swarm_listen", "swarm_peers", "swarm_near", "handover", "argv"):
            found[key] = tuple(found[key])
        return cls(**found)

    def token(self) -> bytes | None:
        """The host's key, 32 bytes; None where there is none or it is not one (the agent does not report
        then)."""
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        places = [Path(self.token_file)] if self.token_file else []
        if folder:
            places.append(Path(folder) / "kiosk-token")
        places.append(TOKEN)
        for place in places:
            try:
                with place.open("rb") as f:
                    found = bytes.fromhex(f.read(200).decode("ascii").strip())
            except (OSError, ValueError):
                continue
            if len(found) == TOKEN_BYTES:
                return found
        return None


def in_window(window: str | None, now: datetime) -> bool:
    """Whether a local time is inside `HH:MM-HH:MM` (which may go past midnight); always, without a window."""
    if window is None:
        return True
    begin, end = (minutes(part) for part in window.split("-"))
    at = now.hour * 60 + now.minute
    return begin <= at < end if begin <= end else at >= begin or at < end


def until_edge(window: str, now: datetime) -> float:
    """Seconds until the window next opens or closes, by the clock on the wall, at least one."""
    at = now.hour * 3600 + now.minute * 60 + now.second
    edges = [(minutes(part) * 60 - at) % 86400 for part in window.split("-")]
    return float(max(1, min(e or 86400 for e in edges)))


def minutes(text: str) -> int:
    """HH:MM as minutes of the day; ValueError when it is not one."""
    hour, _, minute = text.partition(":")
    if len(hour) != 2 or len(minute) != 2 or not (hour + minute).isascii() or not (hour + minute).isdecimal():
        raise ValueError(f"{text!r} is not HH:MM")
    if int(hour) > 23 or int(minute) > 59:
        raise ValueError(f"{text!r} is not a time of day")
    return int(hour) * 60 + int(minute)
