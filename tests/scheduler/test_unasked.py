"""Without a query: hosts that the event log does not know yet are what their guests report."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from kiosk.batch.api import Host, Look, Pending, Requirements
from kiosk.cloud.api import Capabilities, Phase, VmSpec, VmState
from kiosk.errors import BatchError, NetworkError
from kiosk.scheduler.unasked import Logged

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
WORKED = "kiosk-worker-aaaaaaaaaa"
CAN = Capabilities(True, True, True, True, True)


@dataclass
class Log:
    """A followed log: one node has a job, a real host as well, and something waits."""

    told: list[str] = field(default_factory=list)
    queries: int = 0
    name: str = "lsf 10.1"
    fails: bool = False

    def look(self) -> Look:
        if self.fails:
            raise BatchError("records are missing")
        hosts = [Host(f"{WORKED}.example.org", "open", 2, 1, 1), Host("real-1", "open", 8, 3, 3)]
        return Look(NOW, [Pending("q", "u", None, Requirements(), 7, NOW)], hosts=hosts)

    def close(self, host: str, reason: str) -> None:
        self.told.append(f"close {host}: {reason}")

    def open(self, host: str) -> None:
        self.told.append(f"open {host}")

    def remove(self, host: str) -> None:
        self.told.append(f"remove {host}")


@dataclass
class Vms:
    """A cloud's list."""

    vms: list[VmState]
    fails: bool = False
    name: str = "qemu"
    capabilities: Capabilities = CAN

    def list_vms(self) -> list[VmState]:
        if self.fails:
            raise NetworkError("no answer")
        return self.vms

    def start(self, spec: VmSpec) -> VmState:
        raise NotImplementedError

    def stop(self, id: str, *, now: bool = False) -> None:
        raise NotImplementedError

    def drain(self, id: str, reason: str) -> None:
        raise NotImplementedError


def vm(name: str, phase: Phase = "ready", flavour: str = "2/4/10") -> VmState:
    return VmState(name[-4:], "u", name, "worker@1", (), flavour, phase, NOW)


def test_a_node_that_joined_and_had_no_job_yet_is_there_and_idle() -> None:
    fresh = vm("kiosk-worker-bbbbbbbbbb")
    cloud = Vms([vm(WORKED), fresh, vm("kiosk-worker-cccccccccc", "booting"), vm("somebodys-machine")])
    look = Logged(Log(), cloud, "kiosk").look()
    assert [(h.name, h.slots, h.jobs) for h in look.hosts] == [
        (f"{WORKED}.example.org", 2, 1), ("real-1", 8, 3), (fresh.name, 2, 0)
    ]  # fmt: skip
    assert look.pending[0].jobs == 7


def test_a_flavour_that_is_not_known_counts_as_one_slot() -> None:
    cloud = Vms([replace(vm("kiosk-worker-bbbbbbbbbb"), flavour="enormous")])
    assert Logged(Log(), cloud, "kiosk").look().hosts[-1].slots == 1


def test_what_either_does_not_say_is_unknown() -> None:
    with pytest.raises(BatchError):
        Logged(Log(fails=True), Vms([]), "kiosk").look()
    with pytest.raises(NetworkError):
        Logged(Log(), Vms([], fails=True), "kiosk").look()


def test_hosts_are_closed_by_the_batch_system_and_nothing_is_asked() -> None:
    log = Log()
    batch = Logged(log, Vms([]), "kiosk")
    batch.close("a", "age")
    batch.open("a")
    batch.remove("a")
    assert log.told == ["close a: age", "open a", "remove a"]
    assert (batch.queries, batch.name) == (0, "lsf 10.1, by its event log and the guests' reports")
