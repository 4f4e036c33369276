"""What the agent's run asks of other parts of kiosk besides fetching: handing a current version over, giving old
versions up, and who uses which. One place, so that the run does not depend on how they do it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from kiosk.errors import KioskError
from kiosk.handover import Handover
from kiosk.handover.settings import HookTable, Tables
from kiosk.model.names import Ref
from kiosk.sync import prune, usage
from kiosk.sync.host import HostCache, Installed


class Ends:
    """The host's side: `tables` say where images are handed over to."""

    def __init__(self, cache: HostCache, vms: Path, tables: Sequence[Mapping[str, object]]) -> None:
        self.cache = cache
        self.vms = vms
        self.handover = Handover(cache, TypeAdapter(Tables).validate_python(tuple(tables)))

    def longest(self, copying: float) -> float:
        """Seconds that handing a version over may take, where a copy takes `copying`; 0: that giving up all may."""
        tables = [table for table, _ in self.handover.places]
        hooks = sum(t.timeout * len(t.events) for t in tables if isinstance(t, HookTable))
        versions = 1 if copying else 1 + sum(len(self.cache.versions(n)) for n in self.cache.names())
        return hooks * versions + copying * len(tables)

    def hand_over(self, version: Installed) -> list[KioskError]:
        """Hands a current version over to every place that takes it. Returns what went wrong at some."""
        if not self.handover.places:
            return []
        return [o.error for o in self.handover.offer(version) if o.error is not None]

    def sweep(self, *, keep: int, wanted: Collection[Ref], free: int | None = None) -> KioskError | None:
        """Removes versions that are neither current, nor the one before it, nor in use, nor wanted, nor among the
        newest `keep` of their name: all of them, or with `free` as many as it takes until so many bytes are free,
        and then shared objects. Returns what kept it from removing one."""
        if self.handover.places and free is None:
            self.handover.settle()
        return prune.sweep(
            self.cache, self.vms, keep=keep, free=free, wanted=wanted, handed=self.handover
        ).failure

    def used(self) -> dict[Ref, int]:
        """How many use each version."""
        return {ref: len(users) for ref, users in usage.look(self.cache, self.vms).users.items()}
