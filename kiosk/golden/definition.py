"""What a golden node is to kiosk: `golden/NAME.toml` in a folder of the user's own recipes. An unknown key is an error.

The definition says where the node is, how it answers whether it is up to date, and what of it stays out.
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from kiosk.build.book import Book
from kiosk.config import Settings, read_toml
from kiosk.errors import NotFoundError, UsageError
from kiosk.golden.source import AnySource, Ready
from kiosk.model.accounts import AccountName
from kiosk.model.base import Digest, Document
from kiosk.model.manifest import AuditException, GuestPath, LayerPolicy
from kiosk.model.names import Name
from kiosk.model.recipe import Base, ReleaseName, Text

UnitName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9:_.@\\-]{1,200}\.(service|timer|socket|path|mount)$")
]


class Definition(Document):
    """A golden node and the image that is made of it.

    `base` is the base tree whose tools make the image's initrd; `accounts` are those with a UID from 1000 on that
    stay; `leave_out` are paths (fnmatch patterns) beside scratch and temporary space; `mask` names units that don't
    run in the image; `network` is dhcp, or keep for the node's own; `size` is the root partition's in MiB; `keep`
    how many built versions stay on this host.
    """

    name: Name
    description: Text = ""
    os: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9._-]{1,30}$")]
    release: ReleaseName
    architecture: Literal["x86_64"]
    base: Name
    size: Annotated[int, Field(ge=64, le=1 << 20)] | None = None
    accounts: tuple[AccountName, ...] = ()
    leave_out: tuple[GuestPath, ...] = ()
    mask: tuple[UnitName, ...] = ()
    network: Literal["dhcp", "keep"] = "dhcp"
    keep: Annotated[int, Field(ge=1, le=1000)] = 7
    policy: LayerPolicy = LayerPolicy()
    exceptions: Annotated[tuple[AuditException, ...], Field(max_length=200)] = ()
    source: AnySource
    ready: Ready | None = None


@dataclass(frozen=True)
class Golden:
    """A definition that holds together: its base exists and is of its release."""

    definition: Definition
    base: Base
    file: Path

    @property
    def digest(self) -> Digest:
        """Over what the definition says."""
        return "sha256:" + hashlib.sha256(self.definition.to_json()).hexdigest()


def names(book: Book) -> list[str]:
    """The names of all definitions."""
    return sorted({p.stem for f in book.folders for p in (f / "golden").glob("*.toml")})


def golden(settings: Settings, name: str) -> Golden:
    """The golden node `name`; NotFoundError where there is none, UsageError where it does not hold together."""
    book = Book.of(settings)
    file = next((p for f in book.folders if (p := f / "golden" / f"{name}.toml").is_file()), None)
    if file is None:
        raise NotFoundError(f"there is no golden node {name!r}", hint=_known(settings, names(book), name))
    definition = read_toml(file, Definition)
    if definition.name != file.stem:
        raise UsageError(f"name: must be {file.stem!r}, as the file is called", where=str(file))
    if any((f / "images" / f"{name}.toml").is_file() for f in book.folders):
        raise UsageError(
            f"name: a recipe is called {name!r}, too, and would make the same image", where=str(file)
        )
    base, _ = book.base(definition.base, named_in=file)
    for key in ("os", "release", "architecture"):
        mine, theirs = getattr(definition, key), getattr(base, key)
        if mine != theirs:
            raise UsageError(
                f"{key}: is {mine!r}, but the base {definition.base} has {theirs!r}", where=str(file)
            )
    return Golden(definition, base, file)


def _known(settings: Settings, known: list[str], wanted: str) -> str:
    near = difflib.get_close_matches(wanted, known, n=1)
    if near:
        return f"Did you mean {near[0]}?"
    folder = (settings.recipes or Path("RECIPES")) / "golden"
    return (
        f"Golden nodes: {', '.join(known)}"
        if known
        else f"Define one in {folder}/NAME.toml (docs/golden.md)."
    )
