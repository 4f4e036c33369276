"""The proof of who calls the kiosk (docs/fleet-api.md), for both ends. The standard library alone: the agent's daemon
imports it.
"""

from __future__ import annotations

import hashlib
import hmac


def mac(token: bytes, method: str, path: str, body: bytes) -> str:
    """The proof, in hexadecimal, that whoever holds a host's token sent these very bytes there."""
    return hmac.new(token, f"{method} {path}\n".encode() + body, hashlib.sha256).hexdigest()
