"""Floors: below which version of an image or a layer nothing may run any more, signed by those who sign the versions.

A floor stands beside a name's manifests (`floor.json`), and is found wherever they are: whoever hands a guest the
role's metadata can't keep the floor from it, because the metadata lists it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Optional, Protocol

from contextualize.document import LAYER_NAME, NAME, VERSION, LayerName, parts, read
from contextualize.errors import Refused
from contextualize.stages.report import plain

if TYPE_CHECKING:
    from contextualize.trust import Signed

SCHEMA = "kiosk.floor/1"
LINE = r"[^\x00-\x1f\x7f]{1,400}"


class Repository(Protocol):
    """Where signed targets are (contextualize.trust.Trust)."""

    def optional(self, path: str, role: str) -> Optional[Signed]:
        """A target that the role has signed; None where nobody lists it, Refused where that can't be told."""


class Floor(NamedTuple):
    """Versions of `name` below `below` were revoked, and why."""

    name: str
    below: str
    reason: str
    date: str


def floor(data: bytes, where: str) -> Floor:
    """Reads a floor; Refused when it is not one."""
    f = read(data, where)
    f.schema(SCHEMA)
    found = Floor(
        f.text("name", rf"{NAME}|{LAYER_NAME}"),
        f.text("below", VERSION),
        f.text("reason", LINE),
        f.text("date", LINE),
    )
    f.end()
    return found


def floor_of(repository: Repository, name: str) -> Optional[Floor]:
    """The signed floor of an image (NAME) or a layer (KIND/OWNER/NAME); None where it has none."""
    folder, role = (
        (f"layers/{name}", LayerName.parse(name).role) if "/" in name else (f"images/{name}", "images")
    )
    signed = repository.optional(f"{folder}/floor.json", role)
    if signed is None:
        return None
    found = floor(signed.data, signed.path)
    if found.name != name:
        raise Refused(f"{signed.path} is the floor of {found.name}")
    return found


def below_floor(floor: Optional[Floor], name: str, version: str) -> Optional[str]:
    """Why a version may not run any more; None where it may."""
    if floor is None or parts(version) >= parts(floor.below):
        return None
    return f"{name}@{version} was revoked: nothing below {floor.below} may run ({plain(floor.reason)})"
