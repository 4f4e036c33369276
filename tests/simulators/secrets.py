"""Secrets in their real formats, the same at every call but for what a format makes random (salts, check numbers).

None of them opens anything: they are made from numbers that stand here.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
import struct
from collections.abc import Callable, Mapping
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from kiosk.sanitise.content import Kind

PRIMES = {
    "service": (
        int(
            "d77959f271a6c4b8753d33f10ab27004d2088ce41648b71aa1923aebe7953135b6af87fc8fc81c44770335a9ec9d4e7a"
            "dc72b517e64ebb0d56ae74d36b98dd9492ae1db480446183c165c2a44f51d4bb9c25bf680ec09e86e2049592a25985a4"
            "5610ae446fae431b021f04fd38f407f7c8958876c5939252eaf8661ee835bf01",
            16,
        ),
        int(
            "d669cd11f09f7677b89cafb44aa7236c52951b155be94c2a7d520f423b08bc97efaa457cb53674c771b653c215efec5d"
            "2b0e3f40132ca327a8e934655440d7f6153be85b02d988fe596b7b3ec3d9b758c42df109c6488a27184697ccc4862a60"
            "04c236ba20d6f505d97438849f1cbea88bcdc594fcf44ebe73e47d65aeca4969",
            16,
        ),
    ),
    "proxy": (
        int(
            "fca7d0175997e4847a2008d4121bdf8ae3011abb61c7b86b0a92178d74641058cae0b791c2db212237a32b2fd0d3d001"
            "def7310b513ae75d66ba68760581d577d4d2c52b057d9c708733d49408c54fdbaf6a4e3d64822efa7f0830bf3c45c5d8"
            "a73dc41e0dc7041c03e258b42aef544a305a1b06cbcdeee569b5e7989c7fdfbf",
            16,
        ),
        int(
            "e54c6a6064fcd6b5f2111f1af6df4a9f52f153b8a3e1c2fd46535bb6267be6940da8da3ad7892bc41c8e34325354ccb3"
            "0fa35dc60d3d9c9b135707a5d4b39c855184feeac7c40ffffae9a5e9d0286615aec2a5668825ed59b33ab56efdd0ac57"
            "294144a6fc97fd6d9543905fc5ea5327ddc107a924a3ccf4f73a56cc92fe7d6b",
            16,
        ),
    ),
    "robot": (
        int(
            "edb7bb6c0e766ec5b0486619e2a7c43c186d54d0ea5aaf9c97716e38ecfd86153a96ed4cd7c5d596ada985916b086487"
            "84af90f4ad56d58566cc28d14428b4c3875b6f153502f5b9b8565138054ede3f0f7520327e745504151f0e4fc3b8436a"
            "f1536d86cbe8b3f46a183899791b9b8320e8165807c2b2d2110f2d5dc472268d",
            16,
        ),
        int(
            "d7b708149674c7d0bd6d85f6f73bd0615857bf56583ceb141904c3caec94f67363c9dbf472d8c605d9c67dfd85d9477b"
            "c3d64bec38911e411cd6683e4f72814166bf98365eec3b32ee7dd6de786307e391cf967b9ee82b7697ef4c74ca3ce623"
            "575874ce4801b6c0ed57efea15a1eeac42b9cba8c9d7269779b6477acbbd9d47",
            16,
        ),
    ),
}
"""Two primes for each RSA key."""


def seed(name: str, size: int = 32) -> bytes:
    """Bytes that look random, and are the same for the same name."""
    out = b""
    while len(out) < size:
        out += hashlib.sha256(f"planted {name} {len(out)}".encode()).digest()
    return out[:size]


@cache
def rsa_key(name: str = "service") -> rsa.RSAPrivateKey:
    """An RSA key of 2048 bits."""
    p, q = PRIMES[name]
    e = 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(e, p * q)
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), public
    )
    return numbers.private_key()


def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    """A P-256 key."""
    return ec.derive_private_key(int.from_bytes(seed(name)) >> 1, ec.SECP256R1())


def ed_key(name: str) -> ed25519.Ed25519PrivateKey:
    """An Ed25519 key."""
    return ed25519.Ed25519PrivateKey.from_private_bytes(seed(name))


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, form: PrivateFormat) -> bytes:
    """A key as PEM without a password."""
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def openssh(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    """A key as ssh-keygen writes it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def ssh_public(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    """The line of a public key."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def certificate(name: str, key: rsa.RSAPrivateKey) -> bytes:
    """A self-signed certificate as PEM; RSA signatures hold nothing random."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(seed(name, 8)) >> 1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=365))
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def proxy(name: str) -> bytes:
    """An X.509 proxy: certificate, key, and the certificate that it comes from, in one file."""
    key = rsa_key(name)
    return (
        certificate(f"{name} proxy", key)
        + pem(key, PrivateFormat.TraditionalOpenSSL)
        + certificate(name, key)
    )


def pkcs12_file(name: str) -> bytes:
    """A PKCS#12 file with a key and its certificate; the name stands in it as UTF-16."""
    cert = x509.load_pem_x509_certificate(certificate(name, rsa_key()))
    return pkcs12.serialize_key_and_certificates(
        name.encode(), rsa_key(), cert, None, BestAvailableEncryption(b"changeit")
    )


def keystore(name: str) -> bytes:
    """A Java keystore with one private key entry."""
    entry = struct.pack(">IH", 1, len(name)) + name.encode() + struct.pack(">Q", 1_767_225_600_000)
    key = seed(name, 600)
    entry += struct.pack(">I", len(key)) + key + struct.pack(">I", 0)
    body = b"\xfe\xed\xfe\xed" + struct.pack(">II", 2, 1) + entry
    return body + hashlib.sha1("changeit".encode("utf-16-be") + b"Mighty Aphrodite" + body).digest()


def truststore(name: str) -> bytes:
    """A Java keystore with one trusted certificate and no key."""
    cert = x509.load_pem_x509_certificate(certificate(name, rsa_key())).public_bytes(Encoding.DER)
    entry = struct.pack(">IH", 2, len(name)) + name.encode() + struct.pack(">Q", 1_767_225_600_000)
    entry += struct.pack(">H", 5) + b"X.509" + struct.pack(">I", len(cert)) + cert
    body = b"\xfe\xed\xfe\xed" + struct.pack(">II", 2, 1) + entry
    return body + hashlib.sha1("changeit".encode("utf-16-be") + b"Mighty Aphrodite" + body).digest()


def keytab(principal: str, key: bytes, realm: str = "EXAMPLE.ORG") -> bytes:
    """A keytab of version 2 with one AES-256 entry."""

    def counted(text: bytes) -> bytes:
        return struct.pack(">H", len(text)) + text

    names = principal.encode().split(b"/")
    entry = struct.pack(">H", len(names)) + counted(realm.encode()) + b"".join(counted(n) for n in names)
    entry += (
        struct.pack(">IIB", 1, 1_767_225_600, 2) + struct.pack(">H", 18) + counted(key) + struct.pack(">I", 2)
    )
    return b"\x05\x02" + struct.pack(">i", len(entry)) + entry


def credential_cache(user: str, key: bytes, realm: str = "EXAMPLE.ORG") -> bytes:
    """A credential cache of version 4 with one ticket."""

    def data(text: bytes) -> bytes:
        return struct.pack(">I", len(text)) + text

    def principal(*names: str) -> bytes:
        return (
            struct.pack(">II", 1, len(names))
            + data(realm.encode())
            + b"".join(data(n.encode()) for n in names)
        )

    header = struct.pack(">HHII", 1, 8, 0, 0)
    credential = principal(user) + principal("krbtgt", realm) + struct.pack(">H", 18) + data(key)
    credential += struct.pack(">4I", *[1_767_225_600] * 4) + b"\0" + struct.pack(">III", 0, 0, 0)
    credential += data(b"\x61" + seed(user, 200)) + data(b"")
    return b"\x05\x04" + struct.pack(">H", len(header)) + header + principal(user) + credential


def token(subject: str) -> bytes:
    """A JSON web token signed with HMAC."""

    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    head = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    body = part(json.dumps({"sub": subject, "scope": "condor:/READ condor:/ADVERTISE_STARTD"}).encode())
    signature = hmac.new(seed("signer"), head + b"." + body, "sha256").digest()
    return head + b"." + body + b"." + part(signature) + b"\n"


def pgp_secret_key(name: str) -> bytes:
    """An OpenPGP secret key packet: Ed25519, version 4, without a passphrase, and its user id."""
    key = ed_key(name)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    oid = bytes.fromhex("092b06010401da470f01")
    body = b"\x04" + struct.pack(">IB", 1_767_225_600, 22) + oid + struct.pack(">H", 263) + b"\x40" + public
    secret = struct.pack(">H", 256) + seed(name)
    body += b"\x00" + secret + struct.pack(">H", sum(secret) & 0xFFFF)
    user = f"{name} <{name}@example.org>".encode()
    return b"\x95" + struct.pack(">H", len(body)) + body + b"\xb4" + bytes([len(user)]) + user


def pgp_armour(name: str) -> bytes:
    """An OpenPGP secret key as `gpg --armor --export-secret-keys` writes it."""
    data = pgp_secret_key(name)
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc = (crc << 1) ^ (0x1864CFB if crc & 0x800000 else 0)
    text = base64.b64encode(data)
    lines = b"".join(text[i : i + 64] + b"\n" for i in range(0, len(text), 64))
    check = b"=" + base64.b64encode((crc & 0xFFFFFF).to_bytes(3)) + b"\n"
    begin, end = (b"-----%s PGP PRIVATE KEY BLOCK-----\n" % word for word in (b"BEGIN", b"END"))
    return begin + b"\n" + lines + check + end


def core_dump(memory: bytes) -> bytes:
    """A core dump of an x86-64 program: ELF header, one loaded segment, and what was in it."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 6, 120, 0x7F0000000000, 0, len(memory), len(memory), 4096)
    return header + segment + memory


def wireguard(key: bytes) -> bytes:
    """A configuration of wg-quick."""
    private = bytes([key[0] & 248, *key[1:31], key[31] & 127 | 64])
    peer = base64.b64encode(seed("peer"))
    return b"[Interface]\nPrivateKey = %s\nAddress = 192.0.2.7/32\n\n[Peer]\nPublicKey = %s\n" % (
        base64.b64encode(private),
        peer,
    )


SAMPLES: Mapping[Kind, Callable[[], bytes]] = {
    "pem-key": lambda: pem(ec_key("sample"), PrivateFormat.TraditionalOpenSSL),
    "der-key": lambda: ec_key("der").private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
    "pkcs12": lambda: pkcs12_file("sample"),
    "java-keystore": lambda: keystore("sample"),
    "pgp-key": lambda: pgp_secret_key("sample"),
    "keytab": lambda: keytab("host/golden.example.org", seed("keytab")),
    "credential-cache": lambda: credential_cache("alice", seed("cache")),
    "wireguard-key": lambda: wireguard(seed("wireguard")),
    "token": lambda: token("alice"),
    "password-hashes": lambda: (
        b"root:$6$saltsalt$" + base64.b64encode(seed("hash", 64)).rstrip(b"=") + b":1::::::\n"
    ),
    "core-dump": lambda: core_dump(seed("memory", 500)),
}
"""A file of each kind of secret that is told by its bytes."""
