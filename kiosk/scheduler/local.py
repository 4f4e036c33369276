"""The local QEMU cloud as the scheduler uses it: this host's room, and what VM a node is."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from kiosk import clock, order
from kiosk.cloud.api import VmSpec
from kiosk.cloud.hostcache import HostCache
from kiosk.errors import BusyError, KioskError
from kiosk.scheduler.breaker import Images
from kiosk.scheduler.life import Limits
from kiosk.scheduler.model import Node, NodeType
from kiosk.scheduler.placement import Hypervisor
from kiosk.scheduler.settings import CloudTable

SHORTEST = 60
LATER = 0.05
NETWORK = Path("/sys/class/net")
LIMITS = Limits(launch=30, vanish=30)
"""This host's own list is never behind: what it does not have is gone, and its place free."""


def hypervisor(table: CloudTable, vms: Path, images: Images) -> Hypervisor:
    """This host, with what the configuration or the host itself says that it has."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    scratch = shutil.disk_usage(_there(vms)).free >> 30
    return Hypervisor(
        name=socket.gethostname().partition(".")[0],
        memory=table.memory or memory,
        cores=table.cores or os.cpu_count() or 1,
        scratch=table.scratch or scratch,
        images=frozenset(ref for refs in images.offered.values() for ref in refs),
    )


def _there(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


@dataclass(frozen=True)
class Nodes:
    """What VM each node is. Bundles of signed metadata are made below `work`, which lasts as long as the tick."""

    cache: HostCache
    metadata: Path
    work: Path
    types: Mapping[str, NodeType]
    contexts: Mapping[str, Path]
    taps: tuple[str, ...] = ()
    now: clock.Clock = clock.now

    def spec(self, node: Node) -> VmSpec:
        """Its VM. KioskError where it can't be started: what `kiosk vm start` would refuse is refused here."""
        kind = self.types[node.type]
        wanted = order.Order(
            image=node.image,
            layers=kind.layers,
            flavour=str(kind.flavour),
            name=node.id,
            lifetime=self._life(node.until, kind),
            network=True,
            tap=self._tap(),
            context=self.contexts.get(node.type),
        )
        planned = order.plan(self.cache, wanted)
        bundle = self.work / f"bundle-{node.id}"
        bundle.mkdir(parents=True)
        return order.checked(self.cache, self.metadata, planned, bundle)

    def _life(self, until: datetime | None, kind: NodeType) -> int:
        """Until the guest drains by itself: a little after the scheduler, which keeps to `max_unavailable`, has it
        drain; it is for a farm whose scheduler is away."""
        left = kind.lifetime if until is None else (until - self.now()).total_seconds()
        return max(SHORTEST, int(left + LATER * kind.lifetime))

    def _tap(self) -> str | None:
        """A tap that no VM has: without one at its end it has no carrier."""
        if not self.taps:
            return None
        for tap in self.taps:
            try:
                if (NETWORK / tap / "carrier").read_text().strip() == "0":
                    return tap
            except OSError as e:
                raise KioskError(
                    f"the tap {tap} can't be used: {e.strerror}", hint=f"ip link set {tap} up"
                ) from None
        raise BusyError(f"all {len(self.taps)} taps are in use", hint="Name more of them in [cloud] taps.")
