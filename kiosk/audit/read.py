"""Reading each file of the image once: digests, and the content checks over a file whole or in windows.

Bounded: a file is looked at up to LARGEST bytes, all files together up to TOTAL, what is unpacked from a compressed
file up to UNPACKED. What is over is told, never passed over in silence.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import zstandard

from kiosk.audit.binaries import binaries
from kiosk.audit.certificates import certificates
from kiosk.audit.entropy import key_file
from kiosk.audit.keys import key_files, private_keys
from kiosk.audit.model import Hit
from kiosk.audit.sample import OVERLAP, WHOLE, WINDOW, Sample
from kiosk.audit.words import words
from kiosk.disk.volume import Node, SparseVolume, Volume
from kiosk.errors import CorruptError

LARGEST = 2 << 30
TOTAL = 64 << 30
UNPACKED = 8 << 20
MAX_NAMES = 32
"""A file is looked at under so many of its names; no file that no package brought has more."""
_PACKED = (
    (b"\x1f\x8b", "gzip", lambda: zlib.decompressobj(31)),
    (b"BZh", "bzip2", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\0", "xz", lambda: lzma.LZMADecompressor(memlimit=256 << 20)),
)
_ZSTD = b"\x28\xb5\x2f\xfd"


@dataclass
class Looked:
    """What reading one file gave: its digests by algorithm, and what the content checks saw."""

    digests: dict[str, str] = field(default_factory=dict)
    hits: list[Hit] = field(default_factory=list)
    whole: bytes | None = None


class Reader:
    """Reads files of one volume. `each` are checks of files by name, made on their beginning."""

    def __init__(self, volume: Volume, each: Callable[[Sample], Iterator[Hit]]) -> None:
        self._volume = volume
        self._each = each
        self._left = TOTAL
        self.bytes = 0
        self.files = 0

    def digest(self, node: Node, algorithm: str) -> tuple[str, Looked]:
        """The digest of a file, and its content when that is small: for files of which a package knows it."""
        looked = Looked()
        digest = hashlib.new(algorithm, usedforsecurity=False)
        small: list[bytes] | None = [] if node.size <= WHOLE else None
        for _, piece in self._pieces(node, looked):
            digest.update(piece)
            if small is not None:
                small.append(piece)
        looked.digests[algorithm] = digest.hexdigest()
        looked.whole = b"".join(small) if small is not None else None
        return f"{algorithm}:{digest.hexdigest()}", looked

    def look(
        self, names: Sequence[Node], *, whole: bytes | None = None, pristine: Collection[bytes] = ()
    ) -> Looked:
        """Looks into a file, under all of its names, with all content checks; `whole` is its content where that was
        read already, `pristine` the paths that are what their package brought."""
        looked = Looked()
        node = names[0]
        digest = hashlib.sha256()
        filled = True
        if whole is None and node.size > WHOLE:
            done = 0
            for at, sample in self._windows(node, looked):
                filled &= at == done
                new = sample.data[at - sample.start :]
                digest.update(new)
                done = at + len(new)
                looked.hits += _under(names, [*private_keys(sample), *words(sample)])
                if sample.head:
                    looked.hits += self._head(sample, names, pristine)
            filled &= done == node.size
        else:
            data = whole if whole is not None else b"".join(p for _, p in self._pieces(node, looked))
            digest.update(data)
            filled = len(data) == node.size
            for name in names[:MAX_NAMES]:
                looked.hits += self._small(Sample(name, data, pristine=name.path in pristine))
        for name in names[MAX_NAMES:]:
            looked.hits.append(Hit("unexamined", name.path, f"is one of {len(names)} names of a file"))
        if filled:
            looked.digests["sha256"] = digest.hexdigest()
        return looked

    def _small(self, sample: Sample) -> list[Hit]:
        hits = [*private_keys(sample), *words(sample), *certificates(sample), *binaries(sample)]
        hits += self._each(sample)
        hits += key_files(sample)
        if not hits:
            hits += key_file(sample)
        hits += self._inside(sample)
        return hits

    def _head(self, sample: Sample, names: Sequence[Node], pristine: Collection[bytes]) -> list[Hit]:
        """What only the beginning of a large file tells."""
        hits = _under(names, [*binaries(sample), *key_files(sample), *self._inside(sample)])
        for name in names[:MAX_NAMES]:
            hits += self._each(replace(sample, node=name, pristine=name.path in pristine))
        return hits

    def _windows(self, node: Node, looked: Looked) -> Iterator[tuple[int, Sample]]:
        """A large file in windows that overlap, its holes left out; with each, where what is new in it begins."""
        held, start, new = b"", 0, 0
        for at, piece in self._pieces(node, looked, sparse=True):
            if at != start + len(held):
                if start + len(held) > new:
                    yield new, Sample(node, held, start, whole=False)
                held, start, new = b"", at, at
            held += piece
            while len(held) >= WINDOW:
                yield new, Sample(node, held[:WINDOW], start, whole=False)
                new = start + WINDOW
                held, start = held[WINDOW - OVERLAP :], start + WINDOW - OVERLAP
        if start + len(held) > new:
            yield new, Sample(node, held, start, whole=False)

    def _pieces(self, node: Node, looked: Looked, *, sparse: bool = False) -> Iterator[tuple[int, bytes]]:
        """The content and where it begins, up to the bounds; damage is a hit as well. With `sparse` without holes,
        where the volume tells them."""
        self.files += 1
        done = 0
        try:
            for at, piece in self._content(node, sparse):
                self.bytes += len(piece)
                self._left -= len(piece)
                done += len(piece)
                yield at, piece
                if done > LARGEST or self._left < 0:
                    looked.hits.append(
                        Hit("unexamined", node.path, f"is larger than can be looked at ({node.size} bytes)")
                    )
                    return
        except CorruptError as e:
            looked.hits.append(Hit("unexamined", node.path, f"can't be read: {e.what}"))

    def _content(self, node: Node, sparse: bool) -> Iterator[tuple[int, bytes]]:
        if sparse and isinstance(self._volume, SparseVolume):
            yield from self._volume.data(node)
            return
        at = 0
        for piece in self._volume.read(node):
            yield at, piece
            at += len(piece)

    def _inside(self, sample: Sample) -> Iterator[Hit]:
        """What a compressed file holds, as far as UNPACKED bytes go."""
        unpacked = unpack(sample.data)
        if unpacked is not None and not sample.inside:
            kind, data = unpacked
            inner = replace(sample, data=data, whole=len(data) < UNPACKED, inside=kind, pristine=False)
            yield from private_keys(inner)
            yield from words(inner)
            yield from binaries(inner)
            yield from certificates(inner)


def _under(names: Sequence[Node], hits: Iterable[Hit]) -> list[Hit]:
    """The same hits under all names of a file."""
    return [replace(hit, path=name.path) for hit in hits for name in names]


def unpack(data: bytes) -> tuple[str, bytes] | None:
    """What compressed data holds: its kind and at most UNPACKED bytes of content; None when it is not compressed."""
    for magic, kind, make in _PACKED:
        if data.startswith(magic):
            try:
                return kind, make().decompress(data, UNPACKED)
            except (zlib.error, OSError, EOFError, ValueError, lzma.LZMAError):
                return None
    if data.startswith(_ZSTD):
        try:
            reader = zstandard.ZstdDecompressor(max_window_size=128 << 20).stream_reader(data)
            return "zstd", reader.read(UNPACKED)
        except zstandard.ZstdError:
            return None
    return None
