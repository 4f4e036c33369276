"""A store in a folder: `objects/ab/abcdef...` below the repository.

An object appears whole under its name or not at all, and is on disk when `write` returns. Two writers of
the same object do not disturb each other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event

from kiosk import files
from kiosk.errors import CorruptError
from kiosk.model.manifest import Object
from kiosk.store.objects import DIGEST, MissingObject, check, named, path_of


class DirectoryStore:
    """The objects of a repository that is a folder (the folder that holds `objects/`, not `objects/` itself)."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository

    def read(self, wanted: Object, stop: Event | None = None) -> bytes:
        """Reads no more than the object's size and one byte, whatever stands there."""
        path = self.repository / path_of(wanted.digest)
        try:
            with path.open("rb") as f:
                data = f.read(wanted.size + 1)
        except FileNotFoundError:
            raise MissingObject("the object is not in the store", where=str(path)) from None
        return check(data, wanted, str(path))

    def has(self, wanted: Object) -> bool:
        """Whether there is a file of that name and size."""
        try:
            return (self.repository / path_of(wanted.digest)).stat().st_size == wanted.size
        except FileNotFoundError:
            return False

    def write(self, data: bytes) -> Object:
        """Writes the object durably, unless it is there with the same bytes."""
        made = named(data)
        path = self.repository / path_of(made.digest)
        if self.has(made):
            try:
                self.read(made)
            except CorruptError:
                pass  # a damaged object of the right size is healed by writing it again
            else:
                return made
        files.write(path, data)
        return made

    def objects(self) -> Iterator[Object]:
        """Every object by name; leftovers of killed writers are not objects."""
        folder = self.repository / "objects"
        for part in sorted(folder.iterdir()) if folder.is_dir() else []:
            if not part.is_dir():
                continue
            with os.scandir(part) as entries:
                names = sorted(e.name for e in entries)
            for name in names:
                if DIGEST.fullmatch(f"sha256:{name}") and name.startswith(part.name):
                    with contextlib.suppress(FileNotFoundError):  # removed since
                        yield Object(digest=f"sha256:{name}", size=(part / name).stat().st_size)

    def remove(self, digest: str) -> None:
        """Removes an object's file."""
        path = self.repository / path_of(digest)
        try:
            path.unlink()
        except FileNotFoundError:
            raise MissingObject("the object is not in the store", where=str(path)) from None
