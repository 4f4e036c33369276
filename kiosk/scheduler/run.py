"""The scheduler as it runs: looks, decides, does, and says what it did, tick after tick.

What it guarantees: one scheduler for a farm at a time; a batch system or a cloud that can't be asked is unknown, and
ends no node; what a tick was going to do is in the ledger before it is done, so that a scheduler that is killed at any
moment goes on where it was; with `observes` nothing is written in the ledger and nobody is told to do anything.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from kiosk import clock, files
from kiosk.batch.api import BatchSystem, Look
from kiosk.cloud.api import Cloud, VmState
from kiosk.cloud.hostcache import HostCache
from kiosk.errors import BusyError
from kiosk.log import logger
from kiosk.scheduler import catalogue
from kiosk.scheduler.execute import Executor, Result, begin, given_up, known, moment
from kiosk.scheduler.forecast import HourRow
from kiosk.scheduler.history import History
from kiosk.scheduler.ledger import Ledger
from kiosk.scheduler.local import Nodes, hypervisor
from kiosk.scheduler.model import Need, Target
from kiosk.scheduler.settings import CloudTable
from kiosk.scheduler.state import Folder, metrics, status
from kiosk.scheduler.tick import HORIZON, Decision, Farm, World, decide

log = logger(__name__)
Planned = Callable[[datetime], Sequence[Target]]
"""The targets that a plan made before has for a moment; a KioskError where it has none."""


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Python's collector of cycles is off: a tick makes none, and it would look through all that a large farm is,
    again and again."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


@dataclass
class Scheduler:
    """One farm's scheduler on this host. `seconds` bounds what a tick does after it has decided."""

    farm: Farm
    folder: Folder
    batch: BatchSystem
    cloud: Cloud
    cache: HostCache
    metadata: Path
    table: CloudTable
    vms: Path
    contexts: Mapping[str, Path] = field(default_factory=dict)
    planned: Planned | None = None
    observes: bool = False
    seconds: float = 240.0
    now: clock.Clock = clock.now
    faults: list[str] = field(default_factory=list)

    def run(
        self,
        *,
        once: bool,
        every: float,
        wait: Callable[[float], bool],
        told: Callable[[dict[str, Any]], None],
    ) -> None:
        """Ticks until `wait` says that it is to end (it waits so many seconds and returns whether to go on). `told` is
        given each tick's status. BusyError where another scheduler runs for this farm."""
        with self._ledger() as ledger:
            while True:
                begun = time.monotonic()
                told(self.tick(ledger))
                if once or not wait(max(0.0, every - (time.monotonic() - begun))):
                    return

    def _ledger(self) -> Any:
        self.folder.root.mkdir(parents=True, exist_ok=True)
        if not self.observes:
            return Ledger.opened(self.folder.ledger)
        if not self.folder.ledger.exists():
            with Ledger.opened(self.folder.ledger):
                pass
        return Ledger.reading(self.folder.ledger)

    def tick(self, ledger: Ledger) -> dict[str, Any]:
        """One tick; its status."""
        with without_collector():
            return self._tick(ledger)

    def _tick(self, ledger: Ledger) -> dict[str, Any]:
        begun, now, asked = time.monotonic(), self.now(), self.batch.queries
        self.faults.clear()
        if not self.observes:
            begin(ledger, moment(now))
        look = known("the batch system", self.batch.look, self.faults)
        vms = known("the cloud", self.cloud.list_vms, self.faults)
        with files.scratch(self.folder.root, prefix="tick-") as work:
            decision = self._decide(ledger, now, look, vms, work)
            results = self._do(ledger, decision, work)
        if not self.observes:
            self.folder.remember(decision.memory)
            ledger.prune(now)
        found = status(
            now, decision, results, ledger.nodes(), self.faults, time.monotonic() - begun,
            self.batch.queries - asked, self.observes,
        )  # fmt: skip
        if not self.observes or not self._another_runs():
            self.folder.publish(found, metrics(found, results))
        return found

    def _another_runs(self) -> bool:
        """Whether a scheduler runs for this farm, whose words an observer leaves alone."""
        try:
            with Ledger.opened(self.folder.ledger):
                return False
        except BusyError:
            return True

    def _decide(
        self, ledger: Ledger, now: datetime, look: Look | None, vms: Sequence[VmState] | None, work: Path
    ) -> Decision:
        names = [n for t in self.farm.types.values() for n in (t.image, *t.layers)]
        images = catalogue.offered(self.cache, self.metadata, dict.fromkeys(names), work)
        hosts = None if look is None else look.hosts
        world = World(
            now=now,
            look=look,
            vms=vms,
            nodes=ledger.nodes(),
            images=images,
            circuits=ledger.circuits(),
            hypervisors=[hypervisor(self.table, self.vms, images)],
            hours=self._hours(now),
            memory=self.folder.memory(),
            gone=given_up(ledger, vms, hosts, self.farm.rules),
            born=now if self.observes else ledger.born(now),
            planned=self.planned is not None,
            targets=self._targets(now),
            seed=time.time_ns(),
        )
        decision = decide(self.farm, world)
        self._record(now, decision.needs)
        return decision

    def _targets(self, now: datetime) -> Sequence[Target] | None:
        planned = self.planned
        return None if planned is None else known("the plan", lambda: planned(now), self.faults)

    def _do(self, ledger: Ledger, decision: Decision, work: Path) -> list[Result]:
        nodes = Nodes(
            self.cache, self.metadata, work, self.farm.types, self.contexts, self.table.taps, self.now
        )
        executor = Executor(self.cloud, self.batch, ledger, nodes.spec, self.farm.rules, self.now)
        results = executor.run(decision.plan, dry_run=self.observes, seconds=self.seconds)
        self.faults += [
            f"{type(r.effect).__name__}: {r.note}" for r in results if r.outcome in ("failed", "later")
        ][:50]
        return results

    def _hours(self, now: datetime) -> Sequence[HourRow]:
        def rows() -> list[HourRow]:
            with History(self.folder.history) as history:
                return history.rows(now, HORIZON)

        return known("the history", rows, self.faults) or []

    def _record(self, now: datetime, needs: Mapping[str, Need]) -> None:
        def record() -> bool:
            with History(self.folder.history) as history:
                history.record(now, needs)
            return True

        if needs and not self.observes:
            known("the history", record, self.faults)
