"""HEPiX image lists: the JSON inside a signed message, read strictly in what kiosk uses and leniently in the rest.

The names of the fields are those of the HEPiX working group's list (`hv:`, `dc:`, `sl:`, `ad:`). Texts from a list
are shown without anything that a terminal would act upon.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from kiosk.cloud.untrusted import line
from kiosk.errors import ExpiredError, VerificationError
from kiosk.model.base import explain

DATE = "%Y-%m-%dT%H:%M:%SZ"
MOST_IMAGES = 2000
AHEAD = timedelta(minutes=5)
"""How far a list's date may be ahead of this machine's clock."""


def _text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _shown(value: object) -> object:
    value = _text(value)
    return line(value, limit=2000) if isinstance(value, str) else value


def _date(value: object) -> object:
    if not isinstance(value, str):
        return value
    return datetime.strptime(value, DATE).replace(tzinfo=UTC)


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,20}", value) else value


Shown = Annotated[str, BeforeValidator(_shown)]
Date = Annotated[datetime, BeforeValidator(_date)]
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$")]
VersionWords = Annotated[
    str, BeforeValidator(_text), StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:+/,~-]{0,59}$")
]
Uri = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,2000}$")]
Sha512 = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{128}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class Image(_Part):
    """One image of a list. `size` and `sha512` are those of the file at `uri`, as it is fetched."""

    identifier: Identifier = Field(alias="dc:identifier")
    title: Shown = Field(alias="dc:title")
    description: Shown = Field("", alias="dc:description")
    version: VersionWords = Field(alias="hv:version")
    uri: Uri = Field(alias="hv:uri")
    size: Annotated[int, BeforeValidator(_number), Field(gt=0, le=1 << 46)] = Field(alias="hv:size")
    sha512: Sha512 = Field(alias="sl:checksum:sha512")
    arch: Shown = Field(alias="sl:arch")
    os: Shown = Field("", alias="sl:os")
    os_name: Shown = Field("", alias="sl:osname")
    os_version: Shown = Field("", alias="sl:osversion")
    format: Shown | None = Field(None, alias="hv:format")
    hypervisor: Shown = Field("", alias="hv:hypervisor")
    comments: Shown = Field("", alias="sl:comments")


class _X509(_Part):
    dn: str = Field(alias="hv:dn")
    ca: str = Field(alias="hv:ca")
    creator: Shown = Field("", alias="dc:creator")
    email: Shown = Field("", alias="hv:email")


class _Endorser(_Part):
    x509: _X509 = Field(alias="hv:x509")


class _Entry(_Part):
    image: Image = Field(alias="hv:image")


class ImageList(_Part):
    """A list: which one (`identifier`), which version of it, valid until when, endorsed by whom, and its images."""

    identifier: Identifier = Field(alias="dc:identifier")
    version: VersionWords = Field(alias="hv:version")
    created: Date = Field(alias="dc:date:created")
    expires: Date = Field(alias="dc:date:expires")
    title: Shown = Field("", alias="dc:title")
    description: Shown = Field("", alias="dc:description")
    source: Shown = Field("", alias="dc:source")
    uri: Shown = Field("", alias="hv:uri")
    vo: Shown = Field("", alias="ad:vo")
    endorser: _Endorser = Field(alias="hv:endorser")
    entries: Annotated[tuple[_Entry, ...], Field(max_length=MOST_IMAGES)] = Field(alias="hv:images")

    @property
    def images(self) -> tuple[Image, ...]:
        """The images, in the list's order."""
        return tuple(entry.image for entry in self.entries)

    @property
    def dn(self) -> str:
        """The endorser's distinguished name, as the list says it."""
        return self.endorser.x509.dn

    @property
    def ca(self) -> str:
        """That of the endorser's authority."""
        return self.endorser.x509.ca


class _Document(_Part):
    content: ImageList = Field(alias="hv:imagelist")


def read_list(content: bytes, *, where: str) -> ImageList:
    """Reads what was signed; VerificationError naming the field when it is no image list."""
    try:
        found = _Document.model_validate_json(content).content
    except ValidationError as e:
        raise VerificationError(f"is not an image list: {explain(e)}", where=where) from None
    named = [image.identifier for image in found.images]
    if len(named) != len(set(named)):
        raise VerificationError("has two images of one identifier", where=where)
    return found


def refuse_dates(found: ImageList, now: datetime, *, where: str) -> None:
    """ExpiredError for a list past its date, VerificationError for one from the future."""
    if now > found.expires:
        raise ExpiredError(
            f"version {found.version} has expired on {found.expires:%Y-%m-%d %H:%M} UTC",
            where=where,
            hint="Its endorser signs a new one from time to time; fetch the list again.",
        )
    if found.created > now + AHEAD:
        raise VerificationError(
            f"was made on {found.created:%Y-%m-%d %H:%M} UTC, which is in the future",
            where=where,
            hint="Is this machine's clock right?",
        )


def order_of(version: str) -> tuple[Any, ...]:
    """What versions of lists are compared by: numbers as numbers, and a number is above a word."""
    return tuple(
        (1, int(w), "") if w.isdecimal() else (0, 0, w) for w in re.findall(r"[0-9]+|[A-Za-z]+", version)
    )
