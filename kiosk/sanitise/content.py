"""Secrets told by their bytes: each kind has a test that looks at a file's beginning and says yes or no.

A file that only talks about keys (a certificate, a public key, a program that writes keys) is not a secret; a
file that holds a key beside other things is. What can't be decided from the bytes is left to rules by path.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Callable, Mapping
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_private_key

Kind = Literal[
    "pem-key",
    "der-key",
    "pkcs12",
    "java-keystore",
    "pgp-key",
    "keytab",
    "credential-cache",
    "wireguard-key",
    "token",
    "password-hashes",
    "core-dump",
]

_HEADERS = ("RSA ", "EC ", "DSA ", "OPENSSH ", "ENCRYPTED ", "ANY ", "")
_PEM = re.compile(
    rb"-----BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----(?:\\[rn]|\s){1,40}"
    rb"(?:[A-Za-z-]{1,40}: [^\r\n\\]{0,200}(?:\\[rn]|\s){1,40}){0,6}[A-Za-z0-9+/]{40}"
    rb"|---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\r?\n"
    rb"|-----BEGIN OpenVPN Static key V1-----\r?\n[0-9a-f]{32}"
    rb"|^PuTTY-User-Key-File-[23]: "
    rb"|^AGE-SECRET-KEY-1[0-9A-Z]{50}"
    rb"|^\((?:protected-|shadowed-)?private-key\b|^Key: \((?:protected-|shadowed-)?private-key\b"
    rb"|"
    + b"|".join(
        re.escape(base64.b64encode(f"-----BEGIN {h}PRIVATE KEY-----".encode())[:32]) for h in _HEADERS
    ),
    re.MULTILINE,
)
_WIREGUARD = re.compile(
    rb"^[ \t]*(?:PrivateKey|PresharedKey|WireGuardKey)[ \t]*=[ \t]*[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=", re.M
)
_BARE_WIREGUARD = re.compile(rb"\s*[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=\s*")
_TOKEN = re.compile(
    rb"\s*(?:[A-Za-z_]{0,40}[=:]\s{0,3})?[\"']?(?:Bearer )?"
    rb"(?:eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
    rb"|(?:ghp|gho|ghs|ghu|ghr)_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,}|gl(?:pat|rt|dt)-[A-Za-z0-9_.-]{20,}"
    rb"|hv[sbr]\.[A-Za-z0-9_-]{20,}|xox[abprs]-[A-Za-z0-9-]{20,}|npm_[A-Za-z0-9]{36}|pypi-AgEI[A-Za-z0-9_-]{30,})"
    rb"[\"']?\s*"
)
_HASH = re.compile(
    rb"^[A-Za-z0-9_.@-]{1,64}:!{0,2}\$(?:1|2[abxy]|5|6|7|y|gy|apr1|argon2id?|sha1|scrypt)\$[^\s:]{8,300}(?::|\r?$)",
    re.M,
)


def kinds(data: bytes, wanted: tuple[Kind, ...]) -> Kind | None:
    """The first of the wanted kinds that `data`, a file's beginning, is; None where it is none of them."""
    return next((kind for kind in wanted if TESTS[kind](data)), None)


def _der_key(data: bytes) -> bool:
    if not 32 <= len(data) <= 65536 or data[0] != 0x30 or data[1] < 0x20:
        return False
    try:
        load_der_private_key(data, None)
    except (TypeError, UnsupportedAlgorithm):
        return True  # needs a password, or is of a kind that the library does not know
    except ValueError:
        return False
    return True


def _pkcs12(data: bytes) -> bool:
    """PFX version 3 with a key bag; one that is encrypted as a whole counts, as it may hold one."""
    start = re.match(rb"\x30(?:\x80|[\x00-\x7f]|\x81.|\x82..|\x83...)\x02\x01\x03\x30", data, re.DOTALL)
    if start is None or b"\x2a\x86\x48\x86\xf7\x0d\x01\x07" not in data[:64]:
        return False
    bags = b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01"
    return bags + b"\x01" in data or bags + b"\x02" in data


def _java(data: bytes) -> bool:
    """A JKS or JCEKS with a private or secret key: a trust store has only certificates."""
    if data[:4] not in (b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce") or len(data) < 16:
        return False
    count = struct.unpack_from(">I", data, 8)[0]
    at = 12
    try:
        for _ in range(min(count, 10000)):
            tag, name = struct.unpack_from(">IH", data, at)
            if tag != 2:
                return True
            at += 6 + name + 8
            at += 2 + int(struct.unpack_from(">H", data, at)[0])
            at += 4 + int(struct.unpack_from(">I", data, at)[0])
    except struct.error:
        pass  # cut off: no key among what is there
    return False


def _pgp(data: bytes) -> bool:
    """A binary secret key packet (RFC 4880, tags 5 and 7) of version 3 to 6 with a known algorithm."""
    if len(data) < 64:
        return False
    first = data[0]
    if first in (0x94, 0x95, 0x96, 0x9C, 0x9D, 0x9E):
        at = 1 + (1, 2, 4)[first & 3]
        size = int.from_bytes(data[1:at])
    elif first in (0xC5, 0xC7):
        at = 2 if data[1] < 192 else 3 if data[1] < 224 else 6
        size = (
            data[1]
            if at == 2
            else (data[1] - 192 << 8) + data[2] + 192
            if at == 3
            else int.from_bytes(data[2:6])
        )
    else:
        return False
    algorithm = data[at + 5]
    return data[at] in (3, 4, 5, 6) and algorithm in (*range(1, 4), *range(16, 29)) and 32 <= size <= 65536


def _keytab(data: bytes) -> bool:
    """Version 1 or 2, and a first entry whose parts fill it."""
    if data[:2] not in (b"\x05\x02", b"\x05\x01") or len(data) < 16:
        return False
    order = ">" if data[1] == 2 else "<"
    size = int(struct.unpack_from(order + "i", data, 2)[0])
    if size < 0:
        return 6 - size <= len(data)  # a hole, left by a removed entry
    names = int(struct.unpack_from(order + "H", data, 6)[0])
    realm = int(struct.unpack_from(order + "H", data, 8)[0])
    return 12 <= size <= 4096 and 1 <= names <= 8 and 0 < realm <= 256 and data[10 : 10 + realm].isascii()


def _cache(data: bytes) -> bool:
    """A credential cache of version 4 (header of tagged fields) or 3, with a plausible principal."""
    if data[:2] == b"\x05\x04":
        at = 4 + int.from_bytes(data[2:4])
    elif data[:2] == b"\x05\x03":
        at = 2
    else:
        return False
    if len(data) < at + 12:
        return False
    kind, count, realm = struct.unpack_from(">III", data, at)
    return kind <= 12 and count <= 16 and realm <= 256 and data[at + 12 : at + 12 + realm].isascii()


def _core(data: bytes) -> bool:
    """An ELF file of type CORE."""
    if data[:4] != b"\x7fELF" or len(data) < 18:
        return False
    return int.from_bytes(data[16:18], "little" if data[5] == 1 else "big") == 4


TESTS: Mapping[Kind, Callable[[bytes], bool]] = {
    "pem-key": lambda data: _PEM.search(data) is not None,
    "der-key": _der_key,
    "pkcs12": _pkcs12,
    "java-keystore": _java,
    "pgp-key": _pgp,
    "keytab": _keytab,
    "credential-cache": _cache,
    "wireguard-key": lambda data: (
        _WIREGUARD.search(data) is not None
        or (len(data) < 60 and _BARE_WIREGUARD.fullmatch(data) is not None)
    ),
    "token": lambda data: len(data) <= 16384 and _TOKEN.fullmatch(data) is not None,
    "password-hashes": lambda data: _HASH.search(data) is not None,
    "core-dump": _core,
}
"""How each kind is told."""

BY_BEGINNING: Mapping[Kind, tuple[bytes, ...]] = {
    "der-key": (b"\x30",),
    "pkcs12": (b"\x30",),
    "java-keystore": (b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce"),
    "pgp-key": tuple(bytes([n]) for n in (0x94, 0x95, 0x96, 0x9C, 0x9D, 0x9E, 0xC5, 0xC7)),
    "keytab": (b"\x05\x01", b"\x05\x02"),
    "credential-cache": (b"\x05\x03", b"\x05\x04"),
    "core-dump": (b"\x7fELF",),
}
"""How a file of a kind begins; a kind that isn't here may begin with anything."""
