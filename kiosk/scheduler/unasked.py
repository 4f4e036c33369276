"""A batch system that is never asked: its hosts are what the guests themselves report through the cloud's list.

A VM whose guest is ready has joined, and one that drains has closed itself; closing a host is telling its guest to
drain, which does it in the real batch system (docs/life.md). Whether a host is idle is not known, so each counts as
having one job until its guest, draining, says how many it has. Nothing is opened or removed: the guest leaves the batch
system itself. What waits is not known either: the numbers come from a plan (kiosk/scheduler/dayplan.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from kiosk import clock
from kiosk.batch.api import BatchSystem, Host, Look
from kiosk.cloud.api import Cloud, VmState
from kiosk.errors import BatchError, UsageError
from kiosk.model.flavour import Flavour
from kiosk.scheduler.orphans import names_of, type_of


@dataclass
class Unasked:
    """See BatchSystem. `prefix` begins the names of this farm's VMs."""

    cloud: Cloud
    prefix: str
    now: clock.Clock = clock.now
    queries: int = 0
    """Always 0."""
    _vms: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """See BatchSystem."""
        return "a plan, and no batch system"

    def look(self) -> Look:
        """The hosts; the cloud's errors where its list can't be read."""
        vms = _farms(self.cloud, self.prefix)
        self._vms = {vm.name: vm.id for vm in vms}
        return Look(self.now(), hosts=[host for vm in vms if (host := _host(vm)) is not None])

    def close(self, host: str, reason: str) -> None:
        """Tells the guest to drain. BatchError where the cloud can't."""
        if not self.cloud.capabilities.drain:
            raise BatchError(
                "without a batch system a host is closed by its guest, and this cloud can't tell guests to drain",
                where=self.cloud.name,
                hint="Leave `plan` out of [batch], so that the batch system closes hosts.",
            )
        if host in self._vms:
            self.cloud.drain(self._vms[host], reason)

    def open(self, host: str) -> None:
        """A guest that drains does not come back: nothing is done."""

    def remove(self, host: str) -> None:
        """Guests leave by themselves: nothing is done."""


def _farms(cloud: Cloud, prefix: str) -> list[VmState]:
    return [vm for vm in cloud.list_vms() if type_of(vm.name, prefix) is not None]


def _host(vm: VmState) -> Host | None:
    """A VM as a host. A guest that drains closed itself, with a lock that is not ours to take away."""
    if vm.phase in ("ready", "running"):
        return Host(vm.name, "open", 1, 1, 1)
    if vm.phase == "draining":
        jobs = 1 if vm.jobs is None else vm.jobs
        return Host(vm.name, "closed", 1, min(1, jobs), jobs, mine=True, others=True)
    return None


@dataclass
class Logged:
    """A batch system that is followed by its event log alone, without a query. A host that has joined and had no job
    yet is in no record of the log: it is what its guest reports, and has no job."""

    log: BatchSystem
    cloud: Cloud
    prefix: str

    @property
    def name(self) -> str:
        """See BatchSystem."""
        return f"{self.log.name}, by its event log and the guests' reports"

    @property
    def queries(self) -> int:
        """See BatchSystem."""
        return self.log.queries

    def look(self) -> Look:
        """The log's look, with the hosts that the log does not know yet. Errors of both."""
        found = self.log.look()
        there = {name for host in found.hosts for name in names_of(host)}
        vms = _farms(self.cloud, self.prefix)
        more = [_unused(vm) for vm in vms if vm.phase == "ready" and vm.name not in there]
        return replace(found, hosts=[*found.hosts, *more])

    def close(self, host: str, reason: str) -> None:
        """See BatchSystem."""
        self.log.close(host, reason)

    def open(self, host: str) -> None:
        """See BatchSystem."""
        self.log.open(host)

    def remove(self, host: str) -> None:
        """See BatchSystem."""
        self.log.remove(host)


def _unused(vm: VmState) -> Host:
    try:
        slots = Flavour.parse(vm.flavour).cores
    except UsageError:
        slots = 1
    return Host(vm.name, "open", slots, 0, 0)
