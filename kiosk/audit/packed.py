"""What compressed files hold: gzip, bzip2, xz, lzma, zstd with all their members, zip, and one within another.

Bounded: UNPACKED bytes altogether. Whether that was all is told, so that nobody takes a part for the whole.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zipfile
import zlib
from dataclasses import dataclass
from typing import Protocol

import zstandard

UNPACKED = 8 << 20
DEPTH = 3
MEMBERS = 4096
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True)
class Unpacked:
    """The content, what it was packed with, and whether it is all of it."""

    kind: str
    data: bytes
    whole: bool


class _Decompressor(Protocol):
    eof: bool

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, limit: int, /) -> bytes: ...


def unpack(data: bytes) -> Unpacked | None:
    """What compressed data holds; None when it is not compressed, or damaged from its beginning on."""
    found = _once(data)
    for _ in range(DEPTH):
        inner = _once(found.data) if found is not None else None
        if found is None or inner is None:
            return found
        found = Unpacked(f"{inner.kind} in {found.kind}", inner.data, found.whole and inner.whole)
    assert found is not None
    return Unpacked(found.kind, found.data, whole=found.whole and _once(found.data) is None)


def _once(data: bytes) -> Unpacked | None:
    if data.startswith(_ZIP):
        return _zip(data)
    if data.startswith(_ZSTD):
        return _zstd(data)
    if data.startswith(b"\x1f\x8b"):
        return _members(data, "gzip", lambda: zlib.decompressobj(31), b"\x1f\x8b")
    if data.startswith(b"BZh"):
        return _members(data, "bzip2", bz2.BZ2Decompressor, b"BZh")
    if data.startswith((b"\xfd7zXZ\0", b"]\0\0")):
        kind = "xz" if data[0] == 0xFD else "lzma"
        return _members(data, kind, lambda: lzma.LZMADecompressor(memlimit=256 << 20), data[:3])
    return None


def _members(data: bytes, kind: str, make: object, magic: bytes) -> Unpacked | None:
    """A stream of one member after the other, as gzip(1) and its like write and read them."""
    out = bytearray()
    rest, whole = data, True
    for _ in range(MEMBERS):
        one: _Decompressor = make()  # type: ignore[operator]
        try:
            out += one.decompress(rest, max(1, UNPACKED - len(out)))
        except (zlib.error, OSError, EOFError, ValueError, lzma.LZMAError):
            return Unpacked(kind, bytes(out), whole=False) if out else None
        rest = one.unused_data
        if not one.eof or len(out) >= UNPACKED:
            whole = one.eof and not rest and len(out) < UNPACKED
            break
        if not rest.strip(b"\0"):
            break
        if not rest.startswith(magic):
            whole = False
            break
    else:
        whole = False
    return Unpacked(kind, bytes(out), whole)


def _zstd(data: bytes) -> Unpacked | None:
    try:
        decompressor = zstandard.ZstdDecompressor(max_window_size=128 << 20)
        with decompressor.stream_reader(data, read_across_frames=True) as reader:
            out = reader.read(UNPACKED)
            return Unpacked("zstd", out, whole=len(out) < UNPACKED)
    except zstandard.ZstdError:
        return None


def _zip(data: bytes) -> Unpacked | None:
    out = bytearray()
    whole = True
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist()[:MEMBERS]:
                with archive.open(info) as member:
                    out += b"\n" + member.read(UNPACKED - len(out))
                    whole &= not member.read(1)
                if len(out) >= UNPACKED:
                    break
            whole &= len(archive.infolist()) <= MEMBERS and len(out) < UNPACKED
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, EOFError, ValueError, zlib.error):
        return Unpacked("zip", bytes(out), whole=False)
    return Unpacked("zip", bytes(out), whole)
