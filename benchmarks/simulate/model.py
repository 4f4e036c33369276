"""What a simulated farm is: sizes in bytes, rates in bytes a second, times in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field

GIGABIT = 1e9 / 8
MIB = 1 << 20
WIRE = 0.94
"""The share of a link that is content: Ethernet, IP, TCP and their acknowledgements take the rest."""


@dataclass(frozen=True)
class Racks:
    """`hosts` in a rack share an uplink to a core that is never the bottleneck. 0: no racks."""

    hosts: int = 40
    uplink: float = 10 * GIGABIT


@dataclass(frozen=True)
class Trouble:
    """`vanish` of the hosts go away at some time while they fetch; `slow` have a link of `slow_share` of the
    others'."""

    vanish: float = 0.0
    slow: float = 0.0
    slow_share: float = 0.25


@dataclass(frozen=True)
class Farm:
    """A farm, an image, and how the programs behave.

    An object is what HTTP gives, a piece what hosts give each other (`pieces` in an object). `leases` hosts read
    from the kiosk at a time, each over `ahead` connections, beginning at 0, 1/2, 1/4 ... of the image, until
    the swarm brings the rest; a host that has no lease asks again after `retry`. A host begins `begin` after the
    publication, somewhere within `spread`; `papers` (metadata, index, torrent) come from the kiosk to every host.
    The tracker gives `peers` others, those of the same rack first up to `near` of them, and again after
    `interval`. A host uploads to `slots` at a time, which it chooses anew every `choke` seconds (those that gave
    it most, and one at random), and downloads from `sources`. `assembly` is how fast a host verifies and writes,
    and `end` what is left to do after the last byte.
    """

    hosts: int
    size: int
    object_size: int = 4 * MIB
    pieces: int = 1
    link: float = GIGABIT
    origin: float = GIGABIT
    racks: Racks = Racks()
    trouble: Trouble = Trouble()
    wire: float = WIRE
    leases: int = 2
    ahead: int = 6
    few: int = 2
    retry: float = 5.0
    begin: float = 0.5
    spread: float = 1.0
    papers: float = 0.7e6
    peers: int = 50
    near: int = 25
    most_peers: int = 80
    interval: float = 30.0
    connect: float = 0.5
    slots: int = 12
    choke: float = 15.0
    sources: int = 12
    assembly: float = 200e6
    end: float = 0.5
    seed: int = 1

    @property
    def objects(self) -> int:
        """Objects in the image."""
        return max(1, -(-self.size // self.object_size))

    @property
    def piece(self) -> float:
        """Bytes of a piece, all being of one size."""
        return self.size / (self.objects * self.pieces)


@dataclass
class Result:
    """When each host had the image (those that vanished are left out, `slow` ones apart), and what the kiosk sent."""

    way: str
    hosts: int
    done: list[float]
    origin_bytes: float
    unfinished: int = 0
    lost: int = 0
    seconds: float = 0.0
    slow: list[float] = field(default_factory=list)
