"""What an audit knows before it looks, what it finds, and the report that is published with the image.

A finding never shows the secret itself. The same image, looked at with the same archive, gives the same report
but for its date.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Protocol

from pydantic import Field

from kiosk.model.base import Digest, Document, Size
from kiosk.model.manifest import AuditException

MAX_FINDINGS = 10_000
"""A report has no more; what is over is counted."""

UNFINISHED = "unfinished"
"""The item of the finding that the audit ended at one of its limits. No exception accepts it."""


@dataclass(frozen=True)
class Package:
    """An installed package, as the image's own database has it; `source` and its version where they differ."""

    name: str
    version: str
    architecture: str
    source: str = ""
    source_version: str = ""


@dataclass(frozen=True)
class Update:
    """A newer version of a package that the archive's security suite offers."""

    package: str
    installed: str
    available: str


class UpdatesUnknownError(Exception):
    """Nobody could say whether updates are missing; the text says why."""


class Updates(Protocol):
    """Where to ask for security updates. Raises UpdatesUnknownError."""

    def missing(self, os: str, release: str, packages: tuple[Package, ...]) -> tuple[Update, ...]:
        """Security updates of an image's packages that it does not have."""
        ...


@dataclass(frozen=True)
class Facts:
    """What is known of an image besides its bytes. `partitions` are the file systems and partitions that are the
    image's own (UUIDs, lower case), `accounts` the names of people's accounts that its policy has, `packages` the
    published list (name, version, architecture). `updates` None leaves the check for updates out."""

    image: str = ""
    disk: str = ""
    os: str = ""
    release: str = ""
    partitions: frozenset[str] = frozenset()
    accounts: frozenset[str] = frozenset()
    packages: frozenset[tuple[str, str, str]] | None = None
    exceptions: tuple[AuditException, ...] = ()
    updates: Updates | None = None


@dataclass(frozen=True)
class Hit:
    """What a check saw: in which file, and where in it (a line, or an item such as an account's name)."""

    check: str
    path: bytes
    message: str
    line: int | None = None
    item: str | None = None


class Finding(Document):
    """Something that an image must not have. `path` is the path in the image (bytes that are no UTF-8 as \\xNN),
    `item` what in it, `digest` that of the whole file where it was read."""

    check: str
    path: str
    item: str | None = None
    line: int | None = None
    message: str
    digest: Digest | None = None

    @property
    def place(self) -> str:
        """Path and item in one word, as exceptions name them: /etc/passwd#alice."""
        return self.path if self.item is None else f"{self.path}#{self.item}"


class Accepted(Document):
    """A finding that the recipe accepts, and its reason."""

    finding: Finding
    reason: str


class Counts(Document):
    """How much was looked at; `verified` are files that are to the byte what their package brought."""

    names: int = 0
    files: int = 0
    bytes: Size = 0
    verified: int = 0
    packages: int = 0


class Report(Document):
    """The outcome. `passed` when nothing is left that no exception accepts. `left_out` are checks that were not
    made, with the reason; without `audited` nothing was looked at, for the reason given."""

    schema_: Literal["kiosk.audit/1"] = Field("kiosk.audit/1", alias="schema")
    image: str = ""
    disk: str = ""
    date: datetime
    audited: bool = True
    reason: str = ""
    passed: bool
    counts: Counts = Counts()
    findings: Annotated[tuple[Finding, ...], Field(max_length=MAX_FINDINGS)] = ()
    more: int = 0
    accepted: Annotated[tuple[Accepted, ...], Field(max_length=MAX_FINDINGS)] = ()
    stale: tuple[AuditException, ...] = ()
    left_out: Mapping[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


def shown(path: bytes) -> str:
    """A path for people and for JSON: UTF-8 where it is, other bytes and control characters as \\xNN."""
    text = path.decode("utf-8", errors="backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
