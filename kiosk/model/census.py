"""What an image lists of itself: its packages and its files, as its build wrote them.

The list of files has two forms, and both are read: rows that say what each file is, and (as builds once wrote
it) bare paths. A list that is neither is a CorruptError.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from kiosk.errors import CorruptError
from kiosk.model.base import Document, Size, explain

LARGEST = 64 << 20
"""The most bytes of such a list that a reader loads: a row for each of some 400,000 files."""


class Package(Document):
    """An installed package. An rpm's version is EPOCH:VERSION-RELEASE, without EPOCH: where it has none.

    `source` is the package that it was built from, where that has another name, and `source_version` where that
    has another version. Lists of older builds know neither.
    """

    name: str
    version: str
    architecture: str
    kind: Literal["deb", "rpm"] = "deb"
    source: str | None = None
    source_version: str | None = None


class FileEntry(Document):
    """One path of an image. `mode` is st_mode in octal (type and permissions), `owner` is UID:GID.

    Regular files have a size in bytes and the first 128 bits of their SHA-256 in hexadecimal: enough to tell
    contents apart, and half of what lists of digests, which don't compress, would take in the store. Links
    have a target, device nodes a number (MAJOR:MINOR). A bare path has none of all these.
    """

    path: str
    mode: Annotated[str, StringConstraints(pattern=r"^[0-7]{5,6}$")] | None = None
    owner: str | None = None
    size: Size | None = None
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = None
    target: str | None = None
    device: str | None = None


_PACKAGES = TypeAdapter(tuple[Package, ...])
_FILES = TypeAdapter(tuple[Annotated[FileEntry | str, Field(union_mode="left_to_right")], ...])


def read_packages(data: bytes, *, where: str) -> tuple[Package, ...]:
    """The packages of an image's list."""
    try:
        return _PACKAGES.validate_json(data)
    except ValidationError as e:
        raise CorruptError(f"is not a list of packages: {explain(e)}", where=where) from None


def write_packages(packages: Sequence[Package]) -> bytes:
    """A list of packages as JSON that people can read; what has its usual value is left out."""
    rows = [p.model_dump(exclude_defaults=True) for p in packages]
    return (json.dumps(rows, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def read_files(data: bytes, *, where: str) -> tuple[FileEntry, ...]:
    """The files of an image's list, bare paths as rows without anything else."""
    try:
        rows = _FILES.validate_json(data)
    except ValidationError as e:
        raise CorruptError(f"is not a list of files: {explain(e)}", where=where) from None
    return tuple(FileEntry(path=row) if isinstance(row, str) else row for row in rows)


def write_files(entries: Sequence[FileEntry]) -> bytes:
    """A list of files as JSON, one file a line."""
    rows = (
        json.dumps(entry.model_dump(exclude_none=True), separators=(",", ":"), ensure_ascii=False)
        for entry in entries
    )
    return ("[\n" + ",\n".join(rows) + "\n]\n").encode()
