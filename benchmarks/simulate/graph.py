"""Who knows whom: the tracker's answers, and connections in both directions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulate.model import Farm

Ints = NDArray[np.int32]
Bits = NDArray[np.uint8]


class Graph:
    """Connections between hosts. `near[h, :degree[h]]` are the hosts that `h` is connected with, `around[h, p]` how
    many of those have the piece `p`; `has` says who has what."""

    def __init__(self, farm: Farm, rack: Ints, chance: np.random.Generator, has: Bits) -> None:
        self.farm = farm
        self.rack = rack
        self.chance = chance
        self.has = has
        self.around = np.zeros_like(has)
        self.near = np.zeros((farm.hosts, farm.most_peers), np.int32)
        self.degree = np.zeros(farm.hosts, np.int32)
        self._known: list[set[int]] = [set() for _ in range(farm.hosts)]
        self._announced: list[int] = []
        self._in_rack: dict[int, list[int]] = {}
        self._listed: set[int] = set()

    def announce(self, host: int) -> None:
        """A host tells the tracker that it is there, gets others, and connects with those that have room."""
        mates = self._in_rack.setdefault(int(self.rack[host]), [])
        wanted = self._some(mates, self.farm.near)
        wanted += self._some(self._announced, self.farm.peers - len(wanted))
        for other in wanted:
            self._connect(host, other)
        if host not in self._listed:
            self._listed.add(host)
            self._announced.append(host)
            mates.append(host)

    def tell(self, host: NDArray[np.integer], piece: Ints) -> None:
        """Each of these hosts has a new piece, and tells those that it is connected with."""
        column = np.arange(self.farm.most_peers)
        which, at = np.nonzero(column < self.degree[host][:, None])
        np.add.at(self.around, (self.near[host[which], at], piece[which]), 1)

    def leave(self, host: int) -> None:
        """The host is gone; those that were connected with it see that."""
        if host in self._listed:
            self._listed.discard(host)
            self._announced.remove(host)
            self._in_rack[int(self.rack[host])].remove(host)
        for other in list(self._known[host]):
            self._disconnect(other, host)
        self._known[host].clear()
        self.degree[host] = 0

    def _some(self, of: list[int], most: int) -> list[int]:
        if len(of) <= most:
            return list(of)
        return [of[n] for n in self.chance.choice(len(of), most, replace=False)]

    def _connect(self, one: int, other: int) -> None:
        most = self.farm.most_peers
        if one == other or other in self._known[one] or max(self.degree[one], self.degree[other]) >= most:
            return
        for a, b in ((one, other), (other, one)):
            self._known[a].add(b)
            self.near[a, self.degree[a]] = b
            self.degree[a] += 1
            self.around[a] += self.has[b]

    def _disconnect(self, host: int, gone: int) -> None:
        self._known[host].discard(gone)
        degree = self.degree[host]
        at = int(np.flatnonzero(self.near[host, :degree] == gone)[0])
        self.near[host, at] = self.near[host, degree - 1]
        self.degree[host] -= 1
        self.around[host] -= self.has[gone]
