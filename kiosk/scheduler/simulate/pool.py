"""The nodes of one type in a simulated farm: who has free slots, and what the nodes' hours went into."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush

from kiosk.scheduler.model import NodeType, Supply


@dataclass(slots=True, eq=False)
class SimNode:
    """A node. `ready` once it takes jobs, `open` until it drains; `free` of its slots."""

    number: int
    launched: float
    until: float
    free: int
    ready: bool = False
    open: bool = True
    gone: bool = False
    idle_since: float = 0.0


@dataclass
class Hours:
    """Node-seconds by what they went into: all of them, booting, joined without a job; and slot-seconds with one."""

    all: float = 0.0
    boot: float = 0.0
    idle: float = 0.0
    used: float = 0.0


@dataclass
class Pool:
    """The nodes of a type, all that are not gone in `nodes`."""

    type: NodeType
    nodes: dict[int, SimNode] = field(default_factory=dict)
    coming: dict[int, SimNode] = field(default_factory=dict)
    idle: dict[int, SimNode] = field(default_factory=dict)
    draining: int = 0
    free: int = 0
    used: int = 0
    launches: int = 0
    hours: Hours = field(default_factory=Hours)
    _by_free: list[list[tuple[int, SimNode]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._by_free = [[] for _ in range(self.type.slots + 1)]

    @property
    def supply(self) -> Supply:
        """As the scheduler's core has it."""
        idle, coming = len(self.idle), len(self.coming)
        busy = len(self.nodes) - idle - coming - self.draining
        return Supply(coming, busy, idle, self.draining, used=self.used / self.type.slots)

    def launch(self, at: float, until: float, number: int) -> SimNode:
        """A node that will be ready later."""
        node = SimNode(number, at, until, self.type.slots)
        self.nodes[number] = self.coming[number] = node
        self.launches += 1
        return node

    def join(self, node: SimNode, at: float) -> None:
        """A node that takes jobs from now on."""
        del self.coming[node.number]
        node.ready, node.idle_since = True, at
        self.hours.boot += at - node.launched
        self.idle[node.number] = node
        self.free += node.free
        self._offer(node)

    def stop(self, node: SimNode, at: float) -> None:
        """Ends a node without jobs."""
        if node.ready:
            if node.open:
                self.free -= node.free
                self.hours.idle += at - node.idle_since
            else:
                self.draining -= 1
            self.idle.pop(node.number, None)
        else:
            del self.coming[node.number]
            self.hours.boot += at - node.launched
        del self.nodes[node.number]
        node.gone, node.open = True, False
        self.hours.all += at - node.launched

    def drain(self, node: SimNode, at: float) -> None:
        """A node takes no jobs any more, and ends with its last one."""
        if node.free == self.type.slots:
            self.stop(node, at)
            return
        self.free -= node.free
        node.open = False
        self.draining += 1
        self.used -= self.type.slots - node.free

    def take(self, slots: int, one_host: bool, at: float) -> list[tuple[SimNode, int]] | None:
        """Slots for a job on the fullest nodes, the oldest first; None where there are not enough."""
        if slots > self.free or (one_host and slots > self.type.slots):
            return None
        taken: list[tuple[SimNode, int]] = []
        left = slots
        for free in range(slots if one_host else 1, self.type.slots + 1):
            heap = self._by_free[free]
            while left and heap:
                number, node = heap[0]
                if not node.open or node.free != free:
                    heappop(heap)
                    continue
                heappop(heap)
                here = min(left, free)
                taken.append((node, here))
                left -= here
                if free == self.type.slots:
                    del self.idle[number]
                    self.hours.idle += at - node.idle_since
                node.free -= here
                self.free -= here
                self.used += here
                if node.free:
                    self._offer(node)
            if not left:
                return taken
        return None  # only where one host is asked for, before anything was taken

    def give(self, node: SimNode, slots: int, at: float) -> None:
        """A job's slots on a node are free again."""
        node.free += slots
        if not node.open:
            if node.free == self.type.slots:
                self.stop(node, at)
            return
        self.free += slots
        self.used -= slots
        self._offer(node)
        if node.free == self.type.slots:
            self.idle[node.number] = node
            node.idle_since = at

    def _offer(self, node: SimNode) -> None:
        heappush(self._by_free[node.free], (node.number, node))

    def surplus(self, many: int) -> list[SimNode]:
        """The nodes to end first where there are `many` too many: not ready yet (the latest first), then idle ones
        (those first whose lives end first). Never one with jobs."""
        latest: deque[SimNode] = deque(sorted(self.coming.values(), key=lambda n: -n.number)[:many])
        idle = sorted(self.idle.values(), key=lambda n: (n.until, n.number))[: max(0, many - len(latest))]
        return [*latest, *idle]

    def end(self, at: float) -> None:
        """The simulation is over: hours of nodes that are there count until now."""
        for node in self.nodes.values():
            self.hours.all += at - node.launched
            if not node.ready:
                self.hours.boot += at - node.launched
            elif node.number in self.idle:
                self.hours.idle += at - node.idle_since
