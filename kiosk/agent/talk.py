"""How the work speaks with its daemon: one JSON object a line, on standard output and standard input.

    to the daemon                                                    from the daemon
    {"say": "held", "held": [...], "free": N, "failed": [...]}       {"lease": {...} or null, "fanout": N}
    {"say": "fetching", "name", "version", "done", "size",           {"object": DIGEST}
        "transport", "held_back"}
    {"say": "counted", "http": N, "swarm": N}
    {"say": "want", "infohash", "torrent", "objects": [[DIGEST, SIZE], ...]}
    {"say": "have", "digest"}    {"say": "seed", "torrents": [[INFOHASH, PATH], ...]}
    {"say": "lease", "name", "version", "bytes", "done"}
    {"say": "busy", "within": SECONDS} (the next word may take that much longer)
    {"say": "alive"}    {"say": "result", ...}

A daemon that is gone (end of file) ends the work.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from typing import IO, Any, Protocol

GRACE = 10.0
"""Seconds for the work to end in order once its daemon is gone."""
Heard = Callable[[dict[str, Any]], None]


class Talk(Protocol):
    """One end of the talk, as the work sees it."""

    listener: Heard | None

    def say(self, what: str, **fields: object) -> None:
        """Tells the daemon."""


class Pipe:
    """The talk with a real daemon."""

    def __init__(self, source: IO[bytes], target: IO[bytes]) -> None:
        self.listener: Heard | None = None
        self._source = source
        self._target = target
        self._lock = threading.Lock()

    def say(self, what: str, **fields: object) -> None:
        """Writes one line."""
        line = json.dumps({"say": what, **fields}).encode() + b"\n"
        with self._lock:
            try:
                self._target.write(line)
                self._target.flush()
            except BrokenPipeError:
                end()

    def listen(self) -> None:
        """Hears the daemon from now on, in a thread of its own."""
        threading.Thread(target=self._hear, name="kiosk-talk", daemon=True).start()

    def _hear(self) -> None:
        for line in self._source:
            heard = json.loads(line)
            if self.listener is not None:
                self.listener(heard)
        end()


def end() -> None:
    """Ends this process as SIGTERM does, and in any case after a while."""
    timer = threading.Timer(GRACE, os._exit, (70,))
    timer.daemon = True
    timer.start()
    os.kill(os.getpid(), signal.SIGTERM)


class Alone:
    """The talk of a run without a daemon: nobody gives leases, nobody knows of others, and nobody listens."""

    def __init__(self, hear: Callable[[str, dict[str, Any]], None] | None = None) -> None:
        self.listener: Heard | None = None
        self._hear = hear

    def say(self, what: str, **fields: object) -> None:
        """Passes it on, and answers a question for a lease."""
        if self._hear is not None:
            self._hear(what, fields)
        if what == "lease" and not fields.get("done") and self.listener is not None:
            self.listener({"lease": None, "fanout": 0})
