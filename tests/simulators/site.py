"""A site: a cloud, a batch system, jobs, people and a clock, behind the interfaces that the scheduler uses.

It keeps the truth, and writes down in `wrongs` whatever must never be done to it. Faults are switched on by name:

    cloud: unreachable, flaky (half of the calls fail, some after they were done), nothing (says yes and starts
           nothing), twice (starts two), slow (lists a VM late), stale (lists VMs late, and ended ones for a while),
           lost (starts one, lists it late, and the answer is lost), refuses, empty (lists nothing)
    batch: unreachable, flaky, half (half of the hosts are missing), renamed (hosts have other names)
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from sqlite3 import Connection

from kiosk.batch.api import Host, Look
from kiosk.cloud.api import Capabilities, Phase, VmSpec, VmState
from kiosk.errors import BatchError, GuestError, NetworkError, NotFoundError
from kiosk.model.flavour import FLAVOURS
from kiosk.model.names import ImageRef, Version
from kiosk.scheduler.breaker import Images
from kiosk.scheduler.execute import Executor, Result, begin, given_up, known
from kiosk.scheduler.ledger import Ledger
from kiosk.scheduler.life import Moment
from kiosk.scheduler.model import Node, NodeType, Target
from kiosk.scheduler.placement import Hypervisor
from kiosk.scheduler.plan import Plan, Rules, Site
from kiosk.scheduler.reconcile import reconcile

LATE = 200.0
"""For so long at most a cloud's list lags behind."""
BOOTS, JOINS = 120.0, 60.0
IMAGE = "debian-12-worker"
CAN = Capabilities(layers=True, report=True, console=False, execute=False, drain=True)


@contextmanager
def fast_folder() -> Iterator[Path]:
    """A folder in memory, where there is one: a commit of the ledger waits for a disk otherwise."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


class Crash(BaseException):
    """The scheduler is dead."""


@dataclass
class Time:
    """The wall clock, which may be set, and the machine's own, which only goes on."""

    wall: datetime = datetime(2026, 11, 25, 9, tzinfo=UTC)
    uptime: float = 1000.0

    def now(self) -> datetime:
        return self.wall

    def moment(self) -> Moment:
        return Moment(self.wall, "boot", self.uptime)


@dataclass
class Vm:
    """A VM as it is. `began` and all other times are of the machine's own clock."""

    id: str
    name: str
    image: str
    began: float
    created: datetime
    second: bool = False
    bad: str = ""
    drains: bool = False
    stopped: float | None = None
    removed: float | None = None
    shown: float = 0.0


@dataclass
class Machine:
    """A host of the batch system."""

    name: str
    vm: str | None
    jobs: int = 0
    locks: set[str] = field(default_factory=set)


@dataclass
class World:
    """The truth, and both interfaces to it."""

    time: Time = field(default_factory=Time)
    vms: dict[str, Vm] = field(default_factory=dict)
    hosts: dict[str, Machine] = field(default_factory=dict)
    cloud_fault: str = ""
    batch_fault: str = ""
    bad_images: dict[str, str] = field(default_factory=dict)
    floor: Version | None = None
    versions: list[str] = field(default_factory=lambda: [f"{IMAGE}@1"])
    started: Counter[str] = field(default_factory=Counter)
    wrongs: list[str] = field(default_factory=list)
    jobs_lost: int = 0
    crash_in: int | None = None
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    serial: int = 0
    name: str = "simulated"
    capabilities: Capabilities = CAN
    queries: int = 0

    # -- what happens by itself ---------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Time passes: VMs boot, join, drain, and stop."""
        self.time.wall += timedelta(seconds=seconds)
        self.time.uptime += seconds
        for vm in list(self.vms.values()):
            ours = vm.name.startswith("kiosk-") and not vm.second and not vm.bad and not vm.drains
            if ours and self.alive(vm) and self._age(vm) > BOOTS + JOINS:
                self.hosts.setdefault(vm.name, Machine(vm.name, vm.id))
            host = self.hosts.get(vm.name)
            if vm.drains and self.alive(vm) and (host is None or host.jobs == 0):
                vm.stopped = self.time.uptime
                self.hosts.pop(vm.name, None)

    def _age(self, vm: Vm) -> float:
        return self.time.uptime - vm.began

    def alive(self, vm: Vm) -> bool:
        """Whether it runs."""
        return vm.stopped is None and vm.removed is None

    def fill(self, count: int) -> None:
        """Jobs start, as many as open hosts have room for."""
        for host in self.hosts.values():
            if not host.locks and self._up(host):
                more = min(count, 4 - host.jobs)
                host.jobs += more
                count -= more

    def finish(self) -> None:
        """All jobs end."""
        for host in self.hosts.values():
            host.jobs = 0

    def _up(self, host: Machine) -> bool:
        return host.vm is None or (host.vm in self.vms and self.alive(self.vms[host.vm]))

    def dies(self, vm: Vm) -> None:
        """A VM is gone without a word, as with its hypervisor."""
        vm.removed = self.time.uptime
        if vm.name in self.hosts:
            self.hosts[vm.name].jobs = 0

    def appears(self, name: str, image: str) -> Vm:
        """A VM that the scheduler did not start."""
        return self._made(name, image)

    def _made(self, name: str, image: str, *, second: bool = False) -> Vm:
        self.serial += 1
        vm = Vm(
            f"vm{self.serial}",
            name,
            image,
            self.time.uptime,
            self.time.wall,
            second,
            self.bad_images.get(image, ""),
        )
        vm.shown = self.time.uptime
        self.vms[vm.id] = vm
        return vm

    # -- the cloud ----------------------------------------------------------------------------------------

    def start(self, spec: VmSpec) -> VmState:
        with self._call("cloud"):
            self.started[spec.name] += 1
            if self.started[spec.name] > 1:
                self.wrongs.append(f"{spec.name} was started twice")
            if self.floor is not None and spec.image.version is not None and spec.image.version < self.floor:
                self.wrongs.append(f"{spec.image} is revoked and was launched")
            if self.cloud_fault == "refuses":
                raise GuestError("no room")
            if self.cloud_fault == "nothing":
                return VmState("vm0", "", spec.name, str(spec.image), (), "", "starting", self.time.wall)
            vm = self._made(spec.name, str(spec.image))
            if self.cloud_fault == "twice":
                self._made(spec.name, str(spec.image), second=True)
            if self.cloud_fault in ("slow", "stale", "lost"):
                vm.shown += LATE
            if self.cloud_fault == "lost":
                raise NetworkError("no answer")
        return self._state(vm)

    def list_vms(self) -> list[VmState]:
        with self._call("cloud"):
            pass
        if self.cloud_fault == "empty":
            return []
        now, late = self.time.uptime, LATE if self.cloud_fault == "stale" else 0.0
        return [
            self._state(vm)
            for vm in self.vms.values()
            if vm.shown <= now and (vm.removed is None or now - vm.removed < late)
        ]

    def _state(self, vm: Vm) -> VmState:
        phase: Phase = "ready" if self._age(vm) > BOOTS else "booting"
        jobs = None
        if vm.bad == "boot":
            phase = "booting"
        elif vm.bad == "fails" and phase == "ready":
            phase = "failed"
        if vm.drains:
            phase, jobs = "draining", self.hosts[vm.name].jobs if vm.name in self.hosts else 0
        if vm.stopped is not None:
            phase = "stopped"
        return VmState(vm.id, vm.id, vm.name, vm.image, (), "", phase, vm.created, jobs=jobs)

    def stop(self, id: str, *, now: bool = False) -> None:
        with self._call("cloud"):
            vm = self.vms.get(id)
            if vm is None or vm.removed is not None:
                raise NotFoundError(f"there is no VM {id}")
            if not vm.name.startswith("kiosk-"):
                self.wrongs.append(f"the VM {vm.name} is not kiosk's and was stopped")
            host = self.hosts.get(vm.name)
            if host is not None and host.vm == vm.id:
                if host.jobs and self.alive(vm):
                    self.jobs_lost += host.jobs
                    self.wrongs.append(f"{vm.name} was stopped with {host.jobs} jobs")
                host.jobs = 0
            vm.removed = self.time.uptime

    def drain(self, id: str, reason: str) -> None:
        with self._call("cloud"):
            vm = self.vms.get(id)
            if vm is None or vm.removed is not None:
                raise NotFoundError(f"there is no VM {id}")
            if self._age(vm) <= BOOTS or vm.bad:
                raise GuestError("its guest does not answer")
            vm.drains = True
            if vm.name in self.hosts:
                self.hosts[vm.name].locks.add("guest")

    # -- the batch system -----------------------------------------------------------------------------------

    def look(self) -> Look:
        self.queries += 1
        with self._call("batch"):
            pass
        found = [self._host(host) for host in self.hosts.values()]
        if self.batch_fault == "half":
            found = found[: len(found) // 2]
        return Look(self.time.wall, hosts=found)

    def _host(self, host: Machine) -> Host:
        name, values = host.name, frozenset[tuple[str, str]]()
        if self.batch_fault == "renamed" and host.vm is not None:
            name, values = f"wn-{host.vm}", frozenset({("kiosk", host.name)})
        status = "unavailable" if not self._up(host) else "closed" if host.locks else "open"
        return Host(
            name, status, 4, host.jobs, host.jobs, values=values, mine="kiosk" in host.locks,
            others=bool(host.locks - {"kiosk"}), reason=" ".join(sorted(host.locks)),
        )  # type: ignore[arg-type]  # fmt: skip

    def close(self, host: str, reason: str) -> None:
        with self._call("batch"):
            if (found := self._ours(host, "closed")) is not None:
                found.locks.add("kiosk")

    def open(self, host: str) -> None:
        with self._call("batch"):
            found = self._ours(host, "opened")
            if found is not None:
                if found.locks - {"kiosk"}:
                    self.wrongs.append(f"{host} was closed by somebody else and was opened")
                found.locks.discard("kiosk")

    def remove(self, host: str) -> None:
        with self._call("batch"):
            found = self._ours(host, "removed")
            if found is not None:
                if self._up(found):
                    self.wrongs.append(f"the host {host} runs and was removed")
                del self.hosts[found.name]

    def _ours(self, name: str, what: str) -> Machine | None:
        if name.startswith("wn-vm"):
            name = next((h.name for h in self.hosts.values() if f"wn-{h.vm}" == name), name)
        host = self.hosts.get(name)
        if host is not None and host.vm is None:
            self.wrongs.append(f"the real host {name} was {what}")
            return None
        return host

    # -- faults ---------------------------------------------------------------------------------------------

    @contextmanager
    def _call(self, side: str) -> Iterator[None]:
        """A call of the scheduler's: it may die before or after it, and may hear of an error before or after it was
        done."""
        fault = self.cloud_fault if side == "cloud" else self.batch_fault
        error = NetworkError("no answer") if side == "cloud" else BatchError("no answer")
        self.point()
        if fault == "unreachable" or (fault == "flaky" and self.chance.random() < 0.4):
            raise error
        yield
        self.point()
        if fault == "flaky" and self.chance.random() < 0.2:
            raise error

    def point(self) -> None:
        """A moment at which the scheduler may die."""
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                self.crash_in = None
                raise Crash


class CrashingLedger(Ledger):
    """A ledger whose process may die before and after each commit."""

    point: Callable[[], None] = staticmethod(lambda: None)

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        self.point()
        with super()._begin() as line:
            yield line
        self.point()


TYPES = {
    "worker": NodeType("worker", IMAGE, (), FLAVOURS["c4"], 4, 7000, 0, 8, 86400.0, 2),
    "big": NodeType("big", IMAGE, (), FLAVOURS["c8"], 8, 14000, 0, 3, 86400.0, 1),
}


@dataclass
class Scheduler:
    """The scheduler as its processes run one after the other: each tick opens the ledger anew."""

    world: World
    path: Path
    types: dict[str, NodeType] = field(default_factory=lambda: dict(TYPES))
    rules: Rules = field(default_factory=Rules)
    hypervisors: list[Hypervisor] | None = None
    ticks: int = 0
    plan: Plan = field(default_factory=Plan)

    def tick(self, targets: dict[str, int] | None) -> list[Result]:
        """One tick, in which the scheduler may die."""
        self.ticks += 1
        world, time = self.world, self.world.time
        ledger = CrashingLedger(self.path)
        ledger.point = world.point  # type: ignore[method-assign]
        try:
            begin(ledger, time.moment())
            vms, look = known("the cloud", world.list_vms, []), known("the batch system", world.look, [])
            wanted = None if targets is None or look is None else [Target(t, n) for t, n in targets.items()]
            images = Images({IMAGE: list(reversed(world.versions))}, {IMAGE: world.floor})
            hosts = None if look is None else look.hosts
            gone = given_up(ledger, vms, hosts, self.rules)
            site = Site(
                time.now(), self.types, ledger.nodes(), vms, hosts, wanted, images, ledger.circuits(),
                self.hypervisors, gone, ledger.born(time.now()), self.ticks,
            )  # fmt: skip
            self.plan = reconcile(site, self.rules)
            return Executor(world, world, ledger, self._spec, self.rules, time.now).run(self.plan)
        finally:
            ledger.close()

    def _spec(self, node: Node) -> VmSpec:
        return VmSpec(
            node.id, ImageRef.parse(node.image), (), self.types[node.type].flavour, self.path.parent
        )

    def nodes(self) -> dict[str, Node]:
        """What the ledger has."""
        with Ledger.reading(self.path) as ledger:
            return dict(ledger.nodes())

    def go_on(self, targets: dict[str, int], ticks: int, *, every: float = 300.0) -> None:
        """Ticks, with time between them."""
        for _ in range(ticks):
            self.tick(targets)
            self.world.wait(every)
