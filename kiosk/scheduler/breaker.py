"""Circuit breakers: an image, a hypervisor, or a cloud on which nodes fail gets no more of them for a while. Pure.

A circuit is *closed* while all is well. After `threshold` failures in a row it is *open*: nothing is launched by it.
After a time that doubles with each trip, and that is a little different for each circuit, it is *half-open*: one node
goes as a probe, and until it has joined or failed, or a period has passed, no other. A success closes the circuit.

A new version of an image goes to a few nodes first (canaries). It is *promoted* once they joined and ran jobs; until
then, and while its circuit is open, other launches take the newest version before it that was promoted. A version
that is revoked is never chosen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Literal

from kiosk.errors import UsageError
from kiosk.model.names import Version, parse_ref

State = Literal["closed", "open", "half-open"]
ENDLESS = 1 << 30


@dataclass(frozen=True)
class BreakerLimits:
    """Times in seconds. `canaries` nodes try a new version; where no job came for `idle_promotion`, having joined is
    enough."""

    threshold: int = 3
    cloud_threshold: int = 10
    base: float = 300.0
    longest: float = 14_400.0
    jitter: float = 0.25
    canaries: int = 2
    idle_promotion: float = 21_600.0


@dataclass(frozen=True)
class Circuit:
    """What is remembered of an image, a hypervisor or a cloud. `failures` are those in a row, `trips` how often it
    opened since it last closed, `probe` when the last probe went, `since` when its first node joined."""

    failures: int = 0
    trips: int = 0
    opened: datetime | None = None
    probe: datetime | None = None
    since: datetime | None = None
    joined: int = 0
    promoted: bool = False
    reason: str | None = None


Circuits = Mapping[str, Circuit]
"""By key: `image:NAME@VERSION`, `hypervisor:NAME`, `cloud:NAME`."""
NEW = Circuit()


def period(key: str, circuit: Circuit, limits: BreakerLimits) -> float:
    """How long a circuit stays open after its last trip, in seconds: doubled by each, with a jitter that follows from
    the key and the trip."""
    length = min(limits.base * 2.0 ** min(max(circuit.trips - 1, 0), 30), limits.longest)
    part = (
        int.from_bytes(hashlib.blake2b(f"{key} {circuit.trips}".encode(), digest_size=4).digest(), "big")
        / 2**32
    )
    return length * (1 + limits.jitter * (2 * part - 1))


def state(key: str, circuit: Circuit, now: datetime, limits: BreakerLimits) -> State:
    """What the circuit is now."""
    if circuit.opened is None:
        return "closed"
    return "half-open" if now - circuit.opened >= timedelta(seconds=period(key, circuit, limits)) else "open"


def room(key: str, circuits: Circuits, now: datetime, limits: BreakerLimits) -> int:
    """How many nodes may be launched by a circuit now."""
    circuit = circuits.get(key, NEW)
    is_now = state(key, circuit, now, limits)
    if is_now == "closed":
        return ENDLESS
    if is_now == "open":
        return 0
    waits = circuit.probe is not None and now - circuit.probe < timedelta(
        seconds=period(key, circuit, limits)
    )
    return 0 if waits else 1


def probed(key: str, circuit: Circuit, now: datetime, limits: BreakerLimits) -> Circuit:
    """The circuit once a node was launched by it: one that is half-open has its probe."""
    return replace(circuit, probe=now) if state(key, circuit, now, limits) == "half-open" else circuit


def failed(
    key: str, circuit: Circuit, now: datetime, limits: BreakerLimits, reason: str | None = None
) -> Circuit:
    """The circuit after one more failure. Nodes that were launched before it opened and fail now change nothing."""
    is_now = state(key, circuit, now, limits)
    if is_now == "open":
        return replace(circuit, reason=reason)
    failures = circuit.failures + 1
    needed = limits.cloud_threshold if key.startswith("cloud:") else limits.threshold
    if not circuit.promoted and key.startswith("image:"):
        needed = min(needed, limits.canaries)
    if is_now == "closed" and failures < needed:
        return replace(circuit, failures=failures, reason=reason)
    return replace(circuit, failures=failures, trips=circuit.trips + 1, opened=now, probe=None, reason=reason)


def succeeded(circuit: Circuit, now: datetime) -> Circuit:
    """The circuit after a node joined (or, a cloud's, was listed): closed."""
    return replace(
        circuit, failures=0, trips=0, opened=None, probe=None, reason=None, since=circuit.since or now,
        joined=circuit.joined + 1,
    )  # fmt: skip


@dataclass(frozen=True)
class Images:
    """The versions there are: for each image, and layer, NAME@VERSION with the newest first; and the signed floors.
    Of a name whose floor is not known, nothing is launched."""

    offered: Mapping[str, Sequence[str]] = field(default_factory=dict)
    floors: Mapping[str, Version | None] = field(default_factory=dict)

    def revoked(self, ref: str) -> bool | None:
        """Whether a version is below its name's floor; None where that is not known."""
        name = ref.partition("@")[0]
        if name not in self.floors:
            return None
        floor, version = self.floors[name], version_of(ref)
        return None if version == NONE else floor is not None and version < floor


NONE = Version(())


@lru_cache(4096)
def version_of(ref: str) -> Version:
    """The version in NAME@VERSION; below all others where there is none."""
    try:
        return parse_ref(ref).version or NONE
    except UsageError:
        return NONE


@dataclass(frozen=True)
class Choice:
    """A version, how many nodes may be launched of it now, and why."""

    image: str
    room: int
    why: str


def choices(
    name: str,
    images: Images,
    circuits: Circuits,
    alive: Mapping[str, int],
    now: datetime,
    limits: BreakerLimits,
) -> tuple[list[Choice], list[str]]:
    """What to launch of an image, in this order, and a sentence for each version passed over. `alive` counts nodes
    of each version that exist or come."""
    usable = [ref for ref in images.offered.get(name, ()) if images.revoked(ref) is False]
    if not usable:
        why = "what is offered is revoked" if name in images.floors else "it is not known what is revoked"
        return [], [f"{name}: {why}: nothing is launched"]
    found: list[Choice] = []
    notes: list[str] = []
    for at, ref in enumerate(usable):
        key = f"image:{ref}"
        circuit = circuits.get(key, NEW)
        left, is_now = room(key, circuits, now, limits), state(key, circuit, now, limits)
        if is_now != "closed":
            notes.append(
                f"{ref}: {circuit.failures} nodes failed in a row ({circuit.reason or 'unknown why'}): {is_now}"
            )
            if left:
                found.append(Choice(ref, left, f"{ref}: one node to see whether it works again"))
        elif circuit.promoted:
            return [*found, Choice(ref, ENDLESS, f"{ref}: promoted")], notes
        elif at == 0 or not found:
            left = max(0, limits.canaries - alive.get(ref, 0))
            notes.append(
                f"{ref} is new: {alive.get(ref, 0)} of {limits.canaries} canaries, {circuit.joined} joined"
            )
            if left:
                found.append(Choice(ref, left, f"{ref}: a canary"))
    return found, notes


def promotable(
    ref: str, circuit: Circuit, *, worked: bool, fallback: bool, now: datetime, limits: BreakerLimits
) -> bool:
    """Whether a version's canaries have done enough: one of them has jobs now (`worked`) and as many joined as there
    are canaries. Without an older promoted version (`fallback`) having joined is enough."""
    if circuit.promoted or circuit.opened is not None or circuit.since is None:
        return False
    if circuit.joined < limits.canaries:
        return False
    waited = now - circuit.since >= timedelta(seconds=limits.idle_promotion)
    return worked or waited or not fallback
