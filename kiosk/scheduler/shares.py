"""Who gets the capacity where it does not suffice for everybody: queue priority and fair share. Pure.

The rule, in this order:
1. What runs keeps its nodes, and each type its minimum.
2. The queues of the highest priority get what their jobs ask for, then those of the next.
3. Between queues of the same priority, and inside a queue, fair share decides: nodes go first to whoever has the
   least for its shares, counting what runs for it now, level by level of the tree of groups and users (hierarchical
   water-filling). Nobody gets more than asked; what one leaves goes to the others.
4. A type's maximum is divided in the same way among those who ask for that type, before the capacity is.

Where nodes and cores are both limited, a node is counted by the scarcer of the two. Never more than the capacity is
granted; nothing that is asked for is left ungranted while there is capacity for it; more capacity never means less for
anybody (where only one of the two is limited).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kiosk.batch.api import Queue, Share
from kiosk.scheduler.model import Capacity, Claim, Need, NodeType, Supply

DEEPEST = 16
LEAST = 1e-6
"""The weight of who has no share: others go first."""
CLOSE = 1e-9
PASSES = 8
OTHERS = ("others", "default")
"""What batch systems call the share of those who are not named."""
Path = tuple[tuple[str, float], ...]
"""From the tree's root to a user: names, each with its shares beside its siblings'."""


def divide(
    capacity: Capacity,
    needs: Mapping[str, Need],
    shares: Sequence[Share],
    queues: Sequence[Queue],
    types: Mapping[str, NodeType],
    own: Mapping[str, Supply] | None = None,
) -> dict[str, float]:
    """How many nodes each type is granted for what runs and waits, and for its minimum; not rounded. With `own`, what
    runs are whole nodes that are busy or drain, and jobs that wait use the free slots of the busy ones first; nodes
    that drain are then in the capacity, but not in what is returned."""
    asked = {name: needs.get(name, Need()) for name in types}
    if own is not None:
        asked = {name: _beside(asked[name], own.get(name, Supply())) for name in types}
        found = divide(capacity, asked, shares, queues, types)
        return {name: max(0.0, nodes - own.get(name, Supply()).draining) for name, nodes in found.items()}
    runs = {name: min(asked[name].running, type.maximum) for name, type in types.items()}
    base = _base(capacity, runs, types)
    want = {name: max(0.0, min(asked[name].nodes, t.maximum) - base[name]) for name, t in types.items()}
    short_types = {n for n, t in types.items() if asked[n].nodes > t.maximum + CLOSE}
    if not short_types and _within(capacity, {n: base[n] + want[n] for n in types}, types):
        return {name: base[name] + want[name] for name in types}
    ladder = _Ladder(shares, queues)
    claims: list[_Line] = []
    for name in types:
        lines = ladder.lines(name, asked[name])
        total = sum(line.wanted for line in lines)
        if total > want[name]:
            _award(lines, want[name], {name: 1.0})
            for line in lines:
                line.wanted, line.given = line.given, 0.0
        claims += lines
    granted = _in_passes(capacity, base, claims, types)
    return {name: base[name] + granted.get(name, 0.0) for name in types}


def _beside(need: Need, own: Supply) -> Need:
    """What is asked for beside the nodes that are there, by whole nodes."""
    running = float(own.busy + own.draining)
    pending = max(0.0, need.pending - (own.busy - own.used))
    claims, holds = need.claims, need.holds
    if pending < need.pending:
        claims = {claim: nodes * pending / need.pending for claim, nodes in claims.items()}
    if need.running > 0:
        holds = {claim: nodes * running / need.running for claim, nodes in holds.items()}
    return Need(running + pending, pending, running, need.by_queue, need.by_share, need.oldest, claims, holds)


@dataclass(slots=True)
class _Line:
    """A claim for nodes of one type."""

    type: str
    priority: int
    path: Path
    held: float
    wanted: float
    given: float = 0.0


@dataclass(slots=True)
class _Branch:
    weight: float = 1.0
    held: float = 0.0
    wanted: float = 0.0
    lines: list[_Line] = field(default_factory=list)
    below: dict[str, _Branch] = field(default_factory=dict)


def _base(capacity: Capacity, runs: Mapping[str, float], types: Mapping[str, NodeType]) -> dict[str, float]:
    """What runs, and the minima; less where even that exceeds the capacity."""
    fits = min(1.0, _room(capacity, runs, types))
    base = {name: nodes * fits for name, nodes in runs.items()}
    more = {name: max(0.0, min(t.minimum, t.maximum) - base[name]) for name, t in types.items()}
    fits = min(1.0, _room(_left(capacity, base, types), more, types))
    return {name: base[name] + more[name] * fits for name in types}


@dataclass(frozen=True)
class _Free:
    nodes: float | None
    cores: float | None


def _left(capacity: Capacity | _Free, taken: Mapping[str, float], types: Mapping[str, NodeType]) -> _Free:
    nodes = None if capacity.nodes is None else max(0.0, capacity.nodes - sum(taken.values()))
    cores = sum(n * types[name].flavour.cores for name, n in taken.items())
    return _Free(nodes, None if capacity.cores is None else max(0.0, capacity.cores - cores))


def _room(capacity: Capacity | _Free, wanted: Mapping[str, float], types: Mapping[str, NodeType]) -> float:
    """How often `wanted` fits into the capacity."""
    nodes = sum(wanted.values())
    cores = sum(n * types[name].flavour.cores for name, n in wanted.items())
    often = [float("inf")]
    if capacity.nodes is not None and nodes > 0:
        often.append(capacity.nodes / nodes)
    if capacity.cores is not None and cores > 0:
        often.append(capacity.cores / cores)
    return min(often)


def _within(capacity: Capacity, wanted: Mapping[str, float], types: Mapping[str, NodeType]) -> bool:
    return _room(capacity, wanted, types) >= 1 - CLOSE


def _in_passes(
    capacity: Capacity, base: Mapping[str, float], claims: list[_Line], types: Mapping[str, NodeType]
) -> dict[str, float]:
    """Awards the capacity that is left. With one limit, one pass gives all; with both, what the scarcer left over of
    the other is given in further ones."""
    granted: dict[str, float] = defaultdict(float)
    for _ in range(PASSES):
        left = _left(capacity, {n: base[n] + granted.get(n, 0.0) for n in types}, types)
        if left.nodes is None and left.cores is None:
            costs, amount = dict.fromkeys(types, 1.0), float("inf")
        elif left.nodes == 0 or left.cores == 0:
            break
        else:
            costs = {n: max(1 / (left.nodes or float("inf")), t.flavour.cores / (left.cores or float("inf")))
                     for n, t in types.items()}  # fmt: skip
            amount = 1.0
        _award(claims, amount, costs)
        for line in claims:
            granted[line.type] += line.given
            line.held += line.given
            line.wanted -= line.given
        given = sum(line.given for line in claims)
        if given <= CLOSE or (capacity.nodes is None) or (capacity.cores is None):
            break
    return granted


def _award(lines: Sequence[_Line], amount: float, costs: Mapping[str, float]) -> None:
    """Gives `amount` away, the higher priority first; each line's `given` in nodes."""
    by_priority: dict[int, list[_Line]] = defaultdict(list)
    for line in lines:
        line.given = 0.0
        by_priority[line.priority].append(line)
    for _, some in sorted(by_priority.items(), reverse=True):
        tree = _Branch()
        for line in some:
            _plant(tree, line, costs[line.type])
        _fill(tree, min(amount, tree.wanted), costs)
        amount = max(0.0, amount - tree.wanted)
        if amount <= 0:
            return


def _plant(tree: _Branch, line: _Line, cost: float) -> None:
    at = tree
    at.held += line.held * cost
    at.wanted += line.wanted * cost
    for name, weight in line.path:
        at = at.below.setdefault(name, _Branch(max(weight, LEAST)))
        at.held += line.held * cost
        at.wanted += line.wanted * cost
    at.lines.append(line)


def _fill(branch: _Branch, amount: float, costs: Mapping[str, float]) -> None:
    """Gives `amount` (at most what is wanted) to a branch: to those below by their weights, to its own lines evenly."""
    parts = list(branch.below.values())
    own = sum(line.wanted * costs[line.type] for line in branch.lines)
    if own > 0 and parts:  # somebody has a share both as a group and as a user: one more beside the others
        parts.append(
            _Branch(1.0, sum(line.held * costs[line.type] for line in branch.lines), own, branch.lines)
        )
    elif own > 0:
        factor = min(1.0, amount / own)
        for line in branch.lines:
            line.given = line.wanted * factor
        return
    for part, given in zip(parts, _water(parts, amount), strict=True):
        if given > 0:
            _fill(part, given, costs)


def _water(parts: Sequence[_Branch], amount: float) -> list[float]:
    """Raises all to one level of nodes for each share, as far as `amount` reaches."""
    if amount >= sum(p.wanted for p in parts):
        return [p.wanted for p in parts]
    steps = sorted(
        [(p.held / p.weight, p.weight) for p in parts if p.wanted > 0]
        + [((p.held + p.wanted) / p.weight, -p.weight) for p in parts if p.wanted > 0]
    )
    level, slope, left = 0.0, 0.0, amount
    for at, change in steps:
        if slope > 0 and (at - level) * slope >= left:
            break
        left -= max(0.0, at - level) * max(0.0, slope)
        level, slope = at, slope + change
    level += left / slope if slope > CLOSE * LEAST else 0.0
    given = [min(p.wanted, max(0.0, level * p.weight - p.held)) for p in parts]
    total = sum(given)
    return given if total <= amount else [g * amount / total for g in given]


class _Ladder:
    """Finds each claim's place: its queue's priority, and its path in the tree of shares."""

    def __init__(self, shares: Iterable[Share], queues: Iterable[Queue]) -> None:
        self.priorities = {queue.name: queue.priority for queue in queues}
        self.named: dict[tuple[str | None, str], list[Share]] = defaultdict(list)
        for share in shares:
            self.named[(share.queue, share.name)].append(share)
        self.of_queue = {queue for queue, _ in self.named if queue is not None}
        self.places: dict[Claim, tuple[int, Path]] = {}
        self.known: dict[tuple[int, Path], tuple[int, Path]] = {}

    def lines(self, type: str, need: Need) -> list[_Line]:
        """All claims of one type, those with one place in the tree as one. Of who only holds nodes there is a line as
        well: its group has what it has."""
        found: dict[int, _Line] = {}
        places = self.places
        for claim, wanted in need.claims.items():
            place = places.get(claim) or self._place(claim)
            line = found.get(id(place))
            if line is None:
                found[id(place)] = _Line(type, *place, 0.0, wanted)
            else:
                line.wanted += wanted
        for claim, held in need.holds.items():
            place = places.get(claim) or self._place(claim)
            line = found.get(id(place))
            if line is None:
                line = found[id(place)] = _Line(type, *place, 0.0, 0.0)
            line.held += held
        if not need.claims and need.pending > 0:
            return [*found.values(), _Line(type, 0, (("", 1.0),), need.running, need.pending)]
        return list(found.values())

    def _place(self, claim: Claim) -> tuple[int, Path]:
        place = self.places.get(claim)
        if place is None:
            place = (self.priorities.get(claim[0], 0), self._found(*claim))
            # one object for each place, so that claims are told apart without looking at their paths
            place = self.places[claim] = self.known.setdefault(place, place)
        return place

    def _found(self, queue: str, user: str, group: str) -> Path:
        of = queue if queue in self.of_queue else None
        top: Path = ((f"queue {queue}", 1.0),) if of is not None else ()
        users = self.named.get((of, user), [])
        inside = [s for s in users if s.parent == group] or users
        if inside:
            return (*top, *self._up(of, inside[0]))
        for name in (group, *OTHERS):
            if name and (of, name) in self.named:
                return (*top, *self._up(of, self.named[(of, name)][0]), (f"user {user}", 1.0))
        return (*top, (f"user {user}", 1.0))

    def _up(self, queue: str | None, share: Share) -> Path:
        """From the root to a share; a circle of parents ends where it begins."""
        path: list[tuple[str, float]] = []
        seen: set[str] = set()
        at: Share | None = share
        while at is not None and at.name not in seen and len(path) < DEEPEST:
            seen.add(at.name)
            path.append((at.name, at.shares))
            above = self.named.get((queue, at.parent), []) if at.parent else []
            at = above[0] if above else None
        return tuple(reversed(path))
