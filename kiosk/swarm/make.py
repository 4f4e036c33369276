"""Makes the torrent of a version: the same objects and settings give the same bytes, and the same infohash.

Only objects that are new since the last publication are read: the hashes of the others are remembered with the
known blocks (`kiosk.store.known`), which is a memory and not a truth. If it were wrong, peers would refuse the
object's bytes, and agents would have it over HTTP.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import libtorrent as lt

from kiosk.errors import PolicyError
from kiosk.model.manifest import Object
from kiosk.store.objects import ObjectSource
from kiosk.swarm.torrent import HASH, LARGEST, LARGEST_OBJECT, LEAF, MOST, NAME, PIECE

BATCH = 64
WORKERS = 2
Layer = tuple[bytes, bytes]
"""The root of an object's hashes, and those of its pieces one after the other (none where it is one piece)."""


class Memory(Protocol):
    """What remembers layers by the objects' digests; `kiosk.store.known.KnownBlocks` does."""

    def layers(self, digests: Sequence[str]) -> dict[str, Layer]:
        """Those that are known."""

    def add_layers(self, layers: Iterable[tuple[str, Layer]]) -> None:
        """Remembers more."""


class Nothing:
    """A memory that has none."""

    def layers(self, digests: Sequence[str]) -> dict[str, Layer]:
        """None."""
        return {}

    def add_layers(self, layers: Iterable[tuple[str, Layer]]) -> None:
        """Forgets them."""


def torrent(
    source: ObjectSource,
    objects: Iterable[Object],
    memory: Memory,
    *,
    trackers: Sequence[str] = (),
    web_seeds: Sequence[str] = (),
) -> tuple[str, bytes]:
    """The infohash and the .torrent of a version with these objects. Objects that `memory` has no hashes of are
    read from `source`, and remembered. `trackers` and `web_seeds` are for any BitTorrent client, and are not part
    of the infohash. PolicyError for more or larger objects than a torrent may have."""
    sizes = {o.digest: o.size for o in objects}
    if not sizes or len(sizes) > MOST or max(sizes.values()) > LARGEST_OBJECT:
        raise PolicyError(f"a torrent has 1 to {MOST} objects, each of at most {LARGEST_OBJECT} bytes")
    layers = memory.layers(list(sizes))
    new = [Object(digest=d, size=s) for d, s in sizes.items() if d not in layers]
    found = list(_read(source, new))
    memory.add_layers(found)
    layers.update(found)
    info = _info(sizes, layers)
    data: dict[bytes, Any] = {
        b"info": info,
        b"piece layers": {root: hashes for root, hashes in layers.values() if hashes},
    }
    if trackers:
        data[b"announce"] = trackers[0].encode()
        data[b"announce-list"] = [[url.encode()] for url in trackers]
    if web_seeds:
        data[b"url-list"] = [url.rstrip("/").encode() + b"/" for url in web_seeds]
    made = lt.bencode(data)
    if len(made) > LARGEST:
        raise PolicyError(f"the torrent would have more than {LARGEST} bytes")
    return hashlib.sha256(lt.bencode(info)).hexdigest(), made


def layer(data: bytes) -> Layer:
    """The root of the hash tree over an object's bytes (BEP 52), and the hashes of its pieces where it has more
    than one."""
    if len(data) <= PIECE:
        return _root(_leaves(data), 1), b""
    pieces = [_root(_leaves(data[at : at + PIECE]), PIECE // LEAF) for at in range(0, len(data), PIECE)]
    return _root(list(pieces), 1, _empty(PIECE // LEAF)), b"".join(pieces)


def _read(source: ObjectSource, objects: Sequence[Object]) -> Iterator[tuple[str, Layer]]:
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="kiosk-torrent") as pool:
        for at in range(0, len(objects), BATCH):
            some = objects[at : at + BATCH]
            yield from zip(
                (o.digest for o in some), pool.map(lambda o: layer(source.read(o)), some), strict=True
            )


def _info(sizes: dict[str, int], layers: dict[str, Layer]) -> dict[bytes, Any]:
    tree: dict[bytes, dict[bytes, Any]] = {}
    for digest, size in sizes.items():
        name = digest.removeprefix("sha256:").encode()
        tree.setdefault(name[:2], {})[name] = {b"": {b"length": size, b"pieces root": layers[digest][0]}}
    return {
        b"file tree": tree,
        b"meta version": 2,
        b"name": NAME.encode(),
        b"piece length": PIECE,
        b"private": 1,
    }


def _leaves(data: bytes) -> list[bytes]:
    view = memoryview(data)
    return [hashlib.sha256(view[at : at + LEAF]).digest() for at in range(0, len(data), LEAF)]


def _root(hashes: list[bytes], least: int, filler: bytes = bytes(HASH)) -> bytes:
    """The root over these hashes, filled up with `filler` to a power of two, and to `least` at least."""
    width = max(least, 1 << (len(hashes) - 1).bit_length())
    while width > 1:
        if len(hashes) % 2:
            hashes.append(filler)
        hashes = [hashlib.sha256(a + b).digest() for a, b in zip(hashes[::2], hashes[1::2], strict=True)]
        filler = hashlib.sha256(filler * 2).digest()
        width //= 2
    return hashes[0]


def _empty(leaves: int) -> bytes:
    """The hash over so many leaves behind the end of a file: in a tree, a leaf that is not there is zeros."""
    return _root([bytes(HASH)], leaves)
