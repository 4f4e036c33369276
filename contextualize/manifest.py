"""Signed manifests, as far as the guest acts upon them: an image's root hash, a layer's digest and declarations.

A manifest's declarations are read strictly, because what the guest doesn't know it can't honour; of the
rest only what is needed here is looked at, so that a manifest may say more than this guest knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Tuple

from contextualize.document import DIGEST, GUEST_PATH, NAME, VERSION, Fields, LayerName, read
from contextualize.errors import Refused

ENV_NAME = r"[A-Z][A-Z0-9_]{0,60}"
ENV_VALUE = r"[A-Za-z0-9 _./:,;=+@%~^!?(){}\[\]<>#*|&-]{0,1000}"
"""No quotes, `$`, backslash or control characters: the value means the same in a shell and in systemd."""
USER_NAME = r"[a-z_][a-z0-9_-]{0,30}"
INSIDE = r"[^\x00-\x1f\x7f/][^\x00-\x1f\x7f]{0,400}"
"""A path inside a layer, without a slash at its beginning."""


@dataclass(frozen=True)
class User:
    """An account without a password."""

    name: str
    uid: int
    home: str
    shell: str
    comment: str


@dataclass(frozen=True)
class EtcFile:
    """A file that is added below /etc; `source` is a path inside the layer."""

    path: str
    source: str
    mode: int


@dataclass(frozen=True)
class Declares:
    """All that a layer may do besides filling its prefix."""

    environment: Dict[str, str]
    users: Tuple[User, ...]
    services: Tuple[str, ...]
    files: Tuple[EtcFile, ...]


@dataclass(frozen=True)
class ImageManifest:
    """What the guest checks itself against."""

    name: str
    version: str
    root_hash: str


@dataclass(frozen=True)
class LayerManifest:
    """A version of a layer."""

    name: LayerName
    version: str
    prefix: str
    images: Tuple[str, ...]
    digest: str
    size: int
    declares: Declares


def image_manifest(data: bytes, where: str) -> ImageManifest:
    """Reads an image's manifest (schema kiosk.image/1)."""
    f = read(data, where)
    f.schema("kiosk.image/1")
    if not f.has("verity"):
        raise Refused(
            f"{where}: an imported image: it has no root hash that a guest could check itself against"
        )
    return ImageManifest(
        f.text("name", NAME),
        f.text("version", VERSION),
        f.fields("verity").text("root_hash", r"[0-9a-f]{64}"),
    )


def layer_manifest(data: bytes, where: str) -> LayerManifest:
    """Reads a layer's manifest (schema kiosk.layer/1)."""
    f = read(data, where)
    f.schema("kiosk.layer/1")
    artifact = f.fields("artifacts").fields("layer")
    return LayerManifest(
        LayerName(f.text("kind", "site|experiment"), f.text("owner", NAME), f.text("name", NAME)),
        f.text("version", VERSION),
        f.text("prefix", GUEST_PATH),
        f.texts("images", NAME, 100),
        artifact.text("digest", DIGEST),
        artifact.integer("size", 96, 1 << 46),
        declares(f.fields("declares")),
    )


def declares(f: Fields) -> Declares:
    """Reads a layer's declarations; unknown keys are refused."""
    found = Declares(
        f.pairs("environment", ENV_NAME, ENV_VALUE, 200),
        tuple(_user(item, f"{f.where}: users[{i}]") for i, item in enumerate(f.items("users", 1000))),
        f.texts("services", INSIDE, 100),
        tuple(_etc_file(item, f"{f.where}: files[{i}]") for i, item in enumerate(f.items("files", 1000))),
    )
    f.end()
    return found


def _user(item: object, where: str) -> User:
    f = Fields(item, where)
    found = User(
        f.text("name", USER_NAME),
        f.integer("uid", 200, 60000),
        f.text("home", GUEST_PATH) if f.has("home") else "/nonexistent",
        f.text("shell", GUEST_PATH) if f.has("shell") else "/usr/sbin/nologin",
        f.text("comment", r"[A-Za-z0-9 .,_()+-]{0,100}") if f.has("comment") else "",
    )
    f.end()
    return found


def _etc_file(item: object, where: str) -> EtcFile:
    f = Fields(item, where)
    found = EtcFile(
        f.text("path", GUEST_PATH),
        f.text("source", INSIDE),
        int(f.text("mode", "0644|0755"), 8) if f.has("mode") else 0o644,
    )
    f.end()
    return found
