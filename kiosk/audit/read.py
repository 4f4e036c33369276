"""Reading each file of the image once: digests, and the content checks over a file whole or in windows.

Bounded: a file is looked at up to LARGEST bytes, all files together, with what is unpacked from them, up to TOTAL,
what is unpacked from a compressed file up to UNPACKED, and no file is begun after SECONDS. What is over is told, never
passed over in silence.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from kiosk.audit.binaries import binaries
from kiosk.audit.certificates import certificates
from kiosk.audit.entropy import key_file
from kiosk.audit.keys import key_files, private_keys
from kiosk.audit.model import Hit
from kiosk.audit.packed import unpack
from kiosk.audit.sample import OVERLAP, WHOLE, WINDOW, Sample
from kiosk.audit.words import hashes, tokens, words
from kiosk.disk.volume import Node, SparseVolume, Volume
from kiosk.errors import CorruptError

LARGEST = 2 << 30
TOTAL = 64 << 30
SECONDS = 3600.0
MAX_NAMES = 32
"""A file is looked at under so many of its names; no file that no package brought has more."""
MAX_HITS = 10_000
"""With so many hits in a file the rest of it is not looked at."""
_ELF = b"\x7fELF"


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
        self._until = time.monotonic() + SECONDS
        self.bytes = 0
        self.files = 0

    @property
    def over(self) -> str:
        """Why no further file may be begun; empty while one may."""
        if self._left < 0:
            return f"{TOTAL} bytes were read"
        return f"{SECONDS:.0f} s have passed" if time.monotonic() > self._until else ""

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
                if len(looked.hits) > MAX_HITS:
                    looked.hits.append(Hit("unexamined", node.path, "has more hits than are looked for"))
                    break
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

    def strong(self, names: Sequence[Node], whole: bytes) -> list[Hit]:
        """What has a form of its own in a file that is what its package brought: keys, tokens, hashes. A package may
        be a site's own, which nobody outside can download. Programs and libraries have such words for their own use."""
        if whole.startswith(_ELF):
            return []
        sample = Sample(names[0], whole, pristine=True)
        return _under(names, [*private_keys(sample), *tokens(sample), *hashes(sample), *binaries(sample)])

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
        found = unpack(sample.data) if not sample.inside else None
        if found is None:
            return
        self._left -= len(found.data)
        inner = replace(sample, data=found.data, whole=found.whole, inside=found.kind, pristine=False)
        yield from private_keys(inner)
        yield from words(inner)
        yield from binaries(inner)
        yield from certificates(inner)
        if not (found.whole and sample.whole):
            yield Hit("unexamined", sample.path, f"holds more ({found.kind}) than was unpacked")


def _under(names: Sequence[Node], hits: Iterable[Hit]) -> list[Hit]:
    """The same hits under the names of a file."""
    return [replace(hit, path=name.path) for hit in hits for name in names[:MAX_NAMES]]
