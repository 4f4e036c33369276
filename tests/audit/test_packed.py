"""Compressed files hide nothing: every member is unpacked, and what is not is told."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable

import pytest
import zstandard

from kiosk.audit.packed import UNPACKED, unpack
from tests.audit import material
from tests.audit.images import Root, clean

KEY = material.pem()
zstd = zstandard.ZstdCompressor().compress


@pytest.fixture
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    return clean(tmp_path_factory.mktemp("root") / "root")


def zipped(*files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, data in enumerate(files):
            archive.writestr(f"file{i}", data)
    return out.getvalue()


FOUND: dict[str, bytes] = {
    "zip": zipped(b"first", KEY),
    "lzma": lzma.compress(KEY, format=lzma.FORMAT_ALONE),
    "the second member of a gzip": gzip.compress(b"first\n") + gzip.compress(KEY),
    "the second member of an xz": lzma.compress(b"first\n") + lzma.compress(KEY),
    "the second member of a bzip2": bz2.compress(b"first\n") + bz2.compress(KEY),
    "the second frame of a zstd": zstd(b"first\n") + zstd(KEY),
    "gzip in gzip": gzip.compress(gzip.compress(KEY)),
    "xz in gzip": gzip.compress(lzma.compress(KEY)),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_key_is_found(name: str, root: Root) -> None:
    root.write("opt/file", FOUND[name])
    assert root.found("private-key") == ["/opt/file"]
    assert root.found("unexamined") == []


MANY = bytes(UNPACKED + 1)
TOLD: dict[str, bytes] = {
    "what lies behind the limit": gzip.compress(MANY + KEY),
    "a member behind the limit": gzip.compress(MANY[:-1]) + gzip.compress(KEY),
    "a file of a zip behind the limit": zipped(MANY, KEY),
    "four layers": gzip.compress(bz2.compress(lzma.compress(zstd(gzip.compress(KEY))))),
    "a gzip that is cut": gzip.compress(material.pem() * 50)[:-30],
    "a zip that is cut": zipped(KEY)[:-30],
    "something behind a member": gzip.compress(b"x") + b"more",
}


@pytest.mark.parametrize("name", TOLD)
def test_what_is_not_unpacked_is_told(name: str, root: Root) -> None:
    root.write("opt/file", TOLD[name])
    assert root.found("unexamined") == ["/opt/file"]


PACKERS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd, "zip": zipped}


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_what_was_unpacked_wholly_is_no_finding(pack: Callable[[bytes], bytes], root: Root) -> None:
    root.write("opt/file", pack(b"nothing\n" * 1000))
    assert root.audit().passed


@pytest.mark.parametrize(
    "data", [b"", b"\x1f\x8b", b"BZh9", b"PK\3\4", b"]\0\0", b"\x28\xb5\x2f\xfd", b"text"]
)
def test_what_only_begins_so_is_no_trouble(data: bytes) -> None:
    unpack(data)
    unpack(data + bytes(1000))
