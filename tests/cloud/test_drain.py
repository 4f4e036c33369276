"""`kiosk vm drain`: the reason reaches the guest as it is, one deaf guest keeps no other from draining."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kiosk.cloud.api import VmSpec
from kiosk.cloud.qemu import argv, process
from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.cloud.report import Report
from kiosk.errors import GuestError
from tests.cloud.test_agent import guest, reply
from tests.cloud.test_driver import attestation, half_started, say

Spec = Callable[[str], VmSpec]


@pytest.fixture
def ready_vm(cloud: QemuCloud, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A VM whose process is taken to run, and whose guest said that it is ready."""
    state = half_started(cloud, spec("node-1"))
    say(cloud, state, state="ready", attestation=attestation(state))
    monkeypatch.setattr(process, "running", lambda: {state.uuid: []})
    return state


@contextmanager
def agent(folder: Path, asked: list[dict[str, Any]], status: dict[str, Any]) -> Iterator[None]:
    """A guest agent behind the VM's socket, which stands elsewhere: a socket's path is short."""

    def answer(request: dict[str, Any]) -> bytes:
        asked.append(request)
        if request["execute"] == "guest-sync-delimited":
            return b"\xff" + reply(request["arguments"]["id"])
        return reply({"pid": 7} if request["execute"] == "guest-exec" else status)

    link = folder / argv.AGENT
    with tempfile.TemporaryDirectory(dir="/tmp") as short, guest(Path(short) / "s", answer) as socket:
        link.symlink_to(socket)
        yield
    link.unlink()


def test_the_reason_is_no_part_of_a_command_line(cloud: QemuCloud, ready_vm: Any) -> None:
    asked: list[dict[str, Any]] = []
    reason = 'it\'s $(reboot) "now"; --help'
    with agent(cloud.folder(ready_vm.id), asked, {"exited": True, "exitcode": 0}):
        cloud.drain(ready_vm.id, reason)
    (told,) = [r["arguments"] for r in asked if r["execute"] == "guest-exec"]
    assert (told["path"], told["arg"]) == ("/usr/sbin/kiosk-drain", ["-"])
    assert base64.b64decode(told["input-data"]).decode() == reason
    assert json.dumps(told).count("reboot") == 0


def test_a_guest_that_can_not_drain_is_an_error_with_its_own_words(cloud: QemuCloud, ready_vm: Any) -> None:
    said = base64.b64encode(b"kiosk: \x1b[2Jno plan\n").decode()
    with (
        agent(cloud.folder(ready_vm.id), [], {"exited": True, "exitcode": 1, "err-data": said}),
        pytest.raises(GuestError, match=r"^the VM node-1 does not drain: kiosk: no plan$"),
    ):
        cloud.drain(ready_vm.id, "a test")
    with pytest.raises(GuestError, match="can't reach the guest agent"):
        cloud.drain(ready_vm.id, "a test")
    assert cloud.report(ready_vm.id) != Report()
