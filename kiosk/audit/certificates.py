"""X.509 certificates that are somebody's identity, and proxies made from them. CA certificates are public."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.utils import CryptographyDeprecationWarning

from kiosk.audit.model import Hit
from kiosk.audit.sample import Sample

MAX_CERTIFICATES = 1000
_PEM = re.compile(
    rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----[^-]{60,40000}-----END (?:TRUSTED |X509 )?CERTIFICATE-----"
)
_STORES = re.compile(
    rb"/(?:etc/ssl/certs|etc/pki/ca-trust|etc/pki/tls/certs|usr/(?:local/)?share/ca-certificates|usr/share/pki"
    rb"|etc/ca-certificates|etc/grid-security/certificates|etc/grid-security/vomsdir|var/lib/ca-certificates)/"
)
_SERVERS = b"/etc/grid-security/vomsdir/"
_PROXY_INFO = (
    x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14"),
    x509.ObjectIdentifier("1.3.6.1.4.1.3536.1.222"),
)
_OLD_PROXIES = ("proxy", "limited proxy")
_LARGEST_DER = 16 << 10


def certificates(sample: Sample) -> Iterator[Hit]:
    """Certificates that are no CA's; proxies by their extension or their name."""
    if not sample.whole or not (b"CERTIFICATE-----" in sample.data or sample.data[:2] == b"\x30\x82"):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # old roots with odd serial numbers
        yield from _found(sample)


def _found(sample: Sample) -> list[Hit]:
    data = sample.data
    hits: list[Hit] = []
    found: list[tuple[int, x509.Certificate]] = []
    if b"CERTIFICATE-----" in data:
        for m in _PEM.finditer(data):
            if len(found) < MAX_CERTIFICATES and (made := _load(m[0], pem=True)) is not None:
                found.append((m.start(), made))
    elif data[:2] == b"\x30\x82" and len(data) <= _LARGEST_DER and (made := _load(data, pem=False)):
        found.append((0, made))
    for at, certificate in found:
        if _is_proxy(certificate):
            return [sample.hit("x509-proxy", "a proxy certificate", at)]
        if _is_somebody(certificate, sample.path):
            hits.append(sample.hit("host-certificate", f"a certificate of {_subject(certificate)}", at))
    return hits


def _load(data: bytes, *, pem: bool) -> x509.Certificate | None:
    try:
        if pem:
            text = data.replace(b"TRUSTED CERT", b"CERT").replace(b"X509 CERT", b"CERT")
            return x509.load_pem_x509_certificate(text)
        return x509.load_der_x509_certificate(data)
    except (ValueError, UnsupportedAlgorithm):
        return None


def _is_proxy(certificate: x509.Certificate) -> bool:
    try:
        if any(e.oid in _PROXY_INFO for e in certificate.extensions):
            return True
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return bool(names) and names[-1].value in _OLD_PROXIES
    except (ValueError, x509.DuplicateExtension):
        return False


def _is_somebody(certificate: x509.Certificate, path: bytes) -> bool:
    """Whether it is no CA's; among trusted certificates, old roots say nothing and count as CAs."""
    trusted = _STORES.match(path) is not None
    if path.startswith(_SERVERS):
        return False
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        old_root = certificate.version is x509.Version.v1 and certificate.issuer == certificate.subject
        return not (trusted and old_root)
    except (ValueError, x509.DuplicateExtension, UnsupportedAlgorithm):
        return True
    return not basic.ca


def _subject(certificate: x509.Certificate) -> str:
    try:
        return certificate.subject.rfc4514_string()[:120] or "nobody named"
    except ValueError:
        return "somebody"
