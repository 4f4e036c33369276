"""The objects that a host shares, HOST/objects/ab/HEX.

An object gets its name whole, but the swarm writes there piece by piece as well: what stands there is believed
only after its digest. Nothing here has to survive a power cut (it can be fetched again), so nothing waits for
the disk.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from kiosk.files import storage_errors
from kiosk.model.manifest import Object
from kiosk.store.directory import DirectoryStore
from kiosk.store.objects import path_of


class Shared:
    """The shared objects of the cache in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._store = DirectoryStore(folder)

    def has(self, wanted: Object) -> bool:
        """Whether a file of that name and size is there; its bytes may still be wrong."""
        return self._store.has(wanted)

    def read(self, wanted: Object) -> bytes:
        """The object, verified; MissingObject or CorruptError."""
        return self._store.read(wanted)

    def path(self, digest: str) -> Path:
        """Where an object stands."""
        return self.folder / path_of(digest)

    def write(self, wanted: Object, data: bytes) -> None:
        """Keeps verified bytes; StorageError when there is no room."""
        path = self.path(wanted.digest)
        new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.new")
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                new.write_bytes(data)
                new.replace(path)
            finally:
                new.unlink(missing_ok=True)
