"""The swarm's tracker: who shares a version now. BitTorrent over HTTP (BEP 3, 23, 7; BEP 52's infohashes, cut to
20 bytes). It guarantees:

* only the swarms of published versions are known;
* a peer is listed under the address that it calls from, at most `OF_ONE_ADDRESS` from one address and `MOST` in all;
* an answer names peers of the asker's own subnet (/24, /64) first and keeps places for others taken by chance, so
  that subnets never fall apart; who has all is not told of others who have all.
"""

from __future__ import annotations

import ipaddress
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import libtorrent

ANSWERED = 50
OTHERS = 15
"""Places of an answer that are not for the asker's own subnet, where there are others."""
INTERVAL = (60.0, 120.0)
SOONEST = 30
EXPIRES = 300.0
SWEEP = 15.0
MOST = 60_000
OF_ONE_ADDRESS = 64
QUERY = 4096


@dataclass
class Peer:
    """A peer as it announced itself last."""

    subnet: bytes
    complete: bool
    done: bool
    seen: float


@dataclass
class Swarm:
    """The peers of one version, by packed address and port; `done` of them want no more of it."""

    peers: dict[bytes, Peer] = field(default_factory=dict)
    done: int = 0


class Refused(ValueError):
    """What a peer is told instead of an answer."""


@dataclass(frozen=True)
class Announce:
    """What a peer says. `complete`: it has all objects. `done`: it wants no more (BEP 21); no host ever has all, as the
    lists of a version's regions are read from the kiosk."""

    swarm: bytes
    place: bytes
    subnet: bytes
    complete: bool
    done: bool
    stopped: bool
    wanted: int


class Tracker:
    """All swarms. Times are any seconds that only grow."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()  # noqa: S311 - which peers are named is no secret
        self._swarms: dict[bytes, Swarm] = {}
        self._addresses: Counter[bytes] = Counter()
        self._swept = float("-inf")
        self._peers = 0

    def allow(self, infohashes: Iterable[bytes]) -> None:
        """The swarms there are from now on, by the first 20 bytes of their infohashes."""
        wanted = set(infohashes)
        for gone in self._swarms.keys() - wanted:
            for place in list(self._swarms[gone].peers):
                self._remove(self._swarms[gone], place)
            del self._swarms[gone]
        for new in wanted - self._swarms.keys():
            self._swarms[new] = Swarm()

    def announce(self, query: bytes, address: str, now: float) -> bytes:
        """Answers a peer that calls from `address`, bencoded; a fault is an answer as well."""
        self._sweep(now)
        try:
            answer: dict[bytes, Any] = self._answer(read(query, address), now)
        except Refused as e:
            answer = {b"failure reason": str(e).encode()}
        return bytes(libtorrent.bencode(answer))

    def leechers(self, infohash: bytes) -> int:
        """How many peers of a swarm want more."""
        swarm = self._swarms.get(infohash)
        return len(swarm.peers) - swarm.done if swarm else 0

    def counts(self) -> dict[bytes, tuple[int, int]]:
        """Peers that want no more, and the others, of each swarm."""
        return {i: (s.done, len(s.peers) - s.done) for i, s in self._swarms.items()}

    def _answer(self, said: Announce, now: float) -> dict[bytes, Any]:
        swarm = self._swarms.get(said.swarm)
        if swarm is None:
            raise Refused("there is no such torrent here")
        if said.stopped:
            self._remove(swarm, said.place)
            return {b"interval": int(INTERVAL[1])}
        self._add(swarm, said, now)
        chosen = self._choose(swarm, said)
        return {
            b"interval": int(self._chance.uniform(*INTERVAL)),
            b"min interval": SOONEST,
            b"complete": swarm.done,
            b"incomplete": len(swarm.peers) - swarm.done,
            b"peers": b"".join(p for p in chosen if len(p) == 6),
            b"peers6": b"".join(p for p in chosen if len(p) == 18),
        }

    def _add(self, swarm: Swarm, said: Announce, now: float) -> None:
        if said.place not in swarm.peers:
            if self._peers >= MOST:
                raise Refused("there are too many peers")
            if self._addresses[said.place[:-2]] >= OF_ONE_ADDRESS:
                raise Refused("there are too many peers at this address")
            self._addresses[said.place[:-2]] += 1
            self._peers += 1
        before = swarm.peers.get(said.place)
        swarm.done += said.done - (before.done if before else False)
        swarm.peers[said.place] = Peer(said.subnet, said.complete, said.done, now)

    def _choose(self, swarm: Swarm, said: Announce) -> list[bytes]:
        near: list[bytes] = []
        far: list[bytes] = []
        for place, peer in swarm.peers.items():
            if place != said.place and not (peer.complete and said.complete):
                (near if peer.subnet == said.subnet else far).append(place)
        of_far = min(len(far), max(min(OTHERS, said.wanted // 2), said.wanted - len(near)))
        of_near = min(len(near), said.wanted - of_far)
        return self._chance.sample(near, of_near) + self._chance.sample(far, of_far)

    def _remove(self, swarm: Swarm, place: bytes) -> None:
        peer = swarm.peers.pop(place, None)
        if peer is not None:
            swarm.done -= peer.done
            self._peers -= 1
            self._addresses[place[:-2]] -= 1
            if self._addresses[place[:-2]] <= 0:
                del self._addresses[place[:-2]]

    def _sweep(self, now: float) -> None:
        if now - self._swept < SWEEP:
            return
        self._swept = now
        for swarm in self._swarms.values():
            for place in [p for p, peer in swarm.peers.items() if now - peer.seen > EXPIRES]:
                self._remove(swarm, place)


def read(query: bytes, address: str) -> Announce:
    """What a peer says in its query; Refused where it does not fit."""
    if len(query) > QUERY:
        raise Refused("the query is too long")
    try:
        found = parse_qs(
            query.decode("latin-1"), encoding="latin-1", max_num_fields=40, keep_blank_values=True
        )
        words = {k: v[0] for k, v in found.items()}
        packed = packed_address(address)
    except ValueError:
        raise Refused("the query can't be read") from None
    infohash = words.get("info_hash", "").encode("latin-1")
    if len(infohash) != 20 or len(words.get("peer_id", "")) != 20:
        raise Refused("info_hash and peer_id have 20 bytes")
    port = _number(words, "port", 0, 65535)
    if port == 0:
        raise Refused("a port is needed")
    complete = _number(words, "left", 1, 1 << 63) == 0
    return Announce(
        swarm=infohash,
        place=packed + port.to_bytes(2, "big"),
        subnet=packed[:3] if len(packed) == 4 else packed[:8],
        complete=complete,
        done=complete or words.get("event") == "paused",
        stopped=words.get("event") == "stopped",
        wanted=min(ANSWERED, _number(words, "numwant", ANSWERED, 1 << 31)),
    )


def _number(words: dict[str, str], key: str, default: int, most: int) -> int:
    text = words.get(key, "")
    if not text or text == "-1":
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 20 or int(text) > most:
        raise Refused(f"{key} is no number that fits")
    return int(text)


def packed_address(text: str) -> bytes:
    """An address as 4 or 16 bytes; one of IPv4 that came over IPv6 is one of IPv4."""
    found = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    return found.packed
