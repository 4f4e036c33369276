"""Signed messages (S/MIME, RFC 8551): who signed, and what. Nothing of a message is used before that is known.

OpenSSL verifies, confined: the signature over the content, the signer's certificate up to an authority that was
given (and to no other), its dates, its revocation where a list of its authority is there. What it gives back as the
content is what was signed, and the only thing that is read on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from asn1crypto import cms, pem
from cryptography import x509

from kiosk.errors import ExpiredError, VerificationError
from kiosk.exchange.anchors import Anchors
from kiosk.exchange.confined import confined, prepare
from kiosk.files import scratch
from kiosk.run import CommandError, tool
from kiosk.trust.distinguished import name_of

LARGEST = 8 << 20
STRONG = ("sha256", "sha384", "sha512")
TIMEOUT = 60.0
MESSAGE, ANCHORS, SIGNER, CONTENT, STRUCTURE = (
    "message",
    "anchors.pem",
    "signer.pem",
    "content",
    "structure.pem",
)
_REASON = re.compile(r"Verify error: ?([^\n]{1,120})")
_EXPIRED = ("certificate has expired", "CRL has expired")


@dataclass(frozen=True)
class Signed:
    """What was signed, by whom: the signer's name, and that of the authority which named it so."""

    content: bytes
    signer: str
    authority: str
    digest: str


def verify(message: bytes, anchors: Anchors, work: Path, *, where: str, weak: bool = False) -> Signed:
    """Verifies a message. VerificationError where anything does not hold, ExpiredError where a certificate or a
    revocation list is past its date. With `weak`, SHA-1 is taken as well. `work` is for temporary files."""
    tool("openssl")
    if len(message) > LARGEST:
        raise VerificationError(f"is larger than {LARGEST} bytes", where=where)
    with scratch(work, prefix="smime-") as folder:
        job = folder / "job"
        prepare(job)
        _place(job / MESSAGE, message)
        _place(job / ANCHORS, anchors.bundle())
        digest = _digest(job, where)
        if digest not in STRONG and not (weak and digest == "sha1"):
            raise VerificationError(
                f"is signed with {digest}, which can be forged",
                where=where,
                hint="Ask for a list that is signed with SHA-256."
                + (" (--allow-sha1 takes SHA-1.)" if digest == "sha1" else ""),
            )
        level = "0" if weak else "2"
        certificate = _verified(job, ["-auth_level", level], where)
        if anchors.revokes(certificate.issuer):
            _verified(job, ["-auth_level", level, "-crl_check"], where)
        _refuse_usage(certificate, where)
        content = (job / CONTENT).read_bytes()
    return Signed(content, name_of(certificate.subject), name_of(certificate.issuer), digest)


def _place(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o644)


def _digest(job: Path, where: str) -> str:
    """The digest algorithm of the one signature."""
    try:
        argv = ["openssl", "smime", "-pk7out", "-inform", "SMIME"]
        confined([*argv, "-in", MESSAGE, "-out", STRUCTURE], job, timeout=TIMEOUT)
        _, _, der = pem.unarmor((job / STRUCTURE).read_bytes())
        structure = cms.ContentInfo.load(der)
        signers = structure["content"]["signer_infos"]
        found = [str(s["digest_algorithm"]["algorithm"].native) for s in signers]
    except (CommandError, ValueError, KeyError, TypeError):
        raise VerificationError(
            "is not a signed message (S/MIME)", where=where, hint="Without a signature nothing of it is used."
        ) from None
    if len(found) != 1:
        raise VerificationError(f"has {len(found)} signatures instead of one", where=where)
    return found[0]


def _verified(job: Path, more: list[str], where: str) -> x509.Certificate:
    """Lets OpenSSL verify, and returns the certificate of the signer."""
    argv = ["openssl", "smime", "-verify", "-inform", "SMIME", "-in", MESSAGE, "-CAfile", ANCHORS]
    argv += ["-no-CApath", "-no-CAstore", "-purpose", "any", *more]
    try:
        confined([*argv, "-signer", SIGNER, "-out", CONTENT], job, timeout=TIMEOUT)
        found = x509.load_pem_x509_certificates((job / SIGNER).read_bytes())
    except CommandError as e:
        reason = _reason(e.output)
        if any(word in reason for word in _EXPIRED):
            raise ExpiredError(f"its signature does not count: {reason}", where=where) from None
        raise VerificationError(
            f"its signature does not hold: {reason}", where=where, hint="Nothing of it was used."
        ) from None
    except ValueError:
        raise VerificationError("the signer's certificate can't be read", where=where) from None
    if len(found) != 1:
        raise VerificationError(f"has {len(found)} signers instead of one", where=where)
    return found[0]


def _reason(output: str) -> str:
    if (match := _REASON.search(output)) is not None:
        return match[1].strip()
    if "digest failure" in output or "signature failure" in output:
        return "the content is not what was signed"
    return "OpenSSL can't verify it"


def _refuse_usage(certificate: x509.Certificate, where: str) -> None:
    """A certificate that says what its key is for must say that it signs."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    except ValueError:
        raise VerificationError("the signer's certificate can't be read", where=where) from None
    if not (usage.digital_signature or usage.content_commitment):
        raise VerificationError("the signer's certificate is not one for signatures", where=where)
