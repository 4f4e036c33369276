"""What every kind of hand-over can do. The cache and what is current in it are never a driver's to change."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from kiosk.model.names import Ref
from kiosk.sync.host import Installed


class Driver(Protocol):
    """A place to which versions are handed over. Every call is bounded in time and raises KioskErrors only."""

    @property
    def place(self) -> str:
        """The place in words, always the same for the same place: a record names it."""

    def stands(self, version: Installed) -> bool:
        """Whether a version that was handed over still stands there as the current one, by a quick look."""

    def offer(self, version: Installed) -> None:
        """Makes a version what new VMs get there. May be called again, also for one that stands already or whose
        offer was killed; before it returns, what was offered before stays what new VMs get."""

    def withdraw(self, ref: Ref) -> None:
        """Takes an older version away, if it is there; BusyError where it is in use."""

    def removed(self, ref: Ref) -> None:
        """Told once the cache has given a version up."""

    def held(self) -> set[Ref]:
        """The versions that are there, as far as the place itself can tell."""

    def disks(self) -> Iterable[Path]:
        """Disks of VMs, running or not, that may be built on what was handed over or on the cache itself."""
