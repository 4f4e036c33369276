"""Tokens: the keys by which hosts sign what they say. Each follows from the kiosk's fleet key and the host's name,
so that nobody keeps a list; a token says nothing about another host's.

The fleet key is 32 random bytes in a file that its owner alone may read, made on first use; of two that make it
at the same time, both get the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from kiosk.errors import StorageError, UsageError, VerificationError
from kiosk.files import fsync_dir, storage_errors, write
from kiosk.model import report
from kiosk.proof import mac

LENGTH = 32
HOST = re.compile(report.HOST)
AUTHORIZATION = re.compile(rf"Kiosk host=({HOST.pattern}),mac=([0-9a-f]{{64}})")


def host_name(text: str) -> str:
    """A host's name, checked; UsageError when it is none."""
    if not HOST.fullmatch(text):
        raise UsageError(f"{text!r} is not a host's name", hint="Letters, digits, dots, hyphens; lower case.")
    return text


def sign(token: str, method: str, path: str, body: bytes) -> str:
    """The mac of a call under a host's token, in hexadecimal."""
    return mac(bytes.fromhex(token), method, path, body)


@dataclass(frozen=True)
class FleetKey:
    """The kiosk's own key."""

    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, path: Path) -> FleetKey:
        """The key in a file, which is made where there is none. StorageError where it can't be used."""
        with contextlib.suppress(FileNotFoundError):
            return cls._read(path)
        new = path.with_name(f".{path.name}.{secrets.token_hex(6)}.made")
        try:
            write(new, secrets.token_bytes(LENGTH), mode=0o600)
            with storage_errors(path), contextlib.suppress(FileExistsError):
                os.link(new, path)
                fsync_dir(path.parent)
        finally:
            new.unlink(missing_ok=True)
        return cls._read(path)

    @classmethod
    def _read(cls, path: Path) -> FleetKey:
        with storage_errors(path), path.open("rb") as f:
            if os.fstat(f.fileno()).st_mode & 0o077:
                raise StorageError("others may read the fleet key", where=str(path), hint=f"chmod 600 {path}")
            data = f.read(LENGTH + 1)
        if len(data) != LENGTH:
            raise StorageError(
                "is not a fleet key",
                where=str(path),
                hint="Restore it, or remove it: then hosts need new tokens.",
            )
        return cls(data)

    def token(self, host: str) -> str:
        """A host's token: 64 hexadecimal digits."""
        return hmac.new(self.secret, f"kiosk.token/1 {host_name(host)}".encode(), hashlib.sha256).hexdigest()

    def caller(self, authorization: str, method: str, path: str, body: bytes) -> str:
        """The host that signed a call; VerificationError where nobody did."""
        match = AUTHORIZATION.fullmatch(authorization)
        if match is None:
            raise VerificationError("the call is not signed", hint="Authorization: Kiosk host=HOST,mac=HEX")
        host, given = match.groups()
        if not hmac.compare_digest(given, sign(self.token(host), method, path, body)):
            raise VerificationError(
                "the signature is not this host's",
                hint="`kiosk fleet token HOST` on the kiosk prints the host's token.",
            )
        return host
