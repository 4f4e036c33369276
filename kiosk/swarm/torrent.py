"""The .torrent of a version, read strictly: what libtorrent is given is written anew from what was understood.

A version's torrent is BitTorrent v2 alone (BEP 52), private, and named `objects`; its files are objects under
their own names, `ab/abcdef...`, so that the files of all torrents of a host are the same files. A piece is as long
as a usual object at least: an object is on disk as a whole piece or not at all.

Whatever the bytes are, `read` gives a torrent of this shape with the signed infohash, or a VerificationError.
Only the standard library and libtorrent are imported here, as the agent keeps all of it in memory.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import libtorrent as lt

from kiosk.errors import NotFoundError, VerificationError

NAME = "objects"
PIECE = 4 << 20
"""Bytes of a piece: more than all objects but a few large indexes have."""
PIECES = (1 << 14, 16 << 20)
"""The least and the most bytes of a piece that are accepted."""
LEAF = 1 << 14
LARGEST = 32 << 20
"""The most bytes of a .torrent: 200,000 objects take about 30 MB."""
LARGEST_OBJECT = 64 << 20
MOST = 200_000
"""The most objects in a torrent."""
HASH = 32
OBJECT = re.compile(rb"[0-9a-f]{64}")
INFOHASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Torrent:
    """A torrent of the right shape. `names` are the objects' names in order (64 hexadecimal digits each), `first`
    the number of each one's first piece; `data` is what libtorrent is given."""

    infohash: str
    piece: int
    names: list[str] = field(repr=False)
    sizes: array[int] = field(repr=False)
    first: array[int] = field(repr=False)
    trackers: tuple[str, ...]
    web_seeds: tuple[str, ...]
    data: bytes = field(repr=False)

    @property
    def piece_count(self) -> int:
        """How many pieces it has."""
        return self.first[-1]

    def number(self, digest: str) -> int | None:
        """Which file an object is, by its digest `sha256:HEX`; None where it is not in this torrent."""
        name = digest.removeprefix("sha256:")
        at = bisect_left(self.names, name)
        return at if at < len(self.names) and self.names[at] == name else None

    def known(self, digest: str) -> int:
        """The same; NotFoundError where it is not in this torrent."""
        number = self.number(digest)
        if number is None:
            raise NotFoundError(f"{digest[:80]} is not in the torrent", where=self.infohash)
        return number

    def file_of(self, piece: int) -> int:
        """Which file a piece belongs to."""
        return bisect_right(self.first, piece) - 1

    def pieces(self, number: int) -> range:
        """The pieces of a file."""
        return range(self.first[number], self.first[number + 1])


def read(data: bytes, infohash: str, *, where: str = "the torrent") -> Torrent:
    """The torrent in the bytes of a .torrent; VerificationError when it has another infohash than the signed one,
    or is not of a version's shape."""
    if not INFOHASH.fullmatch(infohash):
        raise VerificationError(f"{infohash[:80]!r} is not an infohash of BitTorrent v2", where=where)
    if len(data) > LARGEST:
        raise _wrong(f"has {len(data)} bytes, more than {LARGEST}", where)
    try:
        decoded = lt.bdecode(data)
    except (RuntimeError, ValueError):
        decoded = None
    top = _dictionary(decoded, "it", where)
    info = _dictionary(top.get(b"info"), "its info", where)
    found = hashlib.sha256(lt.bencode(info)).hexdigest()
    if found != infohash:
        raise _wrong(f"has the infohash {found} instead of {infohash}, which is signed", where)
    piece = _number(info, b"piece length", *PIECES, where=where)
    if piece & (piece - 1):
        raise _wrong("has pieces whose length is not a power of two", where)
    expected = {b"name": NAME.encode(), b"meta version": 2, b"private": 1}
    for key, value in expected.items():
        if info.get(key) != value:
            raise _wrong(f"has no {key.decode()!r} {value!r}, as a version's torrent has", where)
    if info.keys() - expected.keys() - {b"piece length", b"file tree"}:
        raise _wrong("says more of itself than a version's torrent does", where)
    names, sizes, first, layers = _files(info, top, piece, where)
    taken: dict[bytes, Any] = {b"info": info, b"piece layers": layers}
    return Torrent(
        infohash=infohash,
        piece=piece,
        names=names,
        sizes=sizes,
        first=first,
        trackers=tuple(dict.fromkeys(_urls(top.get(b"announce")) + _urls(top.get(b"announce-list")))),
        web_seeds=tuple(_urls(top.get(b"url-list"))),
        data=lt.bencode(taken),
    )


def _files(
    info: dict[bytes, Any], top: dict[bytes, Any], piece: int, where: str
) -> tuple[list[str], array[int], array[int], dict[bytes, bytes]]:
    known = _dictionary(top.get(b"piece layers", {}), "its piece layers", where)
    names: list[str] = []
    sizes, first, layers = array("Q"), array("Q", [0]), {}
    for name, file in _tree(_dictionary(info.get(b"file tree"), "its file tree", where), where):
        size, root = _number(file, b"length", 1, LARGEST_OBJECT, where=where), file.get(b"pieces root")
        if not isinstance(root, bytes) or len(root) != HASH or file.keys() - {b"length", b"pieces root"}:
            raise _wrong(f"does not describe {name} as BitTorrent v2 does", where)
        count = -(-size // piece)
        if count > 1:
            layer = known.get(root)
            if not isinstance(layer, bytes) or len(layer) != HASH * count:
                raise _wrong(f"has no piece layer for {name}", where)
            layers[root] = layer
        names.append(name)
        sizes.append(size)
        first.append(first[-1] + count)
        if len(names) > MOST:
            raise _wrong(f"has more than {MOST} files", where)
    if not names:
        raise _wrong("has no files", where)
    return names, sizes, first, layers


def _tree(tree: dict[bytes, Any], where: str) -> Iterator[tuple[str, dict[bytes, Any]]]:
    """The files in the order of their names, which is the torrent's. Only names of objects get through."""
    for folder in sorted(tree):
        below = _dictionary(tree[folder], "a folder", where)
        for name in sorted(below):
            if not OBJECT.fullmatch(name) or folder != name[:2]:
                raise _wrong(f"has a file {folder[:80]!r}/{name[:80]!r}, which is no object's name", where)
            entry = _dictionary(below[name], "a file", where)
            if entry.keys() != {b""}:
                raise _wrong(f"has a folder with the name of the object {name[:80]!r}", where)
            yield name.decode(), _dictionary(entry[b""], "a file", where)


def _dictionary(value: object, what: str, where: str) -> dict[bytes, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"is not a torrent of BitTorrent v2: {what} is no dictionary", where)
    return value


def _number(of: dict[bytes, Any], key: bytes, least: int, most: int, *, where: str) -> int:
    value = of.get(key)
    if not isinstance(value, int) or not least <= value <= most:
        raise _wrong(f"has a {key.decode()!r} that is not between {least} and {most}", where)
    return value


def _urls(value: object, depth: int = 2) -> list[str]:
    """The http and https URLs in a value of a .torrent: one, a list, or a list of lists; at most 16."""
    if isinstance(value, bytes):
        text = value[:2000].decode("ascii", "replace")
        try:
            fits = (
                text.isprintable() and urlsplit(text).scheme in ("http", "https") and urlsplit(text).hostname
            )
        except ValueError:
            fits = None
        return [text] if fits else []
    if isinstance(value, list) and depth:
        return [url for one in value[:16] for url in _urls(one, depth - 1)][:16]
    return []


def _wrong(what: str, where: str) -> VerificationError:
    return VerificationError(what, where=where, hint="Nothing of it was used. Objects can be had over HTTP.")
