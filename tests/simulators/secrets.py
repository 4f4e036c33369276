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

P = int(
    "f2095f473cce2db2fc4176f71a664c64050708f3169fd0890d681d57b37f86ee0bcb1412c0a23696e591c7a536812fd7"
    "bd3fe897a8d91ee3f3b6c4c8d8c814e64b8fffa0521b12cee700a7a3d5b1f46735e3aaed7c5c5f4aa7309dd5eb6ac888"
    "479eebaaeede6948d168eff64de5b04514990796032d1e466c15094334d79431",
    16,
)
Q = int(
    "c8075d5b93a6b73793bca997f31e079a4b917fb26cbc2655fe6a080f522df94a4a26f45c893dc2df0f0ed769bb216ea0"
    "47db41281f53a6a1742eea0972b94928c1d3791f5b417957d230a1d97652049a673d551b2a8105e3d6a930f1984225d1"
    "8369b870c15b639d97ae3c75aa9115217405cdad6a050dd8a0ef34fcef42b811",
    16,
)


def seed(name: str, size: int = 32) -> bytes:
    """Bytes that look random, and are the same for the same name."""
    out = b""
    while len(out) < size:
        out += hashlib.sha256(f"planted {name} {len(out)}".encode()).digest()
    return out[:size]


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    """An RSA key of 2048 bits."""
    e = 65537
    d = pow(e, -1, (P - 1) * (Q - 1))
    public = rsa.RSAPublicNumbers(e, P * Q)
    numbers = rsa.RSAPrivateNumbers(
        P, Q, d, rsa.rsa_crt_dmp1(d, P), rsa.rsa_crt_dmq1(d, Q), rsa.rsa_crt_iqmp(P, Q), public
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
    key = rsa_key()
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
    "pem-key": lambda: pem(rsa_key(), PrivateFormat.TraditionalOpenSSL),
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
