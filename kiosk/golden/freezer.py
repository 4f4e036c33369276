"""The process that freezes a node's file systems, and thaws them whatever happens. Not for use by hand.

    python -m kiosk.golden.freezer JSON

It runs in a session of its own, says `frozen` on its standard output, and thaws as soon as a line comes on its
standard input, as that ends (whoever started it is gone, also by SIGKILL), or as the time is up; then it says
`thawed`. Signals do not end it. Every wait is bounded: a node whose agent hangs is given up after `PATIENCE`
seconds of trying to thaw it, and the freeze that it may still execute has a thaw queued right behind it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kiosk.cloud.qemu import agent
from kiosk.cloud.qemu.wire import connect
from kiosk.errors import GuestError, KioskError
from kiosk.run import run

ANSWER, FREEZE, PATIENCE, PAUSE = 10.0, 30.0, 60.0, 0.5


class Node(Protocol):
    """What can be frozen. `freeze` returns how many file systems it froze; all raise KioskError."""

    def is_frozen(self) -> bool: ...

    def freeze(self) -> int: ...

    def thaw(self) -> None: ...


@dataclass(frozen=True)
class Agent:
    """A node through the socket of its guest agent."""

    path: Path
    answer: float = ANSWER
    longest: float = FREEZE

    def is_frozen(self) -> bool:
        """Whether it is frozen now; an agent that does not answer is found here, before it is told to freeze."""
        return bool(agent.ask(self.path, "guest-fsfreeze-status", timeout=self.answer) == "frozen")

    def freeze(self) -> int:
        """Freezes; where no answer comes, a thaw is already on its way behind the freeze."""
        until = time.monotonic() + self.answer + self.longest
        with connect(self.path, "guest agent") as wire:
            agent.synchronise(wire, time.monotonic() + self.answer)
            try:
                count = wire.ask("guest-fsfreeze-freeze", timeout=until - time.monotonic())
            except GuestError:
                wire.send({"execute": "guest-fsfreeze-thaw"})
                raise
        return count if isinstance(count, int) else 0

    def thaw(self) -> None:
        """Thaws, and makes sure of it."""
        agent.ask(self.path, "guest-fsfreeze-thaw", timeout=self.answer)
        if self.is_frozen():
            raise GuestError("the node is still frozen")


@dataclass(frozen=True)
class Domain:
    """A node through libvirt."""

    uri: str
    name: str

    def is_frozen(self) -> bool:
        """Not to be learnt here; libvirt refuses to freeze what is frozen."""
        return False

    def freeze(self) -> int:
        """Freezes all file systems."""
        said = self._virsh("domfsfreeze", timeout=FREEZE)
        return next((int(word) for word in said.split() if word.isdecimal()), 0)

    def thaw(self) -> None:
        """Thaws."""
        self._virsh("domfsthaw", timeout=ANSWER + 5)

    def _virsh(self, command: str, *, timeout: float) -> str:
        return run(["virsh", "-c", self.uri, command, "--domain", self.name], timeout=timeout)


def node_of(spec: dict[str, Any]) -> Node:
    """The node that a JSON description means."""
    if spec["kind"] == "qemu":
        return Agent(Path(spec["agent"]), spec.get("answer", ANSWER), spec.get("freeze", FREEZE))
    return Domain(spec["uri"], spec["domain"])


def main(argv: list[str]) -> int:
    """Freezes, waits, thaws, and says so."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    spec = json.loads(argv[0])
    node = node_of(spec)
    try:
        found = _wait_until_free(node, spec["window"])
    except KioskError as e:
        _say(event="failed", what=e.what, frozen=False)
        return 1
    begun = time.monotonic()
    error: KioskError | None = None
    try:
        count = node.freeze()
        _say(event="frozen", file_systems=count, found_frozen=found)
    except KioskError as e:
        error = e
    by = _wait(spec["window"]) if error is None else "failure"
    failed = _thaw(node, spec.get("patience", PATIENCE))
    seconds = round(time.monotonic() - begun, 4)
    if error is not None or failed is not None:
        what = "; ".join(e.what for e in (error, failed) if e is not None)
        _say(event="failed", what=what, frozen=failed is not None)
        return 1
    _say(event="thawed", seconds=seconds, by=by)
    return 0


def _wait_until_free(node: Node, window: float) -> bool:
    """Waits where somebody else has the node frozen. Whoever left it so for longer than that is gone: thaws it
    and returns True."""
    until = time.monotonic() + window
    while node.is_frozen():
        if time.monotonic() > until:
            node.thaw()
            return True
        time.sleep(PAUSE)
    return False


def _wait(window: float) -> str:
    """Waits for a line, the end of the input, or the end of the time."""
    readable, _, _ = select.select([0], [], [], window)
    if not readable:
        return "deadline"
    return "request" if os.read(0, 100) else "loss"


def _thaw(node: Node, patience: float) -> KioskError | None:
    """Thaws, trying again for a while; the last error where it never went well."""
    until = time.monotonic() + patience
    while True:
        try:
            node.thaw()
        except KioskError as e:
            if time.monotonic() > until:
                return e
            time.sleep(PAUSE)
        else:
            return None


def _say(**event: object) -> None:
    """One line of JSON; nobody may be listening."""
    try:
        os.write(1, json.dumps(event).encode() + b"\n")
    except OSError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
