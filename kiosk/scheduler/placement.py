"""Where nodes go: which hypervisor has memory, cores and scratch for one more, and how many it holds. Pure.

A VM takes more of its hypervisor than its own memory: `Overhead` has what was measured (docs/placement.md), and a part
of each hypervisor is kept for itself. Among those with room, one that has the image cached goes before one that has
to fetch it, as long as that does not heap nodes of a type on few hypervisors or racks: what fails together should be
small. Without a list of hypervisors the place is left to the cloud's own scheduler.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kiosk.model.flavour import Flavour


@dataclass(frozen=True)
class Overhead:
    """What a VM takes of its hypervisor beyond its memory, in MiB: for each VM, for each GiB of its memory, for each
    core, and for code that QEMU translates where it has no KVM (512); and what a hypervisor keeps for itself, a share
    of its memory but at least `reserve`. `cores_each` are cores of VMs for each of the hypervisor's. `fetch` is how
    many nodes of a type more a hypervisor may have because it has the image and others do not."""

    vm: float = 160.0
    gib: float = 4.0
    core: float = 4.0
    code: float = 0.0
    reserve: float = 1024.0
    reserve_share: float = 0.05
    cores_each: float = 1.0
    fetch: float = 2.0

    def of(self, flavour: Flavour) -> int:
        """Of one VM, in MiB, beyond its memory."""
        return round(self.vm + self.gib * flavour.memory + self.core * flavour.cores + self.code)

    def kept(self, memory: int) -> int:
        """What a hypervisor with so many MiB keeps for itself."""
        return round(max(self.reserve, memory * self.reserve_share))


@dataclass(frozen=True)
class Hypervisor:
    """A hypervisor: `memory` in MiB, `scratch` in GiB that disks of VMs may take, `taken` MiB that others than kiosk's
    nodes use. `images` are the versions (NAME@VERSION) in its cache."""

    name: str
    memory: int
    cores: int
    scratch: int
    rack: str = ""
    taken: int = 0
    images: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Used:
    """What the nodes on a hypervisor take: MiB with overhead, cores, GiB of scratch."""

    memory: int = 0
    cores: int = 0
    scratch: int = 0

    def plus(self, flavour: Flavour, overhead: Overhead, count: int = 1) -> Used:
        """With so many more VMs of a flavour."""
        each = flavour.memory * 1024 + overhead.of(flavour)
        return Used(
            self.memory + count * each, self.cores + count * flavour.cores, self.scratch + count * flavour.scratch
        )  # fmt: skip


@dataclass(frozen=True)
class Holds:
    """How many more VMs of a flavour a hypervisor holds, and why not more, in a sentence."""

    count: int
    why: str


def holds(on: Hypervisor, flavour: Flavour, overhead: Overhead, used: Used | None = None) -> Holds:
    """How many VMs of a flavour a hypervisor holds beside what it has."""
    there = used or Used()
    count, least, each = _room(on, flavour, overhead, there)
    kept = overhead.kept(on.memory)
    others = on.taken + there.memory
    why = {
        "memory": f"{on.memory} MiB of memory less {kept} for the hypervisor itself"
        + (f" and {others} in use" if others else "")
        + f" leave {max(0, on.memory - kept - others)}, and each VM takes {flavour.memory * 1024} for its guest and "
        f"{each - flavour.memory * 1024} beside it",
        "cores": f"{on.cores} cores, {there.cores} in use, and each VM has {flavour.cores}",
        "scratch": f"{on.scratch} GiB for scratch disks, {there.scratch} in use, and each VM has {flavour.scratch}",
    }[least]
    more = "more " if there != Used() or on.taken else ""
    return Holds(count, f"{on.name} holds {count} {more}VMs of {flavour}: {why}")


def _room(on: Hypervisor, flavour: Flavour, overhead: Overhead, there: Used) -> tuple[int, str, int]:
    each = flavour.memory * 1024 + overhead.of(flavour)
    memory = (on.memory - overhead.kept(on.memory) - on.taken - there.memory) // each
    cores = int(on.cores * overhead.cores_each - there.cores) // flavour.cores
    scratch = (on.scratch - there.scratch) // flavour.scratch
    count, least = min((memory, "memory"), (cores, "cores"), (scratch, "scratch"))
    return max(0, count), least, each


@dataclass(frozen=True)
class Wish:
    """`count` nodes of a type, of one image and flavour, that need a place."""

    type: str
    image: str
    flavour: Flavour
    count: int


@dataclass
class Ground:
    """The hypervisors as they fill up in a tick. `there` counts nodes of each type on each hypervisor, `closed` are
    those that get none now (their circuit is open)."""

    hypervisors: Sequence[Hypervisor]
    overhead: Overhead = field(default_factory=Overhead)
    used: dict[str, Used] = field(default_factory=dict)
    there: Counter[tuple[str, str]] = field(default_factory=Counter)
    closed: Mapping[str, int] = field(default_factory=dict)
    """How many each of these may get: 0 where its circuit is open, 1 where a probe may go."""
    probes: Counter[str] = field(default_factory=Counter)

    def occupy(self, nodes: Iterable[tuple[str, str, Flavour]]) -> None:
        """Counts nodes that are there: (hypervisor, type, flavour)."""
        same: Counter[tuple[str, str, Flavour]] = Counter(nodes)
        for (where, type, flavour), count in same.items():
            self.used[where] = self.used.get(where, Used()).plus(flavour, self.overhead, count)
            self.there[where, type] += count

    def place(self, wish: Wish) -> list[str]:
        """A hypervisor for each of the nodes, as far as there is room; what is placed is counted."""
        racks: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
        sizes: Counter[str] = Counter()
        load: Counter[str] = Counter()
        left: dict[str, int] = {}
        for on in self.hypervisors:
            sizes[on.rack] += 1
            here = self.there.get((on.name, wish.type), 0)
            load[on.rack] += here
            room = self._left(on, wish.flavour)
            if room > 0:
                left[on.name] = room
                far = 0.0 if wish.image in on.images else self.overhead.fetch
                racks[on.rack].append((here + far, -room, on.name))
        for heap in racks.values():
            heapq.heapify(heap)
        order = [(heap[0][0] + load[rack] / sizes[rack], rack) for rack, heap in racks.items()]
        heapq.heapify(order)
        found: list[str] = []
        while order and len(found) < wish.count:
            _, rack = order[0]
            heap = racks[rack]
            score, room, name = heap[0]
            found.append(name)
            load[rack] += 1
            left[name] -= 1
            if left[name] > 0:
                heapq.heapreplace(heap, (score + 1, room + 1, name))
            else:
                heapq.heappop(heap)
            if heap:
                heapq.heapreplace(order, (heap[0][0] + load[rack] / sizes[rack], rack))
            else:
                heapq.heappop(order)
        self.occupy((name, wish.type, wish.flavour) for name in found)
        for name in found:
            if name in self.closed:
                self.probes[name] += 1
        return found

    def _left(self, on: Hypervisor, flavour: Flavour) -> int:
        room = _room(on, flavour, self.overhead, self.used.get(on.name, Used()))[0]
        return min(room, self.closed[on.name] - self.probes[on.name]) if on.name in self.closed else room

    def why_not(self, flavour: Flavour) -> str:
        """Why no hypervisor has room for one more VM of a flavour, by the one that comes nearest."""
        open_ones = [on for on in self.hypervisors if self.closed.get(on.name, 1) > self.probes[on.name]]
        if not open_ones:
            return "nodes fail on every hypervisor: none is tried now"
        best = max(open_ones, key=lambda on: on.memory - on.taken - self.used.get(on.name, Used()).memory)
        return holds(best, flavour, self.overhead, self.used.get(best.name)).why
