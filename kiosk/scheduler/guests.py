"""The farm's own VMs on the local QEMU cloud as machines that run a workload's jobs, told by their guest agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kiosk.batch.workload.guests import Guest, Status
from kiosk.cloud.api import VmState
from kiosk.cloud.qemu import agent, argv
from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.scheduler.model import NodeType
from kiosk.scheduler.orphans import type_of

STATUS: Mapping[str, Status] = {
    "ready": "open", "running": "open", "draining": "closed", "stopping": "closed", "failed": "silent",
}  # fmt: skip
"""What VMs of a phase are. Others are not up yet, or not any more."""


@dataclass(frozen=True)
class FarmGuests:
    """VMs whose names say that they are this farm's; they offer what their types do."""

    cloud: QemuCloud
    types: Mapping[str, NodeType]
    prefix: str

    def list(self) -> Sequence[Guest]:
        """All that are up."""
        return [guest for vm in self.cloud.list_vms() if (guest := self._guest(vm)) is not None]

    def run(self, name: str, argv_: Sequence[str], timeout: float) -> tuple[int, bytes]:
        """Runs a command in one."""
        folder = self.cloud.folder(self.cloud.find(name).id)
        done = agent.execute(folder / argv.AGENT, argv_, timeout=timeout)
        return done.status, done.stdout or done.stderr

    def _guest(self, vm: VmState) -> Guest | None:
        kind = self.types.get(type_of(vm.name, self.prefix) or "")
        status = STATUS.get(vm.phase)
        if kind is None or status is None:
            return None
        return Guest(vm.name, status, kind.slots, kind.memory, kind.tags, kind.values, vm.reason or "")
