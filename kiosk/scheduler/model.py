"""The scheduler's words: types of nodes, nodes, what a tick knows and what it wants. Values only.

A *type* is a kind of node that can be started: an image, layers, a flavour, and between which numbers of them the
farm wants. A *node* is one VM of a type, from the wish for it until it is gone. Times are aware datetimes in UTC,
lengths of time are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from kiosk.model.flavour import Flavour

Phase = Literal["wanted", "launching", "booting", "joined", "draining", "leaving", "gone", "failed"]
"""wanted: decided, nothing done yet; launching: the cloud was asked, or may have been; booting: the cloud has it;
joined: the batch system lists it and it takes jobs; draining: it takes no new jobs, running ones go on; leaving: it
has no job any more and is being ended; gone: neither cloud nor batch system has it; failed: it never joined, or was
lost, and what is left of it is being ended."""
ALIVE: frozenset[Phase] = frozenset({"wanted", "launching", "booting", "joined", "draining", "leaving"})
COMING: frozenset[Phase] = frozenset({"wanted", "launching", "booting"})


@dataclass(frozen=True)
class NodeType:
    """A kind of node. `slots` jobs of one core run on it, with `memory` MiB for all of them; `tags` and `values` are
    what jobs find there (see kiosk.batch.api.Requirements). `image` and `layers` are names without versions;
    `max_unavailable` nodes of it may drain at once to be replaced by newer ones, never fewer than one. Idle ones are
    kept for `keep` seconds at the most (None: as long as was learned to pay)."""

    name: str
    image: str
    layers: tuple[str, ...]
    flavour: Flavour
    slots: int
    memory: int
    minimum: int = 0
    maximum: int = 0
    lifetime: float = 86400.0
    max_unavailable: int = 1
    tags: frozenset[str] = frozenset()
    values: frozenset[tuple[str, str]] = frozenset()
    keep: float | None = None


@dataclass(frozen=True)
class Node:
    """A node as the ledger has it. `id` is kiosk's own, unique for ever, and the VM's name; `vm` the cloud's. `image`
    has its version. `since` is when it came into its phase, `until` when its life ends, `host` its name in the batch
    system, `where` its hypervisor (None: the cloud's own scheduler chose), `reason` why it drains or failed.
    `missing` is since when the cloud's list, and `silent` since when the batch system, has not had it: each in looks
    that all succeeded; None while it is there, or while nothing is known."""

    id: str
    type: str
    image: str
    phase: Phase
    wanted: datetime
    since: datetime
    until: datetime | None = None
    where: str | None = None
    vm: str | None = None
    host: str | None = None
    reason: str | None = None
    attempts: int = 0
    missing: datetime | None = None
    silent: datetime | None = None


Claim = tuple[str, str, str]
"""Whose jobs: queue, user, group (empty where none)."""


@dataclass(frozen=True)
class Capacity:
    """What all types together may take; None: no limit but their maxima."""

    nodes: int | None = None
    cores: int | None = None


@dataclass(frozen=True)
class Need:
    """What one type is asked for now. `nodes` is how many nodes of the type would run all that waits and runs for it
    at once (not rounded), `pending` and `running` their two parts; `by_queue` and `by_share` the pending part, told
    apart; `claims` and `holds` the pending and the running part, both by queue, user and group at once, as fair share
    needs them; `oldest` how many seconds the first of the waiting jobs has waited."""

    nodes: float = 0.0
    pending: float = 0.0
    running: float = 0.0
    by_queue: Mapping[str, float] = field(default_factory=dict)
    by_share: Mapping[str, float] = field(default_factory=dict)
    oldest: float = 0.0
    claims: Mapping[Claim, float] = field(default_factory=dict)
    holds: Mapping[Claim, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Supply:
    """What a type has now, in nodes: `coming` are not joined yet, `busy` and `idle` are joined, `draining` still run
    jobs and are no supply for new ones (nodes on their way out count there, too, until they are gone). `used` is how
    many of the busy ones the jobs there would fill (not rounded). `real` are nodes' worth of free slots on hosts that
    are not kiosk's and serve the same jobs."""

    coming: int = 0
    busy: int = 0
    idle: int = 0
    draining: int = 0
    real: float = 0.0
    used: float = 0.0

    @property
    def nodes(self) -> int:
        """Nodes of kiosk's that are there for jobs, or will be."""
        return self.coming + self.busy + self.idle


@dataclass(frozen=True)
class Target:
    """How many nodes of a type there should be now; `because` is each rule that moved the number, in order, as a
    sentence with its figures."""

    type: str
    nodes: int
    because: Sequence[str] = ()


@dataclass(frozen=True)
class Unserved:
    """Pending jobs that no type serves, and why."""

    jobs: int
    queue: str
    user: str
    requirements: str
    reason: str
