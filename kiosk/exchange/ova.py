"""OVA: a tar archive (OVF specification, 5.3) with a description (.ovf), a disk, and digests of both (.mf).

Nothing is unpacked under a name from the archive: the one disk in it is copied to a file of ours. An archive with
other names than plain ones, with more than one disk, or with links is refused whole.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kiosk.errors import CorruptError, PolicyError, UsageError
from kiosk.exchange.formats import TRUNCATED
from kiosk.files import storage_errors

PIECE = 1 << 20
MEMBERS = 100
MANIFEST_LIMIT = 1 << 20
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._()+-]{0,199}")
LINE = re.compile(r"(SHA1|SHA256|SHA512) ?\(([^\x00-\x1f()]{1,200})\) ?= ?([0-9a-fA-F]{40,128})")
NO_DISKS = (".ovf", ".mf", ".cert", ".nvram", ".iso")


@dataclass(frozen=True)
class Disk:
    """The disk of an archive: its name there, and its size in bytes."""

    name: str
    size: int


class _Bounded:
    """A file of which no large piece is read at a time, whatever the archive's headers say."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= PIECE:
            raise tarfile.ReadError("a header is larger than can be")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def take_disk(archive: Path, target: Path, most: int, shown: str, progress: Callable[[int], object]) -> Disk:
    """Copies the disk of an archive to `target`, checking what the archive's own digests say. PolicyError for an
    archive that is not to be trusted, CorruptError for a damaged one, UsageError where there isn't one disk."""
    where = shown
    try:
        with archive.open("rb") as f, tarfile.open(fileobj=_Bounded(f), mode="r:") as tar:  # type: ignore[call-overload]
            members = list(_members(tar, where))
            disks = [m for m in members if not m.name.lower().endswith(NO_DISKS)]
            if not any(m.name.lower().endswith(".ovf") for m in members):
                raise UsageError("has no .ovf: it is a tar archive, not an OVA", where=where)
            if len(disks) != 1:
                names = ", ".join(m.name for m in disks) or "none"
                raise UsageError(f"has not one disk but {len(disks)} ({names})", where=where)
            if disks[0].size > most:
                raise PolicyError(f"its disk has {disks[0].size} bytes, more than {most}", where=where)
            digests = _digests(tar, members, where)
            for member in members:
                if member is disks[0] or member.name in digests:
                    into = target if member is disks[0] else None
                    _copy(tar, member, into, digests.get(member.name), where, progress)
    except (tarfile.TarError, EOFError, UnicodeDecodeError) as e:
        raise CorruptError(f"is not a whole tar archive: {e}", where=where, hint=TRUNCATED) from None
    return Disk(disks[0].name, disks[0].size)


def _members(tar: tarfile.TarFile, where: str) -> Iterator[tarfile.TarInfo]:
    seen = set()
    for number, member in enumerate(tar):
        if number >= MEMBERS:
            raise PolicyError(f"has more than {MEMBERS} files", where=where)
        if not NAME.fullmatch(member.name) or not member.isreg() or member.sparse is not None:
            raise PolicyError(
                f"has a member that is not a plain file beside the others: {member.name[:100]!r}",
                where=where,
                hint="An OVA holds files only, without folders and links. Nothing of it was unpacked.",
            )
        if member.name in seen:
            raise PolicyError(f"has {member.name} twice", where=where)
        seen.add(member.name)
        yield member


def _digests(tar: tarfile.TarFile, members: list[tarfile.TarInfo], where: str) -> dict[str, tuple[str, str]]:
    """Algorithm and digest by name, of the archive's .mf; none where it has no .mf."""
    found: dict[str, tuple[str, str]] = {}
    for member in members:
        if not member.name.lower().endswith(".mf"):
            continue
        if member.size > MANIFEST_LIMIT:
            raise PolicyError(f"{member.name} is larger than {MANIFEST_LIMIT} bytes", where=where)
        for line in b"".join(_pieces(tar, member)).decode().splitlines():
            match = LINE.fullmatch(line.strip())
            if match is None and line.strip():
                raise CorruptError(f"{member.name} has a line that is no digest: {line[:80]!r}", where=where)
            if match is not None:
                found[match[2]] = (match[1].lower(), match[3].lower())
    missing = sorted(found.keys() - {m.name for m in members})
    if missing:
        raise CorruptError(f"its .mf names {missing[0]}, which is not in it", where=where, hint=TRUNCATED)
    return found


def _copy(
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    target: Path | None,
    expected: tuple[str, str] | None,
    where: str,
    progress: Callable[[int], object],
) -> None:
    digest = hashlib.new(expected[0], usedforsecurity=False) if expected else None
    if target is not None:
        with target.open("xb") as out, storage_errors(target):
            for piece in _pieces(tar, member):
                out.write(piece)
                progress(len(piece))
                if digest:
                    digest.update(piece)
    elif digest:
        for piece in _pieces(tar, member):
            digest.update(piece)
    if digest and expected and digest.hexdigest() != expected[1]:
        raise CorruptError(f"{member.name} has another digest than its .mf says", where=where, hint=TRUNCATED)


def _pieces(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    file = tar.extractfile(member)
    if file is None:
        raise tarfile.ReadError("a member is not a file")
    left = member.size
    while left:
        piece = file.read(min(PIECE, left))
        if not piece:
            raise EOFError("it ends too early")
        left -= len(piece)
        yield piece
