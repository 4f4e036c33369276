"""A small client of QEMU's two JSON sockets: the monitor (QMP) and the guest agent.

Every answer is bounded in size and in time. The guest agent is inside the guest and may answer anything.
The library qemu.qmp is asyncio and reads what comes; five commands need less, and limits.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from kiosk.cloud import untrusted
from kiosk.errors import GuestError

LIMIT = 32 << 20


class Wire:
    """A connection that speaks one JSON object a line."""

    def __init__(self, connection: socket.socket, what: str) -> None:
        self._socket = connection
        self._what = what
        self._buffer = b""

    def send(self, message: dict[str, Any], *, prefix: bytes = b"", lend: Sequence[int] = ()) -> None:
        """Sends one object, and with it open files (which stay open here)."""
        data = prefix + json.dumps(message).encode() + b"\n"
        try:
            sent = socket.send_fds(self._socket, [data], list(lend)) if lend else 0
            self._socket.sendall(data[sent:])
        except OSError as e:
            raise GuestError(f"the {self._what} does not listen: {e}") from None

    def receive(self, until: float) -> dict[str, Any]:
        """The next object, before the monotonic time `until`; GuestError otherwise."""
        while b"\n" not in self._buffer:
            self._fill(until)
        raw, _, self._buffer = self._buffer.partition(b"\n")
        try:
            value = from_json(raw.rpartition(b"\xff")[2])
        except ValueError:
            raise GuestError(f"the {self._what} answered with something that is not JSON") from None
        if not isinstance(value, dict):
            raise GuestError(f"the {self._what} answered with something that is not an object")
        return value

    def _fill(self, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0:
            raise GuestError(f"the {self._what} does not answer")
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            raise GuestError(f"the {self._what} does not answer") from None
        except OSError as e:
            raise GuestError(f"the {self._what} is gone: {e}") from None
        if not data:
            raise GuestError(f"the {self._what} is gone")
        self._buffer += data
        if len(self._buffer) > LIMIT:
            raise GuestError(f"the {self._what} answers without end")

    def ask(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        timeout: float = 10,
        lend: Sequence[int] = (),
    ) -> Any:
        """Runs a command and returns what it returns; events that come in between are passed over."""
        until = time.monotonic() + timeout
        self.send({"execute": command, **({"arguments": arguments} if arguments else {})}, lend=lend)
        while True:
            answer = self.receive(until)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                error = answer["error"]
                text = error.get("desc") if isinstance(error, dict) else error
                raise GuestError(f"{command}: {untrusted.line(str(text), limit=500)}")


@contextlib.contextmanager
def connect(path: Path, what: str, *, timeout: float = 5) -> Iterator[Wire]:
    """Connects to a socket file. Its folder is opened first, as a socket's path may have 107 bytes only."""
    with contextlib.ExitStack() as stack:
        try:
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, folder)
            connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            connection.settimeout(timeout)
            connection.connect(f"/proc/self/fd/{folder}/{path.name}")
        except OSError as e:
            raise GuestError(f"can't reach the {what}: {e.strerror or e}", where=str(path)) from None
        yield Wire(connection, what)


@contextlib.contextmanager
def monitor(path: Path) -> Iterator[Wire]:
    """A connection to QEMU's monitor, ready for commands."""
    with connect(path, "monitor of QEMU") as wire:
        greeting = wire.receive(time.monotonic() + 5)
        if "QMP" not in greeting:
            raise GuestError("the monitor of QEMU does not greet", where=str(path))
        wire.ask("qmp_capabilities")
        yield wire
