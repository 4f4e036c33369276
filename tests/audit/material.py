"""Real keys, certificates, stores and caches, made for one test run; none of them opens anything."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import struct
from datetime import UTC, datetime, timedelta

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

SINCE = datetime(2026, 1, 1, tzinfo=UTC)


def noise(seed: str, size: int) -> bytes:
    """Bytes that look random and are the same each time."""
    return b"".join(hashlib.sha256(f"{seed}{i}".encode()).digest() for i in range(-(-size // 32)))[:size]


@functools.cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@functools.cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def written(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, encoding: Encoding,
            form: PrivateFormat, password: bytes | None = None) -> bytes:  # fmt: skip
    """A private key's bytes."""
    return key.private_bytes(
        encoding, form, BestAvailableEncryption(password) if password else NoEncryption()
    )


def pem(form: PrivateFormat = PrivateFormat.PKCS8, password: bytes | None = None) -> bytes:
    return written(rsa_key(), Encoding.PEM, form, password)


def ec_der() -> bytes:
    return written(ec_key(), Encoding.DER, PrivateFormat.PKCS8)


def ssh_public(comment: str = "alice@desk") -> str:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() + f" {comment}\n"


@functools.cache
def certificate(name: str, *, ca: bool = False, proxy: bool = False) -> x509.Certificate:
    """A certificate signed by itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(ec_key().public_key())
        .serial_number(7)
        .not_valid_before(SINCE)
        .not_valid_after(SINCE + timedelta(days=365))
    )
    if proxy:
        info = x509.UnrecognizedExtension(
            x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14"), bytes.fromhex("300c300a06082b06010505071501")
        )
        made = made.add_extension(info, critical=True)
    else:
        made = made.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    return made.sign(ec_key(), hashes.SHA256())


def certificate_pem(name: str, *, ca: bool = False, proxy: bool = False) -> bytes:
    return certificate(name, ca=ca, proxy=proxy).public_bytes(Encoding.PEM)


def store(*, key: bool, password: bytes = b"changeit") -> bytes:
    """A PKCS#12 store, of a host or of CAs alone."""
    if key:
        return pkcs12.serialize_key_and_certificates(
            b"node", ec_key(), certificate("node"), None, BestAvailableEncryption(password)
        )
    cas = [certificate("CA", ca=True)]
    return pkcs12.serialize_key_and_certificates(None, None, None, cas, BestAvailableEncryption(password))


def java_store(tag: int) -> bytes:
    """A JKS file of one entry: tag 1 has a private key, tag 2 a trusted certificate."""
    der = certificate("CA", ca=True).public_bytes(Encoding.DER)
    entry = struct.pack(">IH", tag, 4) + b"name" + bytes(8)
    chain = struct.pack(">H", 5) + b"X.509" + struct.pack(">I", len(der)) + der
    if tag == 1:
        body = noise("jks", 80)
        entry += struct.pack(">I", len(body)) + body + struct.pack(">I", 1)
    return struct.pack(">III", 0xFEEDFEED, 2, 1) + entry + chain + noise("digest", 20)


def pgp_secret() -> bytes:
    """A version 4 EdDSA secret key packet, without a passphrase (RFC 4880, 5.5.3)."""
    oid = bytes.fromhex("092b06010401da470f01")
    public = b"\x01\x07\x40" + noise("public", 32)
    body = (
        b"\x04"
        + struct.pack(">I", 1767225600)
        + b"\x16"
        + oid
        + public
        + b"\x00"
        + b"\x01\x00"
        + noise("d", 32)
        + b"\x0f\x0f"
    )
    return b"\xc5" + bytes([len(body)]) + body


def counted(data: str) -> bytes:
    return struct.pack(">H", len(data)) + data.encode()


def keytab() -> bytes:
    """One entry for host/node@EXAMPLE.ORG."""
    entry = struct.pack(">H", 2) + counted("EXAMPLE.ORG") + counted("host") + counted("node.example.org")
    entry += struct.pack(">IIBHH", 3, 1767225600, 2, 18, 32) + noise("keytab", 32)
    return b"\x05\x02" + struct.pack(">i", len(entry)) + entry


def ccache() -> bytes:
    """The head and the principal of a cache, version 4."""

    def data(text: str) -> bytes:
        return struct.pack(">I", len(text)) + text.encode()

    head = struct.pack(">HHII", 1, 8, 0, 0)
    return (
        b"\x05\x04"
        + struct.pack(">H", len(head))
        + head
        + struct.pack(">II", 1, 1)
        + data("EXAMPLE.ORG")
        + data("alice")
    )


def elf(kind: int) -> bytes:
    """The head of an ELF file: 2 is a program, 4 a core dump."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", kind, 62, 1) + bytes(40)


def jwt(issuer: str) -> str:
    """A signed token, as HTCondor's IDTOKENs are."""
    parts = [{"alg": "HS256", "kid": "POOL"}, {"iss": issuer, "sub": "condor@" + issuer, "jti": "5f2c"}]
    text = [base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts]
    return ".".join([*text, base64.urlsafe_b64encode(noise("sign", 32)).decode().rstrip("=")])


def crypt(kind: str) -> str:
    """A password's hash in the form of crypt(5)."""
    letters = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

    def run(size: int) -> str:
        return "".join(letters[b % 64] for b in noise(kind, size))

    forms = {
        "6": f"$6${run(16)}${run(86)}",
        "5": f"$5$rounds=5000${run(16)}${run(43)}",
        "1": f"$1${run(8)}${run(22)}",
        "y": f"$y$j9T${run(22)}${run(43)}",
        "2b": f"$2b$12${run(53)}",
        "apr1": f"$apr1${run(8)}${run(22)}",
    }
    return forms[kind]
