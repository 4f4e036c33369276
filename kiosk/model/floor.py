"""A floor: the version of an image or layer below which none may be started any more, signed by the name's own role.

Revoking is more than publishing something newer: hosts do not start what is below, and guests do not boot it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints

from kiosk.errors import VerificationError
from kiosk.model.base import Document
from kiosk.model.names import Ref, Version, VersionText, floor_path
from kiosk.model.report import Base

LARGEST = 1 << 16
"""The most bytes of a floor that a reader loads."""


def _printable(text: str) -> str:
    """Nothing that moves a cursor, turns the direction of what follows, or can't be seen."""
    if not text.isprintable():
        raise ValueError("has characters that can't be printed")
    return text


Reason = Annotated[str, StringConstraints(min_length=1, max_length=400), AfterValidator(_printable)]


class Floor(Document):
    """Versions of `name` below `below` were revoked for a reason that operators will read."""

    schema_: Literal["kiosk.floor/1"] = Field("kiosk.floor/1", alias="schema")
    name: Base
    below: VersionText
    reason: Reason
    date: datetime

    @classmethod
    def of(cls, ref: Ref, data: bytes) -> Self:
        """The floor of an image or layer; VerificationError when it is none, or another's."""
        path = floor_path(ref)
        found = cls.from_json(data, where=path)
        if found.name != ref.base:
            raise VerificationError(f"is the floor of {found.name}, not of {ref.base}", where=path)
        return found

    def fault(self, ref: Ref) -> str | None:
        """Why a version may not be used any more; None where it may, or where the reference has no version."""
        if ref.version is None or ref.version >= Version.parse(self.below):
            return None
        return f"{ref} was revoked: nothing below {self.below} may run ({self.reason})"
