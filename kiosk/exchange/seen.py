"""What was seen of each image list: an older version, or another content under the same version, is not believed.

A signature alone does not tell an old list from the newest: whoever stands between can show the old one until it
expires. So each list's last version, the digest of its content, and its endorser are kept, by its identifier.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from kiosk.errors import VerificationError
from kiosk.exchange.image_list import ImageList, order_of
from kiosk.exchange.smime import Signed
from kiosk.files import write
from kiosk.model.base import Digest, Document

LIMIT = 64 << 10


class Seen(Document):
    """The newest version of a list that was verified here."""

    schema_: Literal["kiosk.image-list-seen/1"] = Field("kiosk.image-list-seen/1", alias="schema")
    identifier: str
    version: str
    content: Digest
    signer: str
    authority: str
    created: datetime


def seen_of(found: ImageList, signed: Signed) -> Seen:
    """What there is to remember of a list."""
    return Seen(
        identifier=found.identifier,
        version=found.version,
        content="sha256:" + hashlib.sha256(signed.content).hexdigest(),
        signer=signed.signer,
        authority=signed.authority,
        created=found.created,
    )


def _file(folder: Path, identifier: str) -> Path:
    return folder / f"{hashlib.sha256(identifier.encode()).hexdigest()[:40]}.json"


def refuse_older(folder: Path, now: Seen, *, where: str, pinned: bool) -> None:
    """VerificationError where the list is older than what was seen, or the same version with other content, or
    endorsed by another than before (unless the endorser was `pinned` by the caller, who knows of the change)."""
    there = _read(_file(folder, f"at {where}"))
    if there is not None and there.identifier != now.identifier and not pinned:
        raise VerificationError(
            f"is the list {now.identifier}, and this address gave {there.identifier} before",
            where=where,
            hint="If it has really changed, name its endorser with --endorser.",
        )
    before = _read(_file(folder, now.identifier))
    if before is None:
        return
    if (before.signer, before.authority) != (now.signer, now.authority) and not pinned:
        raise VerificationError(
            f"is endorsed by {now.signer}, and was by {before.signer} before",
            where=where,
            hint="If its endorser has changed, name the new one with --endorser.",
        )
    if order_of(now.version) < order_of(before.version):
        raise VerificationError(
            f"is version {now.version}, and version {before.version} was seen here before",
            where=where,
            hint="Somebody shows an old list. Nothing of it was used.",
        )
    if order_of(now.version) == order_of(before.version) and now.content != before.content:
        raise VerificationError(
            f"is version {now.version} with other content than was seen here before",
            where=where,
            hint="A version of a list never changes: ask its endorser. Nothing of it was used.",
        )


def _read(path: Path) -> Seen | None:
    try:
        with path.open("rb") as f:
            return Seen.from_json(f.read(LIMIT), where=str(path))
    except FileNotFoundError:
        return None


def remember(folder: Path, now: Seen, *, where: str) -> None:
    """Keeps what was seen, by the list's identifier and by the address `where` it was: a list with an identifier of
    its own is no first sight there. To be called after `refuse_older`, under the lock of imports."""
    write(_file(folder, now.identifier), now.to_json())
    write(_file(folder, f"at {where}"), now.to_json())
