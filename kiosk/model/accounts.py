"""Which accounts an image may have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from kiosk.model.base import Document

AccountName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?$")]


class AccountPolicy(Document):
    """What may stay of a node's accounts. People's accounts are those with a uid of `first` or more (but nobody);
    of them, only those named in `keep` stay, and these without a password."""

    keep: Annotated[tuple[AccountName, ...], Field(max_length=1000)] = ()
    first: Annotated[int, Field(ge=100, le=60000)] = 1000
