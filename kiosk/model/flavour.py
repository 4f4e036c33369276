"""Flavours: how large a VM is. A few by name, any other as CORES/MEMORY/SCRATCH in GiB.

No image knows of them: any version of any image starts in any flavour, and scratch space is a disk of the VM's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from kiosk.errors import UsageError
from kiosk.model.base import Document

GIB = 1 << 30


class Flavour(Document):
    """Cores, memory in GiB, scratch disk in GiB."""

    cores: Annotated[int, Field(ge=1, le=512)]
    memory: Annotated[int, Field(ge=1, le=16384)]
    scratch: Annotated[int, Field(ge=1, le=65536)]

    def __str__(self) -> str:
        return f"{self.cores}/{self.memory}/{self.scratch}"

    @classmethod
    def parse(cls, text: str, own: Mapping[str, str] | None = None) -> Flavour:
        """Reads a name or CORES/MEMORY/SCRATCH; UsageError when it is neither. `own` are a user's names, which
        go before kiosk's."""
        if own and text in own:
            return cls.parse(own[text])
        if text in FLAVOURS:
            return FLAVOURS[text]
        words = text.split("/")
        hint = (
            f"Write one of {', '.join({**FLAVOURS, **(own or {})})}, or CORES/MEMORY/SCRATCH in GiB: 4/8/40"
        )
        if len(words) != 3 or not all(re.fullmatch(r"[1-9][0-9]{0,5}", w) for w in words):
            raise UsageError(f"{text!r} is not a flavour", hint=hint)
        cores, memory, scratch = map(int, words)
        if cores > 512 or memory > 16384 or scratch > 65536:
            raise UsageError(f"the flavour {text} is larger than 512/16384/65536", hint=hint)
        return cls(cores=cores, memory=memory, scratch=scratch)


FLAVOURS = {
    "tiny": Flavour(cores=1, memory=1, scratch=2),
    "c1": Flavour(cores=1, memory=2, scratch=10),
    "c2": Flavour(cores=2, memory=4, scratch=20),
    "c4": Flavour(cores=4, memory=8, scratch=40),
    "c8": Flavour(cores=8, memory=16, scratch=80),
}
