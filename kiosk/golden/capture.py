"""A golden node: a machine that is managed as it always was, and of which a daily image is made.

What each source guarantees: the node goes on as before whatever happens to kiosk (thawed, no job left in it, no
snapshot of kiosk's making); a capture is whole, or there is none and an error says why; what was half-captured
is removed. What comes back is the node's, and is read as hostile data by whoever uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Format = Literal["raw", "qcow2"]


@dataclass(frozen=True)
class Capture:
    """The state of a node at one moment, below the private folder that it was captured into.

    Either `disk`, a whole disk of the `format` (sparse, without backing file), or `tree`, a folder with the node's
    files as root sees them: owners, modes, links, devices, attributes. `method` says how, for the provenance;
    `frozen_seconds` is how long the node's file systems were frozen at most, None where they were not, in
    which case their journals are still to be replayed.
    """

    method: str
    disk: Path | None = None
    format: Format = "raw"
    tree: Path | None = None
    frozen_seconds: float | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """How a command in the node ended, and what it printed: untrusted, bounded, fit to be shown."""

    status: int
    output: str


class Source(Protocol):
    """Where a golden node is, and how it is read."""

    def describe(self) -> str:
        """The node, on one line."""
        ...

    def capture(self, folder: Path) -> Capture:
        """Reads the node into `folder`, which is the caller's own (mode 0700).

        GuestError where the node does not do what it must, NetworkError where it can't be reached or is lost
        on the way, StorageError where `folder` is full, BusyError where another has the disk, BuildError
        otherwise.
        """
        ...

    def run(self, argv: Sequence[str], *, timeout: float) -> Answer:
        """Runs a command in the node; UsageError where this source can't, GuestError or NetworkError where
        it does not come to its end within `timeout` seconds."""
        ...
