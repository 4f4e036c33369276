"""Which nodes are replaced now: rolling, by versions and by age. Pure.

* A node on a revoked image or layer goes at once, whatever else is under way.
* Of those that run an older version than the newest promoted one, or that are past their age, as many go at a time as
  leave a type no more than `max_unavailable` nodes short; who waits to come counts as short.
* A version that is new makes room for its canaries in the same way, one node for each.
* Lengths of life are spread, by the node's own id: nodes that began together do not end together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kiosk.model.names import Version
from kiosk.scheduler.breaker import Images, version_of
from kiosk.scheduler.model import Node

SPREAD = 1 / 6


def until(id: str, begins: datetime, lifetime: float) -> datetime:
    """When a node's life ends: between five sixths and all of `lifetime` seconds after it begins."""
    part = int.from_bytes(hashlib.blake2b(id.encode(), digest_size=4).digest(), "big") / 2**32
    return begins + timedelta(seconds=round(lifetime * (1 - SPREAD * part)))


@dataclass(frozen=True)
class Placed:
    """A joined node as replacement sees it: how many jobs it has, and the versions of its layers where known."""

    node: Node
    jobs: int
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Leaver:
    """A node that is to drain, and why."""

    node: Node
    reason: str


def revoked(node: Node, layers: Sequence[str], images: Images) -> str | None:
    """The version of a node that is revoked, if one is. What is not known is not revoked."""
    for ref in (node.image, *layers):
        if images.revoked(ref):
            return ref
    return None


def leavers(
    joined: Sequence[Placed], draining: int, target: int, most: int, newest: Mapping[str, str], images: Images,
    now: datetime, *, trial: tuple[str, int] | None = None,
) -> list[Leaver]:  # fmt: skip
    """Of one type's joined nodes, those that are to drain now. `draining` nodes drain already, `target` is what the
    type should have, `most` its max_unavailable, and `newest` the newest promoted version by name: what none is
    promoted of is never a reason. `trial` is a new version that needs room for so many canaries."""
    found: list[Leaver] = []
    rest: list[tuple[tuple[bool, bool, tuple[int, ...], datetime], Placed, str]] = []
    others: list[Placed] = []
    wants = {name: version_of(ref) for name, ref in newest.items()}
    for one in joined:
        bad = revoked(one.node, one.layers, images)
        if bad is not None:
            found.append(Leaver(one.node, f"{bad} is revoked"))
            continue
        aged = one.node.until is not None and one.node.until <= now
        older = _older(one, wants)
        if aged or older:
            reason = "its age" if aged else f"{older} is older than {newest[_name(older)]}" if older else ""
            order = (not aged, one.jobs > 0, version_of(one.node.image).parts, one.node.wanted)
            rest.append((order, one, reason))
        elif trial is not None and _older(one, {_name(trial[0]): version_of(trial[0])}):
            others.append(one)
    short = max(0, target - (len(joined) - len(found)))
    rest.sort(key=lambda r: r[0])
    budget = max(0, most - max(draining, short) - len(found))
    found += [Leaver(one.node, reason) for _, one, reason in rest[:budget]]
    if trial is not None:
        others.sort(key=lambda one: (one.jobs > 0, one.node.wanted))
        makes_room = others[: max(0, min(trial[1], budget - len(rest)))]
        found += [Leaver(one.node, tried(trial[0])) for one in makes_room]
    return found


def tried(ref: str) -> str:
    """The reason of those that make room for a version's canaries."""
    return f"{ref} is tried in its place"


def _name(ref: str) -> str:
    return ref.partition("@")[0]


def _older(one: Placed, wants: Mapping[str, Version]) -> str:
    for ref in (one.node.image, *one.layers):
        wanted = wants.get(_name(ref))
        if wanted is not None and version_of(ref) < wanted:
            return ref
    return ""
