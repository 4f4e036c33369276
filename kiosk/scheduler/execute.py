"""Does what a plan says, against a cloud and a batch system. What it guarantees:

* what the nodes are from now on is in the ledger before the first effect, and each effect's intent before the effect;
* an effect that fails is written down and keeps no other from being done; a side that can't be reached three times in
  a row is left alone until the next tick;
* it ends: no effect begins after `seconds`, and each is bounded by its own interface. What was not come to is found by
  the next tick in the ledger;
* with `dry_run` nothing is written and nobody is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Literal, TypeVar

from kiosk import clock
from kiosk.batch.api import BatchSystem, Host
from kiosk.cloud.api import Cloud, VmSpec, VmState
from kiosk.errors import (
    BatchError,
    KioskError,
    NetworkError,
    NotFoundError,
    PolicyError,
    UsageError,
    VerificationError,
)
from kiosk.log import logger
from kiosk.scheduler.breaker import NEW, failed
from kiosk.scheduler.effects import (
    Adopt,
    Close,
    Drain,
    Effect,
    Forget,
    Launch,
    Open,
    Remove,
    Stop,
    subject,
)
from kiosk.scheduler.ledger import Ledger
from kiosk.scheduler.life import Moment, jump
from kiosk.scheduler.model import Node
from kiosk.scheduler.orphans import names_of, type_of
from kiosk.scheduler.plan import Plan, Rules

log = logger(__name__)
Outcome = Literal["done", "would", "failed", "later"]
Found = TypeVar("Found")
IN_A_ROW = 3
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
OF_THE_IMAGE = (UsageError, PolicyError, VerificationError, NotFoundError)
"""Errors of a start that say that what was asked for can't be, wherever."""


@dataclass(frozen=True)
class Result:
    """What became of an effect. later: it was not come to; failed: see `note`."""

    effect: Effect
    outcome: Outcome
    note: str = ""


def moment(now: datetime) -> Moment:
    """This moment, by the wall clock and by the machine's own."""
    return Moment(now, BOOT_ID.read_text().strip(), time.clock_gettime(time.CLOCK_BOOTTIME))


def begin(ledger: Ledger, at: Moment) -> None:
    """Begins a tick: where the wall clock was set since the last one, the ledger's times move with it."""
    shift = jump(ledger.moment(), at)
    if shift:
        log.warning("the clock was set by %.0f s: the ledger's times move with it", shift.total_seconds())
    ledger.tick(at, shift)


def known(what: str, look: Callable[[], Found], faults: list[str]) -> Found | None:
    """What a look found; None, with a warning and a word in `faults`, where it failed: it is unknown then, not
    empty."""
    try:
        return look()
    except KioskError as e:
        log.warning("%s is unknown: %s", what, e)
        faults.append(f"{what} is unknown: {e}")
        return None


def given_up(
    ledger: Ledger, vms: Sequence[VmState] | None, hosts: Sequence[Host] | None, rules: Rules
) -> frozenset[str]:
    """Names of this farm's that the cloud or the batch system lists and the ledger knows as gone (`Site.gone`)."""
    names = {vm.name for vm in vms or ()}.union(*map(names_of, hosts or ()))
    return frozenset(ledger.ever(n for n in names - ledger.nodes().keys() if type_of(n, rules.prefix)))


@dataclass
class Executor:
    """`spec` says what VM a node is; it raises a KioskError where it can't be started. Up to `workers` VMs are started
    or ended at a time."""

    cloud: Cloud
    batch: BatchSystem
    ledger: Ledger
    spec: Callable[[Node], VmSpec]
    rules: Rules = field(default_factory=Rules)
    now: clock.Clock = clock.now
    workers: int = 1

    def run(self, plan: Plan, *, dry_run: bool = False, seconds: float = 240.0) -> list[Result]:
        """Does it; the results are in the order of the effects."""
        if dry_run:
            return [Result(effect, "would") for effect in plan.effects]
        until = time.monotonic() + seconds
        self.ledger.put(plan.nodes, self.now())
        self.ledger.put_circuits(plan.circuits)
        results: list[Result] = []
        mute = {"cloud": 0, "batch": 0}
        for side, kind in groupby(plan.effects, key=_side):
            for chunk in _chunks(list(kind), self.workers if side == "cloud" else 1):
                if time.monotonic() > until or mute.get(side, 0) >= IN_A_ROW:
                    why = "no time left" if mute.get(side, 0) < IN_A_ROW else f"the {side} does not answer"
                    results += [Result(effect, "later", why) for effect in chunk]
                    continue
                for result, reached in self._together(chunk):
                    results.append(result)
                    if side in mute:
                        mute[side] = 0 if reached else mute[side] + 1
        return results

    def _together(self, effects: Sequence[Effect]) -> Iterator[tuple[Result, bool]]:
        """Intents of all, then all effects, then all results. Also says whether the other side was reached."""
        begun = [(effect, *self._intend(effect)) for effect in effects]
        calls = [call for _, _, call in begun]
        if len(calls) == 1:
            ended = [_ended(calls[0])]
        else:
            with ThreadPoolExecutor(len(calls)) as pool:
                ended = list(pool.map(_ended, calls))
        for (effect, intent, _), end in zip(begun, ended, strict=True):
            yield self._done(effect, intent, end), not isinstance(end, (NetworkError, BatchError))

    def _intend(self, effect: Effect) -> tuple[int | None, Callable[[], object]]:
        """Writes an effect's intent down; returns its number and what to call."""
        cloud, batch = self.cloud, self.batch
        if isinstance(effect, Launch):
            return self._asked(effect)
        if isinstance(effect, Adopt):
            return None, lambda: None  # it is in the ledger already, and nothing is done to the VM
        if isinstance(effect, Forget):
            return None, lambda: self.ledger.forget(effect.node, effect.reason, self.now())
        call: Callable[[], object]
        if isinstance(effect, Close):
            what, call = (
                f"close {effect.host}: {effect.reason}",
                lambda: batch.close(effect.host, effect.reason),
            )
        elif isinstance(effect, Open):
            what, call = f"open {effect.host}", lambda: batch.open(effect.host)
        elif isinstance(effect, Remove):
            what, call = f"remove {effect.host}", lambda: batch.remove(effect.host)
        elif isinstance(effect, Drain):
            if not cloud.capabilities.drain:
                return None, _no_drain
            what, call = f"drain {effect.vm}: {effect.reason}", lambda: cloud.drain(effect.vm, effect.reason)
        else:
            what, call = f"stop {effect.vm}: {effect.reason}", lambda: cloud.stop(effect.vm, now=effect.now)
        return self.ledger.intend(effect.node, what, self.now()), call

    def _asked(self, effect: Launch) -> tuple[int | None, Callable[[], object]]:
        node = self.ledger.nodes().get(effect.node.id)
        if node is None or node.phase != "wanted":
            return None, _not_wanted
        try:
            spec = self.spec(node)
        except KioskError as e:
            error = e
            return None, lambda: _raise(error)
        asked = replace(
            node, phase="launching", since=self.now(), attempts=node.attempts + 1, missing=None, silent=None
        )  # before this nobody could list it
        where = f" on {node.where}" if node.where else ""
        return self.ledger.intend(
            node.id, f"start {node.image}{where}", self.now(), asked=asked
        ), lambda: self.cloud.start(spec)

    def _done(self, effect: Effect, intent: int | None, end: object) -> Result:
        """Writes down how an effect ended."""
        if isinstance(end, NotFoundError) and isinstance(effect, Stop):
            end = None
        error = end if isinstance(end, KioskError) else None
        note = f"{type(error).__name__}: {error.what}" if error is not None else "done"
        node = self._after_launch(effect, end, intent) if isinstance(effect, Launch) else None
        if isinstance(effect, Stop) and error is None:
            node = self._after_stop(effect)
        if intent is not None:
            self.ledger.done(intent, note, self.now(), node=node)
        if error is None:
            return Result(effect, "done")
        log.warning("%s of %s: %s", type(effect).__name__, subject(effect), error)
        return Result(effect, "failed", note)

    def _after_launch(self, effect: Launch, end: object, intent: int | None) -> Node | None:
        """What a node is once the cloud answered; None where it stays as it is."""
        node = self.ledger.nodes().get(effect.node.id)
        if node is None or isinstance(end, NotWanted):
            return None
        if isinstance(end, VmState):
            return replace(node, phase="booting", since=self.now(), vm=end.id)
        if not isinstance(end, KioskError) or isinstance(end, NetworkError):
            return None  # it may have been started: the list will tell
        image = isinstance(end, OF_THE_IMAGE)
        for key in (
            (f"image:{node.image}",) if image else (f"cloud:{self.rules.cloud}", f"hypervisor:{node.where}")
        ):
            if not key.endswith(":None"):
                circuit = self.ledger.circuits().get(key, NEW)
                self.ledger.put_circuits(
                    {key: failed(key, circuit, self.now(), self.rules.breaker, end.what)}
                )
        if intent is None:
            self.ledger.put([replace(node, phase="gone", reason=end.what[:300])], self.now())
            return None
        return replace(node, phase="failed", since=self.now(), reason=end.what[:300])

    def _after_stop(self, effect: Stop) -> Node | None:
        """A VM that was ended counts as missing from now on; the list confirms it."""
        node = self.ledger.nodes().get(effect.node)
        if (
            node is None
            or node.vm != effect.vm
            or node.missing is not None
            or node.phase not in ("leaving", "failed")
        ):
            return None
        return replace(node, missing=self.now())


class NotWanted(KioskError):
    """A node that is not wanted any more, or was asked for before."""


def _not_wanted() -> None:
    raise NotWanted("it is not wanted any more, or was asked for before")


def _no_drain() -> None:
    raise NotFoundError("this cloud can't have a guest drain")


def _raise(error: KioskError) -> None:
    raise error


def _ended(call: Callable[[], object]) -> object:
    """What a call returned, or the KioskError that it raised."""
    try:
        return call()
    except KioskError as e:
        return e


def _side(effect: Effect) -> str:
    if isinstance(effect, (Forget, Adopt)):
        return "ledger"
    return "batch" if isinstance(effect, (Close, Open, Remove)) else "cloud"


def _chunks(effects: Sequence[Effect], size: int) -> Iterator[Sequence[Effect]]:
    for at in range(0, len(effects), max(1, size)):
        yield effects[at : at + max(1, size)]
