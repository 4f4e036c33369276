"""Whose certificates are believed: those of the authorities in a file that is configured, else of this machine's own.

Light (the standard library alone): the agent's daemon imports it. Certificates keep what is read private and calls
whole; that images are the right ones follows from signatures, whoever serves them.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from kiosk.errors import UsageError

HINT = 'Name the authority that signed it: ca = "FILE" (or KIOSK_CA), and use the name that it is for.'


def context(ca: str | None) -> ssl.SSLContext:
    """What a connection is made with. UsageError where the file is not one of certificates."""
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as e:  # ssl.SSLError is one
        why = "holds no certificates" if isinstance(e, ssl.SSLError) else e.strerror
        raise UsageError(f"ca: {why}", where=ca, hint="A file of certificates in PEM.") from None


def authorities(ca: str | None) -> str | bool:
    """The same for requests: a file or folder; True (its own list) where this machine has neither. UsageError."""
    if ca is not None:
        context(ca)
        return ca
    own = ssl.get_default_verify_paths()
    if own.cafile is not None:
        return own.cafile
    return own.capath if own.capath is not None and any(Path(own.capath).iterdir()) else True


def fault(error: BaseException | None) -> str | None:
    """What is wrong with a server's certificate, where that is what an error is about, however deep inside."""
    for _ in range(10):
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the server's certificate is not believed: {error.verify_message}"
        if error is None:
            return None
        inner = getattr(error, "reason", None)
        nested = next((a for a in error.args if isinstance(a, BaseException)), None)
        error = inner if isinstance(inner, BaseException) else nested or error.__cause__ or error.__context__
    return None
