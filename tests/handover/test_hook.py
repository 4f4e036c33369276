"""Images for a program of one's own: vmcatcher's events, told in order, again where it failed, and never for ever."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from kiosk.handover import Handover
from kiosk.handover.hook import HookError
from kiosk.handover.settings import HookTable
from kiosk.sync.prune import prune
from tests.simulators.hypervisor import Hypervisor

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="prunes as root")
SCRIPT = """#!/bin/sh
[ -e "{folder}/fail-$VMCATCHER_EVENT_TYPE" ] && {{ echo "the cloud is down"; exit 3; }}
[ -e "{folder}/hang" ] && exec sleep 100
python3 -c 'import json, os
print(json.dumps({{k: v for k, v in os.environ.items() if k.startswith(("VMCATCHER_", "KIOSK_"))}}))' >>"{folder}/log"
"""


class Told:
    """A host with a hook, and what the hook was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = Hypervisor(folder / "h")
        self.host.put("1")
        self.script = folder / "hook with a space"
        self.script.write_text(SCRIPT.format(folder=folder))
        self.script.chmod(0o755)

    def handover(self, **more: object) -> Handover:
        table = {"kind": "hook", "run": [str(self.script), "$(touch /tmp/never); `id`"], **more}
        return Handover(self.host.cache, [HookTable.model_validate(table)])

    def events(self) -> list[dict[str, str]]:
        log = self.folder / "log"
        found = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        log.unlink(missing_ok=True)
        return found

    def names(self) -> list[str]:
        return [f"{e['VMCATCHER_EVENT_TYPE']} {e['KIOSK_NAME']}@{e['KIOSK_VERSION']}" for e in self.events()]


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def test_vmcatchers_events_come_in_its_order_with_its_variables(told: Told) -> None:
    assert [o.state for o in told.handover().offer_current()] == ["handed over"]
    events = told.events()
    assert [e["KIOSK_EVENT"] for e in events] == [
        "ProcessPrefix", "AvailablePrefix", "AvailablePostfix", "ProcessPostfix",
    ]  # fmt: skip
    about = events[2]
    disk = str(told.host.disk("worker@1"))
    assert about["VMCATCHER_EVENT_FILENAME"] == about["KIOSK_DISK"] == disk
    assert about["VMCATCHER_EVENT_HV_VERSION"] == "1" and about["VMCATCHER_EVENT_HV_FORMAT"] == "raw"
    assert int(about["VMCATCHER_EVENT_HV_SIZE"]) == Path(disk).stat().st_size
    assert about["VMCATCHER_EVENT_DC_IDENTIFIER"] == events[0]["VMCATCHER_EVENT_DC_IDENTIFIER"]
    assert not Path("/tmp/never").exists()


def test_what_was_told_is_not_told_again_but_a_rollback_is(told: Told) -> None:
    handover = told.handover(events=["AvailablePostfix"])
    handover.offer_current()
    handover.offer_current()
    told.host.put("2")
    handover.offer_current()
    told.host.go_back("worker@1")
    handover.offer_current()
    assert told.names() == [f"AvailablePostfix worker@{v}" for v in (1, 2, 1)]


def test_a_hook_that_fails_is_reported_and_told_again(told: Told) -> None:
    (told.folder / "fail-AvailablePostfix").touch()
    handover = told.handover()
    (outcome,) = handover.offer_current()
    assert isinstance(outcome.error, HookError)
    assert "ended with status 3 at AvailablePostfix of worker@1" in str(outcome.error)
    assert "the cloud is down" in str(outcome.error)
    assert told.host.version("worker@1").current
    (told.folder / "fail-AvailablePostfix").unlink()
    told.events()
    assert [o.state for o in handover.offer_current()] == ["handed over"]
    assert len(told.events()) == 4


def test_a_hook_that_hangs_is_ended(told: Told) -> None:
    (told.folder / "hang").touch()
    begin = time.monotonic()
    (outcome,) = told.handover(timeout=1).offer_current()
    assert "was not done after 1 s" in str(outcome.error)
    assert time.monotonic() - begin < 10


def test_a_hook_that_is_missing_is_said(told: Told) -> None:
    told.script.unlink()
    (outcome,) = told.handover().offer_current()
    assert outcome.state == "failed"


def test_a_version_that_goes_is_told_of_before_and_after(told: Told) -> None:
    handover = told.handover(events=["ExpirePrefix", "ExpirePostfix"])
    handover.offer_current()
    told.host.put("2", "3", "4")
    handover.offer_current()
    prune(told.host.cache, told.host.settings.vms, handed=handover)
    assert told.names() == ["ExpirePrefix worker@1", "ExpirePostfix worker@1"]  # of worker@2 it never heard


def test_a_hook_that_fails_before_a_version_goes_keeps_it(told: Told) -> None:
    handover = told.handover()
    handover.offer_current()
    told.host.put("2", "3")
    (told.folder / "fail-ExpirePrefix").touch()
    done = prune(told.host.cache, told.host.settings.vms, handed=handover)
    assert isinstance(done.failure, HookError) and told.host.disk("worker@1").exists()


def test_one_that_fails_after_a_version_went_is_told_again_later(told: Told) -> None:
    handover = told.handover(events=["ExpirePostfix"])
    handover.offer_current()
    told.host.put("2", "3")
    (told.folder / "fail-ExpirePostfix").touch()
    done = prune(told.host.cache, told.host.settings.vms, handed=handover)
    assert [str(r) for r in done.removed] == ["worker@1"] and told.names() == []
    (told.folder / "fail-ExpirePostfix").unlink()
    handover.settle()
    handover.settle()
    assert told.names() == ["ExpirePostfix worker@1"]
