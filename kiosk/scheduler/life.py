"""The life of a node as one table. Pure: no clock, no I/O.

`TABLE` is the whole of it: in a phase, when the cloud's list and the batch system's look say this of a node, for so
long, it goes into that phase and this is done. The first row that fits counts. What it guarantees:

* what could not be looked at is `unknown`, and no row concludes anything from that: a cloud or a batch system that
  can't be reached ends no node;
* an absence counts only once looks without a break have shown it for the time of its row;
* a VM is ended only after its host had no job, or said so itself, or a limit has passed that is meant to be hard;
* a node is gone only when the cloud no longer lists its VM; until then it counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, get_args

from kiosk.batch.api import Host
from kiosk.cloud.api import VmState
from kiosk.scheduler.effects import Close, Drain, Effect, Remove, Stop
from kiosk.scheduler.model import Node, Phase

VmFact = Literal["unknown", "absent", "starting", "up", "working", "ending", "failed", "stopped"]
"""What the cloud says. up: its guest takes jobs, or nothing is known of it; working: it drains and still has jobs;
ending: it drains without jobs, or shuts down."""
HostFact = Literal["unknown", "absent", "silent", "open", "busy", "idle"]
"""What the batch system says. silent: listed, but it does not answer; open: it takes jobs; busy and idle: it is closed,
with jobs or without."""
Deed = Literal["close", "drain", "stop", "kill", "remove"]
Timer = Literal["since", "missing", "silent"]
Circuit = Literal["image", "hypervisor", "cloud"]


@dataclass(frozen=True)
class Limits:
    """How long, in seconds. A table row names one of these; docs/scheduler-life.md says what each is for."""

    launch: float = 300
    """The cloud was asked for a VM and its list has not had it for so long."""
    boot: float = 1200
    """A VM that boots and never is ready."""
    join: float = 2400
    """A VM that is ready and that the batch system has not listed since it boots."""
    vanish: float = 300
    """A VM that was listed and is no longer."""
    silence: float = 3600
    """A host that joined and no longer answers."""
    drain: float = 90_000
    """Jobs of a draining node, at the most; its guest's own limit (86,400) is below."""
    grace: float = 900
    """A guest that was told to drain and that the batch system does not list."""
    stop: float = 600
    """A VM that was told to stop in order; then at once."""
    end: float = 1800
    """A failed node's VM; then it is ended at once."""
    remove: float = 86_400
    """A host without VM that the batch system does not let go."""
    mass: float = 21_600
    """Instead of launch, vanish, join and silence while a large share of all nodes is missing at once."""


@dataclass(frozen=True)
class Seen:
    """What was seen of one node. `vms` are all VMs of its name, None where the list could not be read; `host` counts
    only where `batch` says that the batch system was looked at."""

    vms: Sequence[VmState] | None
    batch: bool
    host: Host | None = None


@dataclass(frozen=True)
class Row:
    """A row of the table. Facts that are not named may be anything, the unknown too. `after` seconds (a limit's name)
    must have passed by `timer`; `to` is None where the phase stays; `blame` are the circuits that count it as a
    failure."""

    phases: str
    vm: str = ""
    host: str = ""
    after: str | None = None
    timer: Timer = "since"
    to: Phase | None = None
    do: tuple[Deed, ...] = ()
    why: str = ""
    blame: tuple[Circuit, ...] = ()
    credit: tuple[Circuit, ...] = ()


NEVER = "the cloud accepted it and never listed it"
LISTED = "open busy idle"
TABLE: tuple[Row, ...] = (
    # the cloud has it, or never will
    Row("wanted launching", "failed stopped", to="failed", do=("stop",), blame=("image", "hypervisor")),
    Row("wanted launching", "starting up working ending", to="booting", credit=("cloud",)),
    Row("launching", "absent", after="launch", timer="missing", to="failed", why=NEVER, blame=("cloud", "hypervisor")),
    # it boots, and joins
    Row("booting", "failed stopped", to="failed", do=("stop",), blame=("image", "hypervisor")),
    Row("booting", "absent", after="vanish", timer="missing", to="failed", why="its VM vanished",
        blame=("hypervisor",)),
    Row("booting", "ending working", to="draining", why="its guest drains"),
    Row("booting", "unknown starting up", LISTED, to="joined", credit=("image", "hypervisor")),
    Row("booting", "starting", after="boot", to="failed", do=("stop",), why="it booted and was never ready",
        blame=("image", "hypervisor")),
    Row("booting", "up", "absent silent", after="join", timer="silent", to="failed", do=("drain",),
        why="it is ready and never joined", blame=("image",)),
    # it works
    Row("joined", "stopped", to="leaving", do=("stop",), why="its guest has stopped"),
    Row("joined", "failed", to="failed", do=("stop",)),
    Row("joined", "absent", after="vanish", timer="missing", to="failed", do=("close",), why="its VM vanished"),
    Row("joined", "working ending", to="draining", do=("close",), why="its guest drains"),
    Row("joined", "up", "absent silent", after="silence", timer="silent", to="draining", do=("drain",),
        why="the batch system no longer hears of it"),
    # it drains; an open host is closed again, whoever opened it
    Row("draining", "stopped failed", to="leaving", do=("stop",)),
    Row("draining", "absent", after="vanish", timer="missing", to="leaving"),
    Row("draining", after="drain", to="leaving", do=("stop",), why="it has drained for as long as it may"),
    Row("draining", host="open", do=("close",)),
    Row("draining", "starting up", "idle", to="leaving", do=("stop",)),
    Row("draining", "ending", "idle absent silent", after="grace", to="leaving", do=("stop",)),
    Row("draining", "starting up", "absent silent", after="silence", timer="silent", to="leaving", do=("stop",)),
    Row("draining", "starting up", "absent", do=("drain",)),
    # it goes: its VM first, then its host
    Row("leaving", "starting up working", "open", to="draining", do=("close",), why="it joined while it was to leave"),
    Row("failed", "up working ending", "open", do=("close",)),
    Row("failed", "up working ending", "busy", after="drain", do=("kill",)),
    Row("failed", "up working ending", "busy"),
    Row("failed", "working", after="drain", do=("kill",)),
    Row("failed", "working"),
    Row("failed", "up ending", after="end", do=("kill",)),
    Row("failed", "up ending", after="grace", do=("stop",)),
    Row("failed", "up", do=("drain",)),
    Row("failed", "ending"),
    Row("leaving failed", "starting up working ending", after="stop", do=("kill",)),
    Row("leaving failed", "starting up working ending failed stopped", do=("stop",)),
    Row("leaving failed", "absent", "absent", after="vanish", timer="missing", to="gone"),
    Row("leaving failed", "absent", "silent open busy idle", after="remove", timer="missing", to="gone",
        why="the batch system does not let go of its host"),
    Row("leaving failed", "absent", "silent open busy idle", after="vanish", timer="missing", do=("remove",)),
)  # fmt: skip
"""See docs/scheduler-life.md, whose table is made from this one."""


@dataclass(frozen=True)
class Change:
    """A node as it is from now on, and what is to be done. `blame` and `credit` are what its circuits learn."""

    node: Node
    effects: tuple[Effect, ...] = ()
    blame: tuple[Circuit, ...] = ()
    credit: tuple[Circuit, ...] = ()


def _index() -> dict[tuple[str, str, str], tuple[Row, ...]]:
    """The rows that can fit, by phase and facts."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in TABLE:
        for phase in row.phases.split():
            for vm in row.vm.split() or get_args(VmFact):
                for host in row.host.split() or get_args(HostFact):
                    found.setdefault((phase, vm, host), []).append(row)
    return {key: tuple(rows) for key, rows in found.items()}


ROWS = _index()


def step(node: Node, seen: Seen, now: datetime, limits: Limits) -> Change | None:
    """What becomes of a node by what was seen of it; None where all stays as it is."""
    vm, extra = (None, ()) if not seen.vms else chosen(node, seen.vms)
    vm_is, host_is = _vm_fact(seen, vm), _host_fact(seen)
    noted = _noted(node, vm, seen, vm_is, host_is, now)
    twice = tuple(Stop(node.id, other.id, "a second VM of this name", now=True) for other in extra)
    for row in ROWS.get((node.phase, vm_is, host_is), ()):
        if row.after is None or _passed(noted, row.timer, now) >= getattr(limits, row.after):
            return _changed(node, noted, row, vm, seen, now, twice)
    return None if noted is node and not twice else Change(noted, twice)


def chosen(node: Node, vms: Sequence[VmState]) -> tuple[VmState, Sequence[VmState]]:
    """Which of the VMs of a node's name is the node, and the others: the one it had, else the furthest, else the
    oldest."""
    if len(vms) == 1:
        return vms[0], ()
    order = ("ready", "running", "draining", "stopping", "booting", "starting", "failed", "stopped")
    first, *others = sorted(vms, key=lambda v: (v.id != node.vm, order.index(v.phase), v.created, v.id))
    return first, others


def _vm_fact(seen: Seen, vm: VmState | None) -> VmFact:
    if seen.vms is None:
        return "unknown"
    if vm is None:
        return "absent"
    if vm.phase == "draining":
        return "ending" if vm.jobs == 0 else "working"
    facts: dict[str, VmFact] = {
        "starting": "starting", "booting": "starting", "ready": "up", "running": "up", "stopping": "ending",
        "failed": "failed", "stopped": "stopped",
    }  # fmt: skip
    return facts[vm.phase]


def _host_fact(seen: Seen) -> HostFact:
    if not seen.batch:
        return "unknown"
    host = seen.host
    if host is None:
        return "absent"
    if host.status == "unavailable":
        return "silent"
    if host.status == "open":
        return "open"
    return "busy" if host.jobs or host.used else "idle"


def _noted(
    node: Node, vm: VmState | None, seen: Seen, vm_is: VmFact, host_is: HostFact, now: datetime
) -> Node:
    """The node with what was seen put down: the VM's and the host's names, and since when each is missing. A look that
    failed starts the time anew: an absence counts only through looks without a break."""
    missing = (node.missing or now) if vm_is == "absent" else None
    silent = (node.silent or now) if host_is in ("absent", "silent") else None
    id = vm.id if vm is not None else node.vm
    host = seen.host.name if seen.host is not None else node.host
    if missing is node.missing and silent is node.silent and id == node.vm and host == node.host:
        return node
    return replace(node, missing=missing, silent=silent, vm=id, host=host)


def _passed(node: Node, timer: Timer, now: datetime) -> float:
    begun = node.since if timer == "since" else node.missing if timer == "missing" else node.silent
    return (now - begun).total_seconds() if begun is not None else 0.0


def _changed(
    node: Node, noted: Node, row: Row, vm: VmState | None, seen: Seen, now: datetime, twice: tuple[Stop, ...]
) -> Change | None:
    reason = node.reason if row.to in (None, "gone") else None
    if row.to is not None and row.to not in ("booting", "joined", "gone"):
        said = vm.reason if vm is not None else None
        why = (
            f"{row.why}: {said}"
            if row.why and said
            else row.why or said or node.reason or "it has no job any more"
        )
        reason = node.reason if row.to == "leaving" and node.reason and not row.why else why[:300]
    after = noted
    if row.to is not None:
        after = replace(noted, phase=row.to, since=now, reason=reason, missing=None, silent=None)
    effects = tuple(e for deed in row.do if (e := _effect(deed, after, vm, seen)) is not None) + twice
    if after is node and not effects:
        return None
    return Change(after, effects, row.blame, row.credit)


def _effect(deed: Deed, node: Node, vm: VmState | None, seen: Seen) -> Effect | None:
    """What a deed is for this node; None where there is nothing that it could be done to."""
    reason = node.reason or "it leaves"
    host = seen.host.name if seen.host is not None else None
    if deed == "close":
        done = seen.host is not None and seen.host.mine and seen.host.status != "open"
        return Close(node.id, host, reason) if host is not None and not done else None
    if deed == "remove":
        return Remove(node.id, host) if host is not None else None
    id = vm.id if vm is not None else node.vm
    if id is None:
        return None
    if deed == "drain":
        return Drain(node.id, id, reason)
    return Stop(node.id, id, reason, now=deed == "kill")


@dataclass(frozen=True)
class Moment:
    """A moment by the wall clock, and by the clock of this boot of the machine, which nobody sets."""

    wall: datetime
    boot: str
    uptime: float


JUMP = 60.0


def jump(before: Moment | None, now: Moment) -> timedelta:
    """By how much the wall clock was set between two moments: the ledger's times are moved by that, so that a clock
    that is set makes no node older. Zero where it is not known (another boot) or less than a minute."""
    if before is None or before.boot != now.boot:
        return timedelta()
    off = (now.wall - before.wall).total_seconds() - (now.uptime - before.uptime)
    return timedelta(seconds=off) if abs(off) >= JUMP else timedelta()
