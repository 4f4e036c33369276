"""The guest agent answers from inside the guest: what it says may be late, endless, or nonsense."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kiosk.cloud.qemu import agent
from kiosk.errors import GuestError

Answer = Callable[[dict[str, Any]], bytes]


@contextmanager
def guest(path: Path, answer: Answer) -> Iterator[Path]:
    """A guest whose agent answers each request with these bytes."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            try:
                connection, _ = server.accept()
                with connection, connection.makefile("rb") as lines:
                    for raw in lines:
                        connection.sendall(answer(json.loads(raw.strip(b"\xff"))))
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield path
        server.shutdown(socket.SHUT_RDWR)


def reply(value: object) -> bytes:
    return json.dumps({"return": value}).encode() + b"\n"


def honest(status: dict[str, Any]) -> Answer:
    """An agent that keeps to the protocol."""

    def answer(request: dict[str, Any]) -> bytes:
        if request["execute"] == "guest-sync-delimited":
            return b"left over from before}\n\xff" + reply(request["arguments"]["id"])
        if request["execute"] == "guest-exec":
            assert request["arguments"]["path"] == "hello" and request["arguments"]["arg"] == ["a b"]
            return reply({"pid": 7})
        return reply(status)

    return answer


def run(folder: Path, answer: Answer, timeout: float = 2) -> agent.Result:
    with guest(folder / "qga.sock", answer) as path:
        return agent.execute(path, ["hello", "a b"], timeout=timeout)


def test_output_and_exit_code_come_back(tmp_path: Path) -> None:
    status = {"exited": True, "exitcode": 3, "out-data": base64.b64encode(b"out").decode()}
    assert run(tmp_path, honest(status)) == agent.Result(3, b"out", b"", False)


def test_a_signal_is_a_status_above_128(tmp_path: Path) -> None:
    assert run(tmp_path, honest({"exited": True, "signal": 9})).status == 137


def test_a_command_that_goes_on_is_waited_for_until_the_limit(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="not done after 1 s"):
        run(tmp_path, honest({"exited": False}), timeout=1)


@pytest.mark.parametrize(
    "status",
    [
        [], 7, None, {"exited": True}, {"exited": True, "exitcode": "0"}, {"exited": True, "exitcode": True},
        {"exited": True, "exitcode": 0, "out-data": "***"},
    ],
    ids=str,
)  # fmt: skip
def test_nonsense_is_an_error(tmp_path: Path, status: Any) -> None:
    with pytest.raises(GuestError):
        run(tmp_path, honest(status))


def test_an_error_is_told_without_its_escape_sequences(tmp_path: Path) -> None:
    def answer(request: dict[str, Any]) -> bytes:
        if request["execute"] == "guest-exec":
            return b'{"error": {"class": "x", "desc": "no \\u001b[2Jsuch\\nfile"}}\n'
        return honest({})(request)

    with pytest.raises(GuestError) as caught:
        run(tmp_path, answer)
    assert caught.value.what == "guest-exec: no such file"


@pytest.mark.parametrize("noise", [b"", b"x", b"\n", b"[]\n", b"{}\n", b"[" * 100_000 + b"\n"], ids=range(6))
def test_an_agent_that_never_answers_rightly_is_given_up(tmp_path: Path, noise: bytes) -> None:
    with pytest.raises(GuestError, match="guest agent"):
        run(tmp_path, lambda _: noise, timeout=0.5)


def test_an_endless_answer_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kiosk.cloud.qemu.wire.LIMIT", 1 << 16)
    with pytest.raises(GuestError):
        run(tmp_path, lambda _: b"x" * (1 << 20), timeout=2)


def test_no_agent_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="can't reach the guest agent"):
        agent.execute(tmp_path / "qga.sock", ["x"], timeout=1)
