"""What the reading of a stranger's file system may cost: names, bytes, seconds. Beyond it is a BudgetError, which is no
fault of the image: nobody knows what else is in it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from kiosk.disk.volume import Node, SparseVolume, filled
from kiosk.errors import KioskError

MOST_FILES = 1_000_000
MOST_TEXT = 256 << 20
"""Bytes of all paths, targets of links, and attributes together."""
MOST_HOLES = 16 << 30
"""Bytes of holes: what is no hole can't be more than the disk has, but files may claim terabytes."""
AGAIN = 2 << 30
"""Bytes that may be read a second time: databases of packages."""
MOST_SECONDS = 1800.0


class BudgetError(KioskError):
    """The reading ended at one of the limits."""


@dataclass
class Budget:
    """`bytes` is how many may still be read, `holes` how many bytes of them may be holes."""

    bytes: int
    holes: int = field(default_factory=lambda: MOST_HOLES)
    until: float = field(default_factory=lambda: time.monotonic() + MOST_SECONDS)

    def spend(self, bytes: int = 0) -> None:
        """Notes what was read. BudgetError when that was too much, or the time is up."""
        self.bytes -= bytes
        if self.bytes < 0:
            raise BudgetError("beyond the budget: its files hold more bytes than its disk")
        if time.monotonic() > self.until:
            raise BudgetError(f"beyond the budget: it was not read in {MOST_SECONDS:.0f} s")


class Metered:
    """A volume that is read on a budget."""

    def __init__(self, volume: SparseVolume, budget: Budget) -> None:
        self._volume = volume
        self.budget = budget

    def nodes(self) -> Iterator[Node]:
        text = 0
        for count, node in enumerate(self._volume.nodes()):
            self.budget.spend()
            text += len(node.path) + len(node.target or b"")
            text += sum(len(name) + len(value) for name, value in node.xattrs.items())
            if count > MOST_FILES:
                raise BudgetError(f"beyond the budget: it has more than {MOST_FILES} files")
            if text > MOST_TEXT:
                raise BudgetError(
                    f"beyond the budget: the names of its files have more than {MOST_TEXT} bytes"
                )
            yield node

    def read(self, node: Node) -> Iterator[bytes]:
        return filled(self.data(node), node.size)

    def data(self, node: Node) -> Iterator[tuple[int, bytes]]:
        for at, piece in self._volume.data(node):
            self.budget.spend(len(piece))
            yield at, piece
