"""Running a command inside a guest through the QEMU guest agent. Its answers are the guest's: bounded, checked."""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiosk.cloud.qemu.wire import Wire, connect
from kiosk.errors import GuestError

OUTPUT_LIMIT = 16 << 20


@dataclass(frozen=True)
class Result:
    """How a command in the guest ended. A signal's number plus 128 is the status, as in a shell."""

    status: int
    stdout: bytes
    stderr: bytes
    truncated: bool


def execute(path: Path, argv: Sequence[str], *, timeout: float, input: bytes | None = None) -> Result:
    """Runs a command in the guest and waits for its end; GuestError when it can't be run or takes too long."""
    until = time.monotonic() + timeout
    with connect(path, "guest agent") as wire:
        synchronise(wire, min(until, time.monotonic() + 15))
        arguments: dict[str, Any] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        if input is not None:
            arguments["input-data"] = base64.b64encode(input).decode()
        started = _object(wire.ask("guest-exec", arguments, timeout=max(1, until - time.monotonic())))
        pid = _number(started, "pid")
        pause = 0.05
        while True:
            status = _object(
                wire.ask("guest-exec-status", {"pid": pid}, timeout=max(1, until - time.monotonic()))
            )
            if status.get("exited") is True:
                return result_of(status)
            if time.monotonic() > until:
                raise GuestError(f"the command is not done after {timeout:.0f} s (it goes on in the guest)")
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)


def ask(path: Path, command: str, *, timeout: float) -> Any:
    """Runs one command of the agent's own; GuestError when it does not answer or refuses."""
    until = time.monotonic() + timeout
    with connect(path, "guest agent") as wire:
        synchronise(wire, until)
        return wire.ask(command, timeout=max(1, until - time.monotonic()))


def synchronise(wire: Wire, until: float) -> None:
    """Throws away what an earlier client left unread, and learns that an agent is there at all."""
    token = secrets.randbelow(1 << 31)
    wire.send({"execute": "guest-sync-delimited", "arguments": {"id": token}}, prefix=b"\xff")
    while True:
        try:
            answer = wire.receive(until)
        except GuestError as e:
            if "not JSON" in e.what and time.monotonic() < until:
                continue
            raise GuestError(
                "the guest agent does not answer",
                hint="It runs once the guest is up, and only where the image has qemu-guest-agent.",
            ) from None
        if answer.get("return") == token:
            return


def result_of(status: dict[str, Any]) -> Result:
    """What guest-exec-status says of a command that has ended; GuestError where it is nonsense."""
    code = _number(status, "exitcode") if "exitcode" in status else 128 + _number(status, "signal")
    outputs = [_bytes(status, key) for key in ("out-data", "err-data")]
    truncated = bool(status.get("out-truncated") or status.get("err-truncated"))
    return Result(
        code & 0xFF, outputs[0], outputs[1], truncated or any(len(o) > OUTPUT_LIMIT for o in outputs)
    )


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise GuestError("the guest agent answered with something that is not an object")
    return value


def _number(value: dict[str, Any], key: str) -> int:
    found = value.get(key)
    if not isinstance(found, int) or isinstance(found, bool):
        raise GuestError(f"the guest agent's answer has no number {key}")
    return found


def _bytes(value: dict[str, Any], key: str) -> bytes:
    found = value.get(key, "")
    try:
        return base64.b64decode(found if isinstance(found, str) else "", validate=True)[: OUTPUT_LIMIT + 1]
    except (binascii.Error, ValueError):
        raise GuestError(f"the guest agent's answer has a broken {key}") from None
