"""The swarm as the daemon uses it. Without libtorrent, or where it is switched off, there is none, and leases and
plain HTTP do all the work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from kiosk.agent.orders import Orders


class Swarm(Protocol):
    """This host's part in all swarms. No call blocks for long, none raises for what a peer or a file does."""

    @property
    def works(self) -> bool:
        """Whether there is one at all."""

    @property
    def downloaded(self) -> int:
        """Bytes that peers sent since the start."""

    @property
    def uploaded(self) -> int:
        """Bytes that peers were sent since the start."""

    def fileno(self) -> int | None:
        """A descriptor that becomes readable when `completed` has news; None where there will be none."""

    def seed(self, torrents: Sequence[tuple[str, Path]]) -> None:
        """Takes part in these swarms (infohash, .torrent file), and in no others, with what is in the objects'
        folder."""

    def want(self, infohash: str, torrent: Path, digests: Sequence[str]) -> None:
        """Downloads these objects."""

    def have(self, digest: str) -> None:
        """An object came another way and stands in the objects' folder."""

    def completed(self) -> list[str]:
        """Wanted objects that are complete since the last call."""

    def limit(self, rate: int) -> None:
        """Bytes a second for downloads; 0 for no limit."""

    def close(self) -> None:
        """Ends, with what is needed to go on quickly kept."""


class NoSwarm:
    """No swarm."""

    works = False
    downloaded = 0
    uploaded = 0

    def fileno(self) -> int | None:
        """None."""
        return None

    def seed(self, torrents: Sequence[tuple[str, Path]]) -> None:
        """Nothing."""

    def want(self, infohash: str, torrent: Path, digests: Sequence[str]) -> None:
        """Nothing."""

    def have(self, digest: str) -> None:
        """Nothing."""

    def completed(self) -> list[str]:
        """Nothing."""
        return []

    def limit(self, rate: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def join(orders: Orders) -> Swarm:
    """This host's part in the swarm, as its configuration has it."""
    return NoSwarm()
