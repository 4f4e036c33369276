"""For how long idle nodes are kept: learned from how long they were idle before work came back. Pure.

A type's nodes are thought of as a pile: the lowest have work whenever there is any, the highest only at peaks. When
the work falls from ten nodes to six, the levels seven to ten are idle from then on; when it rises again, their gaps
end, and are remembered by their length. From those gaps follows, for any patience, what it would cost in idle
node-hours. The longest patience is taken with which idle node-hours stay within IDLE_PART of all, counting those that
nodes are idle anyway, while they wait for others that one job needs at once. In the same way it is learned by how much
the work rises between two looks, so that a few nodes are ready for what mostly comes. What is remembered is a few
dozen numbers, whatever the farm's size, and fades with time.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from math import ceil

from kiosk.scheduler.model import Supply

IDLE_PART = 0.05
"""Idle node-hours, as a part of all."""
EDGES = tuple(150.0 * 2 ** (n / 2) for n in range(21))
"""Lengths of gaps that are told apart, and patiences to choose from: 150 s to 43 h."""
FIRST = 900.0
"""The patience of a type that nothing is known of."""
KNOWN = 6 * 3600.0
"""Seconds until what was learned is believed."""
FADE = 14 * 86400.0
"""After so long, what was seen counts half."""
RISES = 12
"""Rises of the work that are told apart: none, 1, 2 to 3, 4 to 7 nodes and so on."""
READY = 0.9
"""The part of the rises that ready nodes cover,"""
READY_PART = 0.02
"""where that takes no more than this part of all nodes."""
MOST = 64
"""So many steps of the pile are told apart; the oldest ones are joined."""


@dataclass(frozen=True)
class Kept:
    """`level` nodes had work when last seen; `idle` are the levels above, each step with its top and since when it is
    idle (lowest first); `gaps` how many gaps ended in each class of EDGES; `watched` are the seconds seen, `all` the
    node-seconds, `idle_time` those of them without work, and `forced` those without although work waited; `work` is
    the level not rounded, and `rises` counts by how much it rose between two looks."""

    level: int = 0
    idle: tuple[tuple[int, float], ...] = ()
    gaps: tuple[float, ...] = (0.0,) * len(EDGES)
    watched: float = 0.0
    all: float = 0.0
    idle_time: float = 0.0
    forced: float = 0.0
    work: float = 0.0
    rises: tuple[float, ...] = (0.0,) * RISES


def seen(kept: Kept, level: int, work: float, supply: Supply, at: float, passed: float) -> Kept:
    """What is remembered after `level` nodes have work at `at` (`work`: not rounded), `passed` seconds after the time
    before."""
    gaps = list(kept.gaps) if len(kept.gaps) == len(EDGES) else [0.0] * len(EDGES)
    fade = 0.5 ** (passed / FADE)
    gaps = [n * fade for n in gaps]
    idle, below = [], kept.level
    for top, since in kept.idle:
        since = min(since, at)
        if at - since > EDGES[-1]:
            gaps[-1] += top - below  # no work came back for longer than anybody would wait
        elif top > level:
            idle.append((top, since))
            _end(gaps, max(0, level - below), at - since)
        else:
            _end(gaps, top - below, at - since)
        below = max(below, top)
    if level < kept.level:
        idle.insert(0, (kept.level, at))
    while len(idle) > MOST:
        del idle[-2]
    everything = kept.all * fade + (supply.nodes + supply.draining) * passed
    forced = kept.forced * fade + min(supply.idle, max(0, level - supply.busy)) * passed
    idling = kept.idle_time * fade + supply.idle * passed
    watched = kept.watched * fade + passed
    rises = [n * fade for n in kept.rises] if len(kept.rises) == RISES else [0.0] * RISES
    rises[min(RISES - 1, ceil(max(0.0, work - kept.work)).bit_length())] += 1
    return Kept(level, tuple(idle), tuple(gaps), watched, everything, idling, forced, work, tuple(rises))


def _end(gaps: list[float], nodes: int, length: float) -> None:
    if nodes > 0:
        gaps[min(len(EDGES) - 1, max(0, bisect_right(EDGES, length) - 1))] += nodes


def stay(kept: Kept, at: float, most: float | None = None) -> tuple[int, float]:
    """The highest level that is still kept, and for how long idle levels are: `most` seconds at the most."""
    patience = _patience(kept, at) if most is None else min(most, _patience(kept, at))
    tops = [top for top, since in kept.idle if at - since < patience]
    return max(tops, default=0), patience


def _patience(kept: Kept, at: float) -> float:
    if kept.watched < KNOWN:
        return FIRST
    if kept.idle_time > IDLE_PART * kept.all:
        return 0.0
    budget = IDLE_PART * kept.all - kept.forced
    gaps, below = list(kept.gaps), kept.level
    for top, since in kept.idle:  # gaps that have not ended are at least so long
        _end(gaps, top - below, at - since)
        below = max(below, top)
    best, ended, over = 0.0, 0.0, sum(gaps)
    for edge, n in zip(EDGES, gaps, strict=True):
        # gaps of this class end before the next edge; all longer ones cost the whole patience
        if ended + over * edge > budget:
            break
        best = edge
        ended += n * edge * 1.19
        over -= n
    return best


def ready(kept: Kept) -> int:
    """How many nodes without work cover what comes between two looks, nine times out of ten; none where that would be
    more than a small part of all nodes."""
    if kept.watched < KNOWN:
        return 0
    below, every = 0.0, sum(kept.rises)
    for size, n in enumerate(kept.rises):
        below += n
        if below >= READY * every:
            nodes = (1 << size) - 1
            return nodes if nodes <= READY_PART * kept.all / kept.watched else 0
    return 0
