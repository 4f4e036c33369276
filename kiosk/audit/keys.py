"""Private keys by content, whatever the file is called: text formats anywhere in a file, binary ones as a whole file.

A mention of a format (`-----BEGIN … PRIVATE KEY-----` in a program) is no key: material must follow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_private_key, pkcs12

from kiosk.audit.model import Hit
from kiosk.audit.sample import Sample

MAX_KEYS = 50
"""So many keys of a file are told one by one."""
MAX_BEGINNINGS = 5000
MAX_SEQUENCES = 1000
_LARGEST_DER = 32 << 10
_LARGEST_STORE = 4 << 20
_BEGIN = re.compile(
    rb"-{4,5} ?BEGIN ((?:[A-Za-z0-9]{1,20} ){0,4})(PRIVATE KEY(?: BLOCK)?|Static key V1)(?: |-)----"
)
_WIDE = b"B\0E\0G\0I\0N\0"
"""`BEGIN` in UTF-16 of either byte order."""
_MATERIAL = re.compile(rb"[A-Za-z0-9+/]{24,}={0,2}|[0-9a-f]{32}")
_TEXT_KEYS = (
    (b"PuTTY-User-Key-File-", re.compile(rb"^PuTTY-User-Key-File-\d: \S+", re.M), "a PuTTY private key"),
    (
        b"PrivateKey",
        re.compile(rb"^[ \t]*PrivateKey[ \t]*=[ \t]*[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=", re.M),
        "a WireGuard private key",
    ),
    (b"AGE-SECRET-KEY-1", re.compile(rb"AGE-SECRET-KEY-1[0-9A-Z]{58}"), "an age private key"),
    (
        b"untrusted comment:",
        re.compile(rb"^untrusted comment:[^\n]{0,200}secret key[^\n]{0,200}\n[A-Za-z0-9+/]{40}", re.M | re.I),
        "a minisign or signify private key",
    ),
    (
        b"Private-key-format:",
        re.compile(rb"^Private-key-format: v1[^\n]*\nAlgorithm:", re.M),
        "a DNSSEC private key",
    ),
    (b"v1-secret", re.compile(rb"== ed25519v1-secret:"), "a Tor service's private key"),
)
_JWK = re.compile(rb"\"kty\"\s{0,20}:\s{0,20}\"(?:RSA|EC|OKP|oct)\"")
_JWK_SECRET = re.compile(rb"\"[dk]\"\s{0,20}:\s{0,20}\"[A-Za-z0-9_-]{22,}\"")
_DROPBEAR = re.compile(rb"\0\0\0(?:\x07ssh-rsa|\x07ssh-dss|\x0bssh-ed25519|\x13ecdsa-sha2-nistp)", re.DOTALL)
_GNUPG = re.compile(
    rb"\(\d{1,2}:(?:protected-|shadowed-)?private-key|(?:^|\n)Key: \((?:protected-|shadowed-)?private-key"
)
_STORES = (
    (b"\x03\xd9\xa2\x9a", "a KeePass database"),
    (b"GnomeKeyring\n\r\0\n", "a GNOME keyring"),
    (b"LUKS\xba\xbe", "an encrypted LUKS container"),
    (b"SKUL\xba\xbe", "an encrypted LUKS container"),
)
_PASSWORDS: tuple[bytes | None, ...] = (None, b"", b"changeit", b"changeme")
"""Stores of CA certificates come with one of these."""


def private_keys(sample: Sample) -> Iterator[Hit]:
    """Keys in text formats, in any file or window."""
    data = sample.data
    if b"BEGIN " in data:
        yield from _pem(sample, data)
    if _WIDE in data:
        yield from _pem(sample, data.replace(b"\0", b""), wide=True)
    for needle, pattern, what in _TEXT_KEYS:
        if needle in data and (text := pattern.search(data)):
            yield sample.hit("private-key", what, text.start())
    if (
        b'"kty"' in data
        and (jwk := _JWK.search(data))
        and _JWK_SECRET.search(data, max(0, jwk.start() - 8192))
    ):
        yield sample.hit("private-key", "a private JSON Web Key", jwk.start())


def _pem(sample: Sample, data: bytes, *, wide: bool = False) -> Iterator[Hit]:
    """Keys in PEM in `data`, which is the sample's, or it without the zeros of UTF-16 (`wide`)."""
    found = 0
    for count, m in enumerate(_BEGIN.finditer(data)):
        if count >= MAX_BEGINNINGS:
            yield sample.hit("unexamined", "has more beginnings of keys than can be looked at")
            return
        after = data[m.end() : m.end() + 2048].split(b"-----END", 1)[0]
        if not _MATERIAL.search(after.replace(b"\\n", b"\n").replace(b"\\/", b"/")):
            continue
        kind = (m[1] + m[2]).decode("ascii", "replace").strip() + (" in UTF-16" if wide else "")
        pgp = "PGP" in kind
        at = None if wide else m.start()
        yield sample.hit("pgp-secret-key" if pgp else "private-key", f"a key in PEM: {kind}", at)
        found += 1
        if found >= MAX_KEYS or wide:
            return


def key_files(sample: Sample) -> Iterator[Hit]:
    """Keys and stores of keys in binary formats, which are whole files."""
    data = sample.data
    if not sample.head or len(data) < 16:
        return
    for magic, what in _STORES:
        if data.startswith(magic):
            yield sample.hit("key-store", what)
    if sample.whole and data[0] == 0x30 and len(data) <= _LARGEST_STORE:
        yield from _der(sample)
    if data[:4] in (b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce"):
        yield from _java(sample)
    if data.startswith(b"SQLite format 3\0") and b"nssPrivate" in data:
        yield sample.hit("key-store", "an NSS key database")
    if _DROPBEAR.match(data) and len(data) <= _LARGEST_DER:
        yield sample.hit("private-key", "a Dropbear private key")
    if _GNUPG.search(data, 0, 4096):
        yield sample.hit("pgp-secret-key", "a GnuPG private key")
    elif _openpgp_secret(data):
        yield sample.hit("pgp-secret-key", "a binary OpenPGP secret key")


def _der(sample: Sample) -> Iterator[Hit]:
    """PKCS#1, PKCS#8, SEC1 and PKCS#12: ASN.1 sequences from the beginning on, one after the other."""
    data = sample.data
    at = count = 0
    while len(data) - at >= 16 and data[at] == 0x30:
        size = _sequence_length(data[at : at + 6])
        if not 2 < size <= len(data) - at:
            return
        if count >= MAX_SEQUENCES:
            yield sample.hit("unexamined", "has more ASN.1 sequences than can be looked at")
            return
        if hit := _sequence(sample, data[at : at + size]):
            yield hit
            return
        at += size
        count += 1


def _sequence(sample: Sample, data: bytes) -> Hit | None:
    """What one ASN.1 sequence is."""
    if b"\x02\x01\x03\x30" in data[:12] and b"\x2a\x86\x48\x86\xf7\x0d\x01\x07" in data[:64]:
        if _has_key(data):
            return sample.hit("key-store", "a PKCS#12 store with a private key, or one that can't be opened")
        return None
    if len(data) > _LARGEST_DER:
        return None
    try:
        load_der_private_key(data, None)
    except TypeError:
        return sample.hit("private-key", "an encrypted private key in DER (PKCS#8)")
    except UnsupportedAlgorithm:
        return sample.hit("private-key", "a private key in DER, of an unusual kind")
    except ValueError:
        return None
    return sample.hit("private-key", "a private key in DER")


def _sequence_length(data: bytes) -> int:
    """The length that the ASN.1 sequence at the beginning says it has, head and all."""
    if data[1] < 0x80:
        return data[1] + 2
    count = data[1] & 0x7F
    return int.from_bytes(data[2 : 2 + count], "big") + 2 + count if 1 <= count <= 4 else -1


def _has_key(data: bytes) -> bool:
    for password in _PASSWORDS:
        try:
            return pkcs12.load_pkcs12(data, password).key is not None
        except (ValueError, UnsupportedAlgorithm):
            continue
    return True


def _java(sample: Sample) -> Iterator[Hit]:
    """A Java store: version, number of entries, and each entry's tag; 1 is a private key, 2 a certificate."""
    data = sample.data
    entries, at = int.from_bytes(data[8:12], "big"), 12
    for _ in range(min(entries, 10_000)):
        tag = int.from_bytes(data[at : at + 4], "big")
        if tag != 2:
            yield sample.hit("key-store", "a Java key store with a private or secret key")
            return
        at += 4
        at += 2 + int.from_bytes(data[at : at + 2], "big") + 8  # alias, date
        at += 2 + int.from_bytes(data[at : at + 2], "big")  # the certificate's type
        at += 4 + int.from_bytes(data[at : at + 4], "big")
        if at >= len(data):
            return


def _openpgp_secret(data: bytes) -> bool:
    """Whether a secret key packet (RFC 9580, tags 5 and 7) stands at the beginning."""
    first = data[0]
    if first & 0xFC in (0x94, 0x9C):  # old format: the length's size is in the last two bits
        size = 1 << (first & 3)
        if first & 3 == 3:
            return False
        length, at = int.from_bytes(data[1 : 1 + size], "big"), 1 + size
    elif first in (0xC5, 0xC7):
        length, at = data[1], 2
        if length == 255:
            length, at = int.from_bytes(data[2:6], "big"), 6
        elif length >= 192:
            length, at = (length - 192 << 8) + data[2] + 192, 3
    else:
        return False
    if not 40 <= length <= 20_000 or at + length > len(data) or data[at] not in (3, 4, 5, 6):
        return False
    algorithm = data[at + 5] if data[at] != 3 else data[at + 7]
    return algorithm in (1, 2, 3, 16, 17, 18, 19, 22, 25, 26, 27, 28)
