"""Names: images, layers, versions; where their manifests stand in the repository and which role signs them.

    debian-12-worker@20260301.1        an image        images/debian-12-worker/20260301.1.json
    site/cern/batch@4                  a site layer    layers/site/cern/batch/4.json
    experiment/atlas/software@2.1      an experiment's layers/experiment/atlas/software/2.1.json

Beside a name's manifests stands `history.json`, once versions of it were withdrawn, and `floor.json`, once versions
were revoked.

A name without `@VERSION` means the newest version. Versions are dotted numbers and compare as numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Annotated, Literal

from pydantic import StringConstraints

from kiosk.errors import UsageError

NAME = r"[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?"
VERSION = r"(?:0|[1-9][0-9]{0,13})(?:\.(?:0|[1-9][0-9]{0,8})){0,3}"
HISTORY = "history.json"
FLOOR = "floor.json"
Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
VersionText = Annotated[str, StringConstraints(pattern=f"^{VERSION}$")]
LayerKind = Literal["site", "experiment"]


@total_ordering
@dataclass(frozen=True)
class Version:
    """A dotted number, such as 20260301.1; 1.2 is below 1.10 and 1.2.0 is above 1.2."""

    parts: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Version:
        """Reads a version; UsageError when it is not one."""
        if not re.fullmatch(VERSION, text):
            raise UsageError(f"{text!r} is not a version", hint="A version is a dotted number: 20260301.1")
        return cls(tuple(int(p) for p in text.split(".")))

    def __str__(self) -> str:
        return ".".join(map(str, self.parts))

    def __lt__(self, other: Version) -> bool:
        return self.parts < other.parts


@dataclass(frozen=True)
class ImageRef:
    """An image by name, and a version or None for the newest."""

    name: str
    version: Version | None = None

    @classmethod
    def parse(cls, text: str) -> ImageRef:
        """Reads NAME or NAME@VERSION; UsageError when it is neither."""
        name, _, version = text.partition("@")
        if not re.fullmatch(NAME, name):
            raise UsageError(
                f"{text!r} is not an image name",
                hint="Write NAME or NAME@VERSION: debian-12-worker@20260301.1",
            )
        return cls(name, Version.parse(version) if "@" in text else None)

    def __str__(self) -> str:
        return self.base if self.version is None else f"{self.base}@{self.version}"

    @property
    def base(self) -> str:
        """The name without the version."""
        return self.name

    @property
    def folder(self) -> str:
        """Where its manifests stand in the repository, with a slash at the end."""
        return f"images/{self.name}/"

    @property
    def role(self) -> str:
        """The delegated role that signs it."""
        return "images"


@dataclass(frozen=True)
class LayerRef:
    """A layer by kind, owner (the site or the experiment), name, and a version or None for the newest."""

    kind: LayerKind
    owner: str
    name: str
    version: Version | None = None

    @classmethod
    def parse(cls, text: str) -> LayerRef:
        """Reads KIND/OWNER/NAME[@VERSION]; UsageError when it is not a layer's name."""
        path, _, version = text.partition("@")
        words = path.split("/")
        if (
            len(words) != 3
            or words[0] not in ("site", "experiment")
            or not all(re.fullmatch(NAME, w) for w in words[1:])
        ):
            raise UsageError(
                f"{text!r} is not a layer name",
                hint="Write site/SITE/NAME or experiment/VO/NAME, with @VERSION if you want an older one",
            )
        kind: LayerKind = "site" if words[0] == "site" else "experiment"
        return cls(kind, words[1], words[2], Version.parse(version) if "@" in text else None)

    def __str__(self) -> str:
        return self.base if self.version is None else f"{self.base}@{self.version}"

    @property
    def base(self) -> str:
        """The name without the version."""
        return f"{self.kind}/{self.owner}/{self.name}"

    @property
    def folder(self) -> str:
        """Where its manifests stand in the repository, with a slash at the end."""
        return f"layers/{self.base}/"

    @property
    def role(self) -> str:
        """The delegated role that signs it."""
        return f"{self.kind}-{self.owner}"

    @property
    def prefix(self) -> str:
        """The only folder of the guest that the layer may fill."""
        return "/opt/site" if self.kind == "site" else f"/opt/experiment/{self.owner}"


Ref = ImageRef | LayerRef


def parse_ref(text: str) -> Ref:
    """An image or a layer: layers have slashes in their names."""
    return LayerRef.parse(text) if "/" in text else ImageRef.parse(text)


def with_version(ref: Ref, version: Version) -> Ref:
    """The same image or layer at one version."""
    if isinstance(ref, ImageRef):
        return ImageRef(ref.name, version)
    return LayerRef(ref.kind, ref.owner, ref.name, version)


def manifest_path(ref: Ref) -> str:
    """The target path of a version's manifest. The reference must have a version."""
    assert ref.version is not None
    return f"{ref.folder}{ref.version}.json"


def history_path(ref: Ref) -> str:
    """The target path of what is remembered of a name's withdrawn versions."""
    return f"{ref.folder}{HISTORY}"


def is_history_path(path: str) -> bool:
    """Whether a target path is that of a history, of whatever name."""
    return path.endswith(f"/{HISTORY}")


def floor_path(ref: Ref) -> str:
    """The target path of the version below which a name was revoked."""
    return f"{ref.folder}{FLOOR}"


def is_floor_path(path: str) -> bool:
    """Whether a target path is that of a floor, of whatever name."""
    return path.endswith(f"/{FLOOR}")


def parse_floor_path(path: str) -> Ref | None:
    """The image or layer whose floor stands at a target path, or None where it is something else."""
    found = parse_manifest_path(f"{path.removesuffix(FLOOR)}0.json") if is_floor_path(path) else None
    return None if found is None else parse_ref(found.base)


def parse_manifest_path(path: str) -> Ref | None:
    """The image or layer whose manifest stands at a target path, or None where it is something else."""
    words = path.removesuffix(".json").split("/")
    if not path.endswith(".json") or not re.fullmatch(VERSION, words[-1]):
        return None
    try:
        if words[0] == "images" and len(words) == 3:
            return ImageRef.parse(f"{words[1]}@{words[2]}")
        if words[0] == "layers" and len(words) == 5:
            return LayerRef.parse(f"{words[1]}/{words[2]}/{words[3]}@{words[4]}")
    except UsageError:
        return None
    return None
