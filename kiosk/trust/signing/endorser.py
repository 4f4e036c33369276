"""An endorser's X.509 certificate and key, which sign HEPiX image lists (S/MIME, detached, SHA-256)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key, pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kiosk.errors import ExpiredError, UsageError
from kiosk.trust.distinguished import name_of

LIMIT = 1 << 20


@dataclass(frozen=True)
class Endorser:
    """Who signs: the certificate, those between it and its authority, and the private key."""

    certificate: x509.Certificate
    between: tuple[x509.Certificate, ...]
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

    @property
    def name(self) -> str:
        """Its distinguished name, `/DC=ch/.../CN=Jane Doe`."""
        return name_of(self.certificate.subject)

    @property
    def authority(self) -> str:
        """The distinguished name of the authority that issued the certificate."""
        return name_of(self.certificate.issuer)

    @property
    def common_name(self) -> str:
        """The name for people: the last CN."""
        found = self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(found[-1].value) if found else self.name

    @property
    def email(self) -> str | None:
        """The address in the certificate, where there is one."""
        try:
            names = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            found = names.get_values_for_type(x509.RFC822Name)
        except x509.ExtensionNotFound:
            found = []
        more = self.certificate.subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS)
        return next(iter([*found, *(str(a.value) for a in more)]), None)

    def refuse_expired(self, now: datetime) -> None:
        """ExpiredError when the certificate is not valid now."""
        if not self.certificate.not_valid_before_utc <= now <= self.certificate.not_valid_after_utc:
            raise ExpiredError(
                f"the endorser's certificate is valid from {self.certificate.not_valid_before_utc:%Y-%m-%d} "
                f"to {self.certificate.not_valid_after_utc:%Y-%m-%d}, and not now"
            )

    def refuse_other_use(self) -> None:
        """UsageError when the certificate is not for signed messages: readers' S/MIME refuses what it signs."""
        try:
            found = self.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound:
            return
        if not {ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(
            found
        ):
            raise UsageError(
                "the endorser's certificate is not for signed messages (its extended key usage has no "
                "emailProtection), and vmcatcher would refuse the list",
                hint="Ask the authority for a personal certificate.",
            )

    def sign(self, content: bytes) -> bytes:
        """The signed message: multipart/signed, the content readable in it."""
        builder = pkcs7.PKCS7SignatureBuilder().set_data(content)
        builder = builder.add_signer(self.certificate, self.key, hashes.SHA256())
        for one in self.between:
            builder = builder.add_certificate(one)
        return builder.sign(Encoding.SMIME, [pkcs7.PKCS7Options.DetachedSignature])


def read_endorser(certificate: Path, key: Path, ask: Callable[[str], bytes]) -> Endorser:
    """Reads a certificate (and those after it in its file) and its key; `ask` is asked for the passphrase of an
    encrypted one. UsageError where they can't be read or are not of each other."""
    try:
        found = x509.load_pem_x509_certificates(_content(certificate))
    except ValueError:
        raise UsageError("is not a certificate in PEM", where=str(certificate)) from None
    private = _private(key, ask)
    mine, theirs = (
        k.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for k in (private.public_key(), found[0].public_key())
    )
    if mine != theirs:
        raise UsageError(f"is not the key of the certificate {certificate}", where=str(key))
    return Endorser(found[0], tuple(found[1:]), private)


def _private(path: Path, ask: Callable[[str], bytes]) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    data = _content(path)
    try:
        try:
            found = load_pem_private_key(data, None)
        except TypeError:  # it is encrypted
            found = load_pem_private_key(data, ask(path.name))
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        wrong = "the passphrase is wrong, or it is no private key in PEM"
        raise UsageError(f"can't be opened: {wrong}", where=str(path)) from e
    if not isinstance(found, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise UsageError("is neither an RSA key nor one on an elliptic curve", where=str(path))
    return found


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as f:
            return f.read(LIMIT)
    except OSError as e:
        raise UsageError(f"can't be read: {e.strerror}", where=str(path)) from None
