"""The certification authorities that a reader of image lists was given: a file, or a folder such as IGTF's.

Only they count: what the machine trusts for the web has no part in it. Where revocation lists lie beside the
authorities (`*.r0`, `*.crl`), the one of a signer's authority is used, and must not have expired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kiosk.errors import NotFoundError, UsageError

MOST_FILES = 5000
LARGEST_FILE = 8 << 20
CERTIFICATES = (".pem", ".crt", ".cer", *(f".{n}" for n in range(10)))
LISTS = (".crl", *(f".r{n}" for n in range(10)))
_CERTIFICATE, _LIST = b"-----BEGIN CERTIFICATE-----", b"-----BEGIN X509 CRL-----"
Read = TypeVar("Read")


@dataclass(frozen=True)
class Anchors:
    """Authorities, and their revocation lists."""

    certificates: tuple[x509.Certificate, ...]
    lists: tuple[x509.CertificateRevocationList, ...]

    def bundle(self) -> bytes:
        """All of it in PEM, for OpenSSL."""
        found = [one.public_bytes(Encoding.PEM) for one in self.certificates]
        found += [one.public_bytes(Encoding.PEM) for one in self.lists]
        return b"".join(found)

    def revokes(self, issuer: x509.Name) -> bool:
        """Whether there is a revocation list of this authority."""
        return any(one.issuer == issuer for one in self.lists)


def read_anchors(path: Path) -> Anchors:
    """Reads authorities and revocation lists. Certificates of others than authorities are left out, as is what can't
    be read; NotFoundError or UsageError where no authority is left."""
    certificates: dict[bytes, x509.Certificate] = {}
    lists: dict[bytes, x509.CertificateRevocationList] = {}
    for file in _files(path):
        data = _content(file)
        for one in _parts(data, _CERTIFICATE, x509.load_pem_x509_certificate):
            if is_authority(one):
                certificates[one.public_bytes(Encoding.DER)] = one
        for other in _parts(data, _LIST, x509.load_pem_x509_crl):
            lists[other.public_bytes(Encoding.DER)] = other
    if not certificates:
        raise UsageError(
            "holds no certificate of a certification authority in PEM",
            where=str(path),
            hint="Give a file, or a folder such as /etc/grid-security/certificates.",
        )
    return Anchors(tuple(certificates.values()), tuple(lists.values()))


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate may sign others: it says so, or is so old that it can't."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return certificate.version == x509.Version.v1 and certificate.issuer == certificate.subject
    except ValueError:
        return False


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in (*CERTIFICATES, *LISTS) and p.is_file())
        if len(found) > MOST_FILES:
            raise UsageError(f"has more than {MOST_FILES} certificates", where=str(path))
        return found
    if not path.is_file():
        raise NotFoundError("there are no certification authorities", where=str(path))
    return [path]


def _content(file: Path) -> bytes:
    with file.open("rb") as f:
        data = f.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise UsageError(f"is larger than {LARGEST_FILE} bytes", where=str(file))
    return data


def _parts(data: bytes, begin: bytes, read: Callable[[bytes], Read]) -> Iterator[Read]:
    """The PEM blocks of one kind that can be read."""
    end = begin.replace(b"BEGIN", b"END")
    for piece in data.split(begin)[1:]:
        inside, found, _ = piece.partition(end)
        if not found:
            continue
        try:
            yield read(begin + inside + end + b"\n")
        except ValueError:
            continue
