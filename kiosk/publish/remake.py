"""Lost objects, made again from the files that were published, where those are still there.

The same blocks and the same compressor give the same pack, to the byte; an object is only ever given back if
its digest is right, so nothing here needs to be trusted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from kiosk import files
from kiosk.config import Settings
from kiosk.errors import CorruptError
from kiosk.model.manifest import Artifact, Manifest, Object
from kiosk.store import cut, wire
from kiosk.store.api import DirectoryStore, MissingObject
from kiosk.store.index import BLOCK, Index, load
from kiosk.store.known import KnownBlocks
from kiosk.store.objects import named

LEVELS = (cut.LEVEL, *range(1, 10))
"""Levels to try: packs that were stored by another kiosk may have been compressed with another one."""


def built_files(settings: Settings, manifests: Sequence[Manifest]) -> Iterator[tuple[Path, Artifact]]:
    """The published files whose built folder still has them, in the size that was published."""
    for manifest in manifests:
        folder = settings.images / manifest.ref.base / manifest.version
        for artifact in manifest.artifacts.values():
            path = folder / artifact.file
            if path.is_file() and path.stat().st_size == artifact.size:
                yield path, artifact


def pack(wanted: Object, settings: Settings, manifests: Sequence[Manifest]) -> bytes | None:
    """A pack's stored bytes, from the built files whose blocks it holds; None where they don't suffice."""
    store = DirectoryStore(settings.repository)
    blocks: dict[int, bytes] = {}
    for path, artifact in built_files(settings, manifests):
        assert artifact.index is not None
        try:
            index = load(store, artifact.index)
        except (MissingObject, CorruptError):
            continue
        number = next((n for n, p in enumerate(index.packs) if p.object.digest == wanted.digest), None)
        if number is None:
            continue
        blocks.update(_blocks(path, index, number, blocks))
        if len(blocks) == index.packs[number].blocks:
            made = _sealed(b"".join(blocks[slot] for slot in sorted(blocks)), wanted)
            if made is not None:
                return made
            blocks.clear()  # a file is not any more what was published; others may be
    return None


def _blocks(path: Path, index: Index, number: int, have: dict[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """The blocks of one pack that a file has, by slot."""
    with path.open("rb") as f:
        for to, of, slot, count in index.runs:
            if of != number or all(slot + i in have for i in range(count)):
                continue
            data = os.pread(f.fileno(), count * BLOCK, to * BLOCK).ljust(count * BLOCK, b"\0")
            yield from ((slot + i, data[i * BLOCK : (i + 1) * BLOCK]) for i in range(count))


def _sealed(content: bytes, wanted: Object) -> bytes | None:
    for level in dict.fromkeys(LEVELS):
        stored = wire.seal(wire.PACK, content, level=level)
        if named(stored) == wanted:
            return stored
    return None


def index(wanted: Object, settings: Settings, manifests: Sequence[Manifest]) -> bytes | None:
    """An index's stored bytes, by cutting the file again with what is known; None where that gives another.

    Nothing is stored and nothing remembered: the objects that come of it are dropped, and so is the copy of
    the known blocks.
    """
    memory = settings.repository.with_name("known-blocks.sqlite")
    for path, artifact in built_files(settings, manifests):
        if artifact.index != wanted or not memory.exists():
            continue
        with files.scratch(settings.home / "repair") as folder:
            shutil.copy(memory, folder / "known.sqlite")
            trial = _Trial(settings.repository, wanted)
            with KnownBlocks(folder / "known.sqlite") as known:
                try:
                    cut.publish_file(path, trial, known, digest=artifact.digest)
                except CorruptError:
                    continue  # the built file is not any more what was published
        if trial.found is not None:
            return trial.found
    return None


class _Trial(DirectoryStore):
    """Has what the repository has; what is written is dropped, but for one object."""

    def __init__(self, repository: Path, wanted: Object) -> None:
        super().__init__(repository)
        self._wanted = wanted
        self.found: bytes | None = None

    def write(self, data: bytes) -> Object:
        """Looks at the bytes, and forgets them."""
        made = named(data)
        if made == self._wanted:
            self.found = data
        return made
