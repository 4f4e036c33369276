"""Files to publish, and a repository to publish them to."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kiosk.model.manifest import Artifact
from kiosk.store.api import DirectoryStore
from kiosk.store.cut import publish_file
from kiosk.store.known import KnownBlocks
from kiosk.store.regions import digests

BLOCK = 4096


@functools.lru_cache(maxsize=8192)
def block(number: int) -> bytes:
    """A block that does not compress and is always the same for one number; 0 is the zero block."""
    return bytes(BLOCK) if number == 0 else random.Random(number).randbytes(BLOCK)


def content(numbers: Sequence[int], tail: bytes = b"") -> bytes:
    """A file of such blocks, and a last one that is not full."""
    return b"".join(map(block, numbers)) + tail


@dataclass
class Repository:
    """A repository in a folder, published to as the publisher does."""

    folder: Path

    @property
    def store(self) -> DirectoryStore:
        return DirectoryStore(self.folder / "repository")

    @property
    def known(self) -> Path:
        return self.folder / "known.sqlite"

    def publish(self, name: str, data: bytes) -> Artifact:
        path = self.folder / name
        path.write_bytes(data)
        return self.publish_path(path)

    def publish_path(self, path: Path) -> Artifact:
        digest, regions = digests(path)
        with KnownBlocks(self.known) as known:
            index = publish_file(path, self.store, known, regions=regions)
        size = path.stat().st_size
        return Artifact(file=path.name, size=size, digest=digest, regions=regions, index=index)

    def objects(self) -> set[str]:
        return {o.digest for o in self.store.objects()}
