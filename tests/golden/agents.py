"""A guest agent that keeps to the protocol of freezing, and can be told not to."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NEVER = object()


@dataclass
class FakeAgent:
    """`answers` replaces what a command returns: a value, bytes as they are, or NEVER. `seen` is what was asked."""

    path: Path
    answers: dict[str, Any] = field(default_factory=dict)
    frozen: bool = False
    seen: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait_until(self, command: str, timeout: float = 20) -> None:
        """Waits until a command was asked for and done."""
        with self.changed:
            assert self.changed.wait_for(lambda: command in self.seen, timeout), self.seen

    def answer(self, request: dict[str, Any]) -> bytes | None:
        """What is sent back."""
        command = str(request["execute"])
        value: Any = {}
        if command == "guest-sync-delimited":
            value = request["arguments"]["id"]
        elif command == "guest-fsfreeze-freeze":
            self.frozen, value = True, 2
        elif command == "guest-fsfreeze-thaw":
            self.frozen, value = False, 2
        elif command == "guest-fsfreeze-status":
            value = "frozen" if self.frozen else "thawed"
        value = self.answers.get(command, value)
        with self.changed:
            self.seen.append(command)
            self.changed.notify_all()
        if value is NEVER:
            return None
        return value if isinstance(value, bytes) else json.dumps({"return": value}).encode() + b"\n"


@contextlib.contextmanager
def fake_agent(path: Path, *, greeting: bytes = b"", **answers: Any) -> Iterator[FakeAgent]:
    """Serves connections one after the other, as QEMU does; `answers` are by command, with underscores. With a
    `greeting` it is a monitor."""
    agent = FakeAgent(path, {key.replace("_", "-"): value for key, value in answers.items()})
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
                    connection.sendall(greeting)
                    for raw in lines:
                        if (data := agent.answer(json.loads(raw.strip(b"\xff")))) is not None:
                            connection.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield agent
        server.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=5)
