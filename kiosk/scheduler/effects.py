"""What the scheduler does to the world, as values. Each names its node, and means the same when it is done twice.

`Launch` alone makes something: it is done only for a node that is `wanted`, which the ledger no longer has once the
cloud was asked. The others end, close, or forget, and what is ended, closed or forgotten already stays so.
"""

from __future__ import annotations

from dataclasses import dataclass

from kiosk.scheduler.model import Node


@dataclass(frozen=True)
class Launch:
    """Start the VM of a wanted node."""

    node: Node


@dataclass(frozen=True)
class Adopt:
    """Take a VM into the ledger as this node: nothing is done to the VM."""

    node: Node


@dataclass(frozen=True)
class Close:
    """Have a host take no new jobs."""

    node: str
    host: str
    reason: str


@dataclass(frozen=True)
class Open:
    """Take kiosk's own lock from a host again."""

    node: str
    host: str


@dataclass(frozen=True)
class Drain:
    """Tell a guest to take no new jobs and to stop when its jobs have ended."""

    node: str
    vm: str
    reason: str


@dataclass(frozen=True)
class Stop:
    """End a VM: in order, or with `now` at once."""

    node: str
    vm: str
    reason: str
    now: bool = False


@dataclass(frozen=True)
class Remove:
    """Take a host that is gone out of the batch system's lists."""

    node: str
    host: str


@dataclass(frozen=True)
class Forget:
    """Drop a node that was wanted and for which nothing was ever done."""

    node: str
    reason: str


Effect = Launch | Adopt | Close | Open | Drain | Stop | Remove | Forget


def subject(effect: Effect) -> str:
    """The node that an effect is for."""
    return effect.node.id if isinstance(effect, (Launch, Adopt)) else effect.node
