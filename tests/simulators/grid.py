"""A grid's certification authorities, people, and image lists: real X.509, real S/MIME, made for one test run."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs7,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIST = "e55c1afe-0a62-4d31-a8d7-fb8c825f92a2"
IMAGE = "b36d8b24-c63c-4fd1-ba13-bda6877207e8"
KEYS = {"DC": NameOID.DOMAIN_COMPONENT, "C": NameOID.COUNTRY_NAME, "O": NameOID.ORGANIZATION_NAME}
KEYS |= {"OU": NameOID.ORGANIZATIONAL_UNIT_NAME, "CN": NameOID.COMMON_NAME}
USER = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.EMAIL_PROTECTION)
CA = "/DC=org/DC=example-grid/CN=Example Grid CA"
JANE = "/DC=org/DC=example-grid/OU=Users/CN=Jane Doe"
JOHN = "/DC=org/DC=example-grid/OU=Users/CN=John Roe"


def name(text: str) -> x509.Name:
    """A name from its one-line form."""
    words = (word.split("=", 1) for word in text.split("/")[1:])
    return x509.Name([x509.NameAttribute(KEYS[key], value) for key, value in words])


@functools.cache
def key(number: int) -> rsa.RSAPrivateKey:
    """A key that is made once a test run."""
    return rsa.generate_private_key(65537, 2048)


@dataclass(frozen=True)
class Person:
    """Somebody with a certificate: a user, or an authority."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey
    between: tuple[x509.Certificate, ...] = ()

    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self, passphrase: bytes | None = None) -> bytes:
        """The key, encrypted where there is a passphrase."""
        how = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)

    def sign(self, content: bytes, digest: hashes.SHA256 | hashes.SHA1 | None = None) -> bytes:
        """A signed message as endorsers' tools write it."""
        builder = pkcs7.PKCS7SignatureBuilder().set_data(content)
        builder = builder.add_signer(self.certificate, self.key, digest or hashes.SHA256())  # type: ignore[arg-type]
        for one in self.between:
            builder = builder.add_certificate(one)
        return builder.sign(Encoding.SMIME, [pkcs7.PKCS7Options.DetachedSignature])


def issue(
    subject: str,
    issuer: Person | None,
    number: int,
    *,
    ca: bool = False,
    days: tuple[float, float] = (-1, 365),
    signing: bool = True,
    email: str | None = "jane.doe@example.org",
    uses: tuple[x509.ObjectIdentifier, ...] = USER,
) -> Person:
    """A certificate; without an issuer it is its own."""
    now = datetime.now(UTC)
    mine = key(number)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(issuer.certificate.subject if issuer else name(subject))
        .public_key(mine.public_key())
        .serial_number(1000 + number)
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(mine.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(signing and not ca, False, not signing, False, False, ca, ca, False, False),
            critical=True,
        )
    )
    if not ca:
        usage = x509.ExtendedKeyUsage(list(uses))
        builder = builder.add_extension(usage, critical=False)
        if email:
            names = x509.SubjectAlternativeName([x509.RFC822Name(email)])
            builder = builder.add_extension(names, critical=False)
    return Person(builder.sign(issuer.key if issuer else mine, hashes.SHA256()), mine)


@functools.cache
def authority() -> Person:
    """The authority that tests trust."""
    return issue(CA, None, 0, ca=True)


@functools.cache
def jane() -> Person:
    """The endorser."""
    return issue(JANE, authority(), 1)


@functools.cache
def john() -> Person:
    """Another user of the same authority."""
    return issue(JOHN, authority(), 2, email=None)


def revocations(ca: Person, *revoked: Person, days: tuple[float, float] = (-1, 30)) -> bytes:
    """A revocation list."""
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject)
    builder = builder.last_update(now + timedelta(days=days[0])).next_update(now + timedelta(days=days[1]))
    for one in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(one.certificate.serial_number)
        builder = builder.add_revoked_certificate(entry.revocation_date(now - timedelta(days=1)).build())
    return builder.sign(ca.key, hashes.SHA256()).public_bytes(Encoding.PEM)


@dataclass(frozen=True)
class List:
    """An image list with one image, to be altered and signed."""

    uri: str
    data: bytes
    version: str = "1.0"
    image_version: str = "3.2-1"
    format: str = "qcow2"
    dn: str = JANE
    ca: str = CA
    days: tuple[float, float] = (-0.01, 28)
    size: int | None = None
    sha512: str | None = None
    title: str = "Tiny Linux"
    identifier: str = LIST
    more: tuple[tuple[str, Any], ...] = ()

    def but(self, **changes: Any) -> List:
        """The same list with something else in it."""
        return replace(self, **changes)

    def content(self) -> bytes:
        """The JSON that is signed."""
        now = datetime.now(UTC)
        first, last = ((now + timedelta(days=d)).strftime("%Y-%m-%dT%H:%M:%SZ") for d in self.days)
        image = {
            "dc:description": "A small system for tests",
            "dc:identifier": IMAGE,
            "dc:title": self.title,
            "hv:format": self.format,
            "hv:hypervisor": "QEMU,KVM",
            "hv:size": len(self.data) if self.size is None else self.size,
            "hv:uri": self.uri,
            "hv:version": self.image_version,
            "sl:arch": "x86_64",
            "sl:checksum:sha512": self.sha512 or hashlib.sha512(self.data).hexdigest(),
            "sl:comments": "",
            "sl:os": "Linux",
            "sl:osname": "Tiny",
            "sl:osversion": "7",
        } | dict(self.more)
        endorser = {
            "hv:dn": self.dn,
            "hv:ca": self.ca,
            "dc:creator": "Jane Doe",
            "hv:email": "jane.doe@example.org",
        }
        found = {
            "dc:date:created": first,
            "dc:date:expires": last,
            "dc:description": "Images for tests",
            "dc:identifier": self.identifier,
            "dc:source": "example.org",
            "dc:title": "Example images",
            "hv:endorser": {"hv:x509": endorser},
            "hv:images": [{"hv:image": image}],
            "hv:uri": "https://example.org/image.list",
            "hv:version": self.version,
        }
        return json.dumps({"hv:imagelist": found}, indent=1, sort_keys=True).encode()

    def signed(self, person: Person | None = None) -> bytes:
        """The list as it is served."""
        return (person or jane()).sign(self.content())


def trusted(folder: Path, *authorities: Person) -> Path:
    """A folder of authorities as IGTF's distribution has it (without its hashes)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(authorities or (authority(),)):
        (folder / f"ca-{number}.pem").write_bytes(one.pem())
    return folder
