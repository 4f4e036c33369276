"""Three other ways to bring an image to a farm, on the same links: plain HTTP from the kiosk, a Squid in each
rack, and a tree of copies of whole files (every host that has the image sends it to one more host at a time).

They are given the best case: no limit on connections, no time-outs, no stragglers but slow links.
"""

from __future__ import annotations

import heapq

import numpy as np

from benchmarks.simulate.model import GIGABIT, Farm, Result

SQUID = 10 * GIGABIT
"""A rack's Squid has a link of this rate."""


def http(farm: Farm) -> Result:
    """All hosts read from the kiosk at once, in equal shares of its link."""
    share = min(farm.link, farm.origin / farm.hosts) * farm.wire
    return _result("plain HTTP", farm, np.full(farm.hosts, (farm.size + farm.papers) / share), farm.hosts)


def squids(farm: Farm) -> Result:
    """Each rack's Squid reads one copy and passes it on as it comes."""
    rack = farm.racks.hosts or farm.hosts
    sizes = [min(rack, farm.hosts - at) for at in range(0, farm.hosts, rack)]
    from_kiosk = min(farm.origin / len(sizes), SQUID, farm.racks.uplink or SQUID)
    times = [
        (farm.size + farm.papers) / (min(from_kiosk, SQUID / size, farm.link) * farm.wire)
        for size in sizes
        for _ in range(size)
    ]
    return _result("a Squid in each rack", farm, np.array(times), len(sizes))


def tree(farm: Farm) -> Result:
    """The kiosk and every host that has all of the image send it to one host that has not, one after the other. The
    receiver is drawn at random, so that most copies cross racks, whose uplinks they share."""
    chance = np.random.default_rng(farm.seed)
    crossing = 1 - (farm.racks.hosts or farm.hosts) / farm.hosts
    senders = [(0.0, -1)]
    done: list[float] = []
    while len(done) < farm.hosts:
        began, who = heapq.heappop(senders)
        rate = min(farm.link, farm.origin) if who < 0 else farm.link
        if farm.racks.hosts and len(done) > farm.racks.hosts:
            # once most hosts send, a rack's senders share its uplink
            sending = min(1.0, len(done) / farm.hosts)
            busy = farm.racks.hosts * sending * crossing
            rate = min(rate, farm.racks.uplink / max(1.0, busy))
        ended = began + farm.size / (rate * farm.wire) + 1 + chance.random()
        done.append(ended)
        heapq.heappush(senders, (ended, who))
        heapq.heappush(senders, (ended, len(done)))
    sent = 1 + int(max(done) // (farm.size / (farm.origin * farm.wire) + 1.5))
    return _result("a tree of copies", farm, np.array(done), sent)


def _result(way: str, farm: Farm, moved: np.ndarray, copies: float) -> Result:
    """Hosts verify and write while they receive."""
    written = np.maximum(moved, farm.size / farm.assembly) + farm.begin + farm.end
    return Result(
        way=way,
        hosts=farm.hosts,
        done=sorted(float(t) for t in written),
        origin_bytes=copies * farm.size / farm.wire,
    )
