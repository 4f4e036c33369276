"""Joining as a stage of the boot: after the attestation, and undone when the boot fails later."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from contextualize.boot import boot
from contextualize.errors import Refused
from contextualize.farm import member
from contextualize.machine import Answer
from contextualize.stages.attest import ATTESTATION
from contextualize.stages.report import Reporter
from tests.contextualize.guest import FolderMachine, Guest
from tests.contextualize.lsf_farm import BIN, SERVER, LsfFarm

Squashfs = Callable[[dict[str, str]], bytes]


class JoiningMachine(FolderMachine):
    """A machine in a folder that has a simulated LSF cluster around it."""

    def __init__(self, root: Path, context: Path, lsf: LsfFarm) -> None:
        super().__init__(root, context)
        self.lsf = lsf
        self.attested: list[bool] = []
        self.leaves: Callable[[Sequence[str]], None] = lambda words: None

    def systemctl(self, *words: str) -> None:
        if len(words) > 1 and words[1].startswith("kiosk-farm-"):
            if words[0] == "start":
                self.attested.append(self.exists(ATTESTATION))
            else:
                self.leaves(words)
            self.lsf.machine.systemctl(*words)
        else:
            super().systemctl(*words)

    def ask(
        self, argv: Sequence[str], timeout: float = 20, environment: Mapping[str, str] | None = None
    ) -> Answer:
        return self.lsf.machine.ask(argv, timeout, environment)

    def clock(self) -> float:
        return self.lsf.machine.clock()

    def sleep(self, seconds: float) -> None:
        self.lsf.machine.sleep(seconds)

    def address(self, host: str) -> str | None:
        return self.lsf.machine.address(host)


class JoiningGuest:
    """A guest whose context names a farm."""

    def __init__(self, home: Path) -> None:
        self.guest = Guest(home)
        self.lsf = LsfFarm(home, "ibm", node="node-7")
        self.machine = self.guest.machine = JoiningMachine(home / "root", home / "context", self.lsf)
        self.farm: dict[str, Any] = {
            "kind": "lsf",
            "name": "batch",
            "settings": {"servers": "lavam", "bindir": BIN, "serverdir": SERVER, "node_name": "short"},
            "timeout": 120,
        }
        self.guest.context["farm"] = self.farm

    def left(self) -> bool:
        """Nothing of the farm runs, and no job could believe that this machine lives."""
        assert self.lsf.machine.units.alive() == []
        assert not self.machine.exists(ATTESTATION)
        assert not self.machine.exists(member.MEMORY)
        return True


@pytest.fixture
def joining(tmp_path: Path, squashfs: Squashfs) -> Iterator[JoiningGuest]:
    found = JoiningGuest(tmp_path)
    found.guest.add_layer("site/example/base", squashfs({"bin/": ""}), {"allows": ["farm", "hooks"]})
    yield found
    for unit in found.lsf.machine.units.alive():
        found.lsf.machine.units.stop(unit)


def test_the_farm_is_joined_after_the_attestation_is_there_and_before_the_machine_is_ready(
    joining: JoiningGuest,
) -> None:
    assert joining.guest.boot() == 0
    assert joining.machine.attested == [True] * 3
    assert joining.lsf.hosts()["node-7"] == "ok"
    said = [report.get("stage", report["state"]) for report in joining.guest.reports()]
    assert said[-3:] == ["attest", "join", "ready"]
    assert joining.guest.reports()[-1]["attestation"]["switched_on"] == ["farm"]


def test_a_farm_that_does_not_answer_stops_the_machine_with_its_reason(joining: JoiningGuest) -> None:
    joining.lsf.change(up=False)
    assert joining.guest.boot() == 1
    assert joining.guest.refused().startswith(
        "join: farm batch did not take this node within 96 s: lavam can't be re"
    )
    assert joining.left()


def test_a_setting_that_the_driver_does_not_know_stops_the_machine(joining: JoiningGuest) -> None:
    joining.farm["settings"]["add_host_on_master"] = "yes"
    assert joining.guest.boot() == 1
    assert joining.guest.refused().startswith(
        "join: farm batch (lsf): unknown setting add_host_on_master; it has "
    )
    assert joining.left()


def test_a_boot_that_fails_after_joining_closes_the_host_and_leaves(joining: JoiningGuest) -> None:
    class Failing(Reporter):
        def ready(self, attestation: Mapping[str, Any]) -> None:
            raise Refused("a last doubt")

    joining.guest.sign()
    assert boot(joining.machine, Failing(joining.machine, patience=1)) == 1
    assert joining.guest.refused() == "report: a last doubt"
    assert joining.lsf.hosts()["node-7"] == "closed_Adm"
    assert joining.left()


def test_a_boot_that_is_interrupted_after_joining_leaves_too(joining: JoiningGuest) -> None:
    class Interrupted(Reporter):
        def ready(self, attestation: Mapping[str, Any]) -> None:
            raise KeyboardInterrupt

    joining.guest.sign()
    with pytest.raises(KeyboardInterrupt):
        boot(joining.machine, Interrupted(joining.machine, patience=1))
    assert joining.left()


def test_a_boot_that_systemd_ends_while_it_joins_says_so_and_leaves(joining: JoiningGuest) -> None:
    """SIGTERM, when the boot takes too long or the machine is shut down; one more comes while it leaves."""
    stop, undone = joining.machine.sleep, []

    def told(_seconds: float) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def leaves(words: Sequence[str]) -> None:
        undone.append(joining.guest.reports()[-1]["state"])
        told(0)

    joining.machine.sleep, joining.machine.leaves = told, leaves  # type: ignore[method-assign]
    before = signal.getsignal(signal.SIGTERM)
    assert joining.guest.boot() == 1
    joining.machine.sleep = stop  # type: ignore[method-assign]
    assert joining.guest.refused() == "join: was told to stop, or took too long (SIGTERM)"
    assert undone
    assert joining.left()
    assert signal.getsignal(signal.SIGTERM) == before


def test_why_the_boot_failed_is_reported_before_the_farm_is_left_and_whatever_goes_wrong_then(
    joining: JoiningGuest,
) -> None:
    class Failing(Reporter):
        def ready(self, attestation: Mapping[str, Any]) -> None:
            joining.lsf.state.path.rename(joining.lsf.state.path.with_suffix(".gone"))
            raise Refused("a last doubt")

    joining.guest.sign()
    try:
        assert boot(joining.machine, Failing(joining.machine, patience=1)) == 1
    finally:
        joining.lsf.state.path.with_suffix(".gone").rename(joining.lsf.state.path)
    assert joining.guest.refused() == "report: a last doubt"
    assert joining.left()


def test_an_epilog_that_fails_does_so_before_the_farm_can_send_a_job(
    joining: JoiningGuest,
) -> None:
    joining.guest.context["hooks"] = {"epilog": "echo no; exit 1"}
    assert joining.guest.boot() == 1
    assert joining.guest.refused() == "hooks: epilog: ended with status 1: no"
    assert joining.machine.attested == []
    assert joining.left()


def test_a_farm_that_no_site_stands_for_is_not_joined(joining: JoiningGuest) -> None:
    joining.guest.context["layers"] = []
    assert joining.guest.boot() == 1
    assert joining.guest.refused() == (
        "farm: the context has the farm batch, which no site layer of this machine declares, and none allows farm"
    )
    assert joining.machine.attested == [] and joining.left()
