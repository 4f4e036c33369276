"""Files that are nothing but random bytes, up to LARGEST: raw keys, and keys written as one line of hex or base64.

No findings are formats that compress, encrypt or sign, by their beginnings or names.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator

from kiosk.audit.model import Hit
from kiosk.audit.patterns import decoded
from kiosk.audit.sample import Sample

LARGEST = 64 << 10
_SMALL = 8192
"""Larger ones are looked at only where no package brought them, and more closely: nearly all formats that compress or
encrypt have a head or an end of few values."""
_EDGE = 512
_SMALLEST = 16
_HEX = re.compile(rb"(?:0x)?([0-9a-fA-F]{32,4096})\s*")
_BASE64 = re.compile(rb"([A-Za-z0-9+/_-]{22,5500}={0,2})\s*")
_IDENTIFIER = re.compile(rb"\s*(?:[0-9a-f]{32}|[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12})\s*")
_KNOWN = (
    b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"\x7fELF", b"\x89PNG", b"GIF8",
    b"\xff\xd8\xff", b"RIFF", b"SQLite", b"\x04\x22\x4d\x18", b"7z\xbc\xaf", b"\x30\x82", b"TZif", b"%PDF",
    b"OggS", b"wOF", b"\0\0\1\0", b"PK\x05\x06", b"]\0\0", b"\x1f\x9d", b"\x1f\xa0", b"LZIP", b"\x89LZO", b"Rar!",
    b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf1", b"fLaC", b"\xff\x0a", b"\xca\xfe\xba\xbe", b"MZ", b"\0asm",
    b"Salted__", b"age-encryption.org/", b"\xed\xab\xee\xdb", b"\x13\x57\x9a\xce", b"\xce\x9a\x57\x13", b"LPKS",
    b"\xa7\r\r\n", b"hsqs", b"ustar", b"\xde\x12\x04\x95", b"\x95\x04\x12\xde",
)  # fmt: skip
"""Beginnings of formats that are compressed or public."""
_PGP_PUBLIC = re.compile(rb"(?:\x99..|\x98.|\xc6.{1,2})[\x03-\x06]", re.DOTALL)
_PGP = re.compile(
    rb"(?:\x84.|\x85..)[\x03\x06]|(?:\x8c.|\xc3.)[\x04-\x06]|\xc1.{1,2}[\x03\x06]|\xa3[\1-\3]"
    rb"|(?:\x88.|\x89..|\xc2.{1,2})[\x03-\x06]",
    re.DOTALL,
)
"""OpenPGP messages and signatures: encrypted for somebody, with a passphrase, compressed."""
_NOT_ALONE = re.compile(
    rb"\.(?:sig|asc|gpg|gz|xz|bz2|zst|br(?:otli)?|lz4|sha\d*|sha\d+sums?|md5(?:sums?)?|pyc|mo|beam|png|checksum"
    rb"|digest|idx|pack|jar|jpe?g|gif|webp|woff2?|mp[34]|ogg|whl|deb|rpm|tgz|tbz|txz|lzma?|lzo|Z|7z)$"
)


def key_file(sample: Sample) -> Iterator[Hit]:
    """Whether a small file is a key and nothing else."""
    data = sample.data
    if not sample.whole or not _SMALLEST <= len(data) <= LARGEST or _NOT_ALONE.search(sample.path):
        return
    if data.startswith(_KNOWN) or _PGP_PUBLIC.match(data) or (len(data) > 64 and _PGP.match(data)):
        return
    if len(data) > _SMALL and (sample.pristine or not _all_random(data) or _inflates(data)):
        return
    if sample.text and _IDENTIFIER.fullmatch(data) and len(set(data)) > 6:
        yield sample.hit("machine-id", "an identifier (or a secret) of 16 bytes and nothing else")
    elif sample.text and (said := _written(data)):
        yield sample.hit("key-file", said)
    elif (not sample.text or not _is_utf8(data)) and is_random(data):
        yield sample.hit("key-file", f"{len(data)} bytes that look random: a raw key or secret")


def _written(data: bytes) -> str:
    """What a file of one line that is a number is; empty when it is something else."""
    line = data.strip()
    if b"\n" in line:
        return ""
    if (m := _HEX.fullmatch(line)) and len(m[1]) % 2 == 0 and is_random(bytes.fromhex(m[1].decode())):
        return f"a secret or identifier of {len(m[1]) // 2} bytes in hex"
    if m := _BASE64.fullmatch(line):
        kinds = sum(bool(re.search(k, m[1])) for k in (rb"[a-z]", rb"[A-Z]", rb"[0-9]"))
        raw = decoded(m[1].rstrip(b"="))
        if kinds == 3 and len(raw) >= _SMALLEST and is_random(raw) and b"-_" not in m[1]:
            return f"a secret of {len(raw)} bytes in base64"
    return ""


def is_random(data: bytes) -> bool:
    """Whether bytes look drawn at random: all values about as often as chance has it (chi-square, five standard
    deviations), few repeats, half of the high bits set. True keys fail it about once in a million."""
    n = len(data)
    counts = [0] * 256
    for byte in data:
        counts[byte] += 1
    square = sum(c * c for c in counts) * 256 / n - n
    if square > 255 + 5 * math.sqrt(2 * 255):
        return False
    high = sum(counts[128:])
    distinct = sum(c > 0 for c in counts)
    expected = 256 * (1 - (255 / 256) ** n)
    return abs(high - n / 2) <= 5 * math.sqrt(n) / 2 and distinct >= 0.85 * expected - 1


def _all_random(data: bytes) -> bool:
    """Whether the edges look as random as the whole: what is compressed or in a container has a head."""
    return is_random(data[:_EDGE]) and is_random(data[-_EDGE:]) and is_random(data)


def _inflates(data: bytes) -> bool:
    """Whether it is a stream of zlib, which has no magic number that would tell it."""
    try:
        return len(zlib.decompressobj().decompress(data, 4096)) > 0
    except zlib.error:
        return False


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
