"""Signed manifests, as far as the guest acts upon them: an image's root hash, a layer's digest and declarations.

A manifest's declarations are read strictly, because what the guest doesn't know it can't honour; of the
rest only what is needed here is looked at, so that a manifest may say more than this guest knows.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Dict, Mapping, NamedTuple, Optional, Tuple

from contextualize.document import (
    DIGEST,
    FARM_KIND,
    GUEST_PATH,
    NAME,
    SETTING,
    SETTING_VALUE,
    SWITCHES,
    VERSION,
    Fields,
    LayerName,
    read,
)
from contextualize.errors import Refused

ENV_NAME = r"[A-Z][A-Z0-9_]{0,60}"
ENV_VALUE = r"[A-Za-z0-9 _./:,;=+@%~^!?(){}\[\]<>#*|&-]{0,1000}"
"""No quotes, `$`, backslash or control characters: the value means the same in a shell and in systemd."""
USER_NAME = r"[a-z_][a-z0-9_-]{0,30}"
INSIDE = r"[^\x00-\x1f\x7f/][^\x00-\x1f\x7f]{0,400}"
"""A path inside a layer, without a slash at its beginning."""
REPOSITORY = r"[a-z0-9](?:[a-z0-9-]{0,60}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,60}[a-z0-9])?){1,6}"
"""A CVMFS repository, such as software.example.org."""
PROXIES = r"(?:DIRECT|https?://[A-Za-z0-9._\[\]:-]{1,260})(?:[|;](?:DIRECT|https?://[A-Za-z0-9._\[\]:-]{1,260})){0,31}"
"""Proxies as CVMFS has them: `|` balances among those of a group, `;` begins the next group."""
BLOCK = 4096


class Group(NamedTuple):
    """A group of accounts."""

    name: str
    gid: int


class User(NamedTuple):
    """An account without a password, with a group of its own name and number, and the layer's groups that it is
    in besides."""

    name: str
    uid: int
    home: str
    shell: str
    comment: str
    groups: Tuple[str, ...] = ()


class EtcFile(NamedTuple):
    """A file that is added below /etc; `source` is a path inside the layer."""

    path: str
    source: str
    mode: int


class Cvmfs(NamedTuple):
    """What the CVMFS client is told: repositories to mount, the site's proxies, and the cache's size in MB."""

    repositories: Tuple[str, ...] = ()
    http_proxy: Optional[str] = None
    quota_mb: Optional[int] = None


class FarmSettings(NamedTuple):
    """A farm that machines of the site may join: the driver, and settings that no context can change."""

    kind: str
    settings: Dict[str, str]


class Declares(NamedTuple):
    """All that a layer may do besides filling its prefix. `services` and `health` are paths inside the layer."""

    environment: Dict[str, str]
    users: Tuple[User, ...]
    services: Tuple[str, ...]
    files: Tuple[EtcFile, ...]
    groups: Tuple[Group, ...] = ()
    cvmfs: Optional[Cvmfs] = None
    allows: Tuple[str, ...] = ()
    health: Tuple[str, ...] = ()
    farms: Mapping[str, FarmSettings] = MappingProxyType({})


Declared = Tuple[LayerName, Declares]
"""A layer, and what it declares."""


class Verity(NamedTuple):
    """The layer's dm-verity tree: SHA-256 over blocks of 4096 bytes, without a superblock. The tree stands in the
    same file from block `hash_start` on, behind `data_blocks` blocks of data."""

    root_hash: str
    salt: str
    data_blocks: int
    hash_start: int


class ImageManifest(NamedTuple):
    """What the guest checks itself against."""

    name: str
    version: str
    root_hash: str


class LayerManifest(NamedTuple):
    """A version of a layer."""

    name: LayerName
    version: str
    prefix: str
    images: Tuple[str, ...]
    digest: str
    size: int
    declares: Declares
    verity: Optional[Verity] = None


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
    size = artifact.integer("size", 96, 1 << 46)
    return LayerManifest(
        LayerName(f.text("kind", "site|experiment"), f.text("owner", NAME), f.text("name", NAME)),
        f.text("version", VERSION),
        f.text("prefix", GUEST_PATH),
        f.texts("images", NAME, 100),
        artifact.text("digest", DIGEST),
        size,
        declares(f.fields("declares")),
        verity(f.fields("verity"), size) if f.has("verity") else None,
    )


def verity(f: Fields, size: int) -> Verity:
    """Reads the parameters of a dm-verity tree, which must lie in a file of `size` bytes, behind its data."""
    found = Verity(
        f.text("root_hash", r"[0-9a-f]{64}"),
        f.text("salt", r"(?:[0-9a-f]{2}){1,32}"),
        f.integer("data_blocks", 2, 1 << 34),
        f.integer("hash_start", 2, 1 << 34),
    )
    if not found.data_blocks <= found.hash_start < size // BLOCK:
        f.fault("hash_start", "is not behind the data, inside the image")
    f.end()
    return found


def declares(f: Fields) -> Declares:
    """Reads a layer's declarations; unknown keys are refused."""
    found = Declares(
        f.pairs("environment", ENV_NAME, ENV_VALUE, 200),
        tuple(_user(item, f"{f.where}: users[{i}]") for i, item in enumerate(f.items("users", 1000))),
        f.texts("services", INSIDE, 100),
        tuple(_etc_file(item, f"{f.where}: files[{i}]") for i, item in enumerate(f.items("files", 1000))),
        tuple(_group(item, f"{f.where}: groups[{i}]") for i, item in enumerate(f.items("groups", 1000))),
        _cvmfs(f.fields("cvmfs")) if f.has("cvmfs") else None,
        f.texts("allows", "|".join(SWITCHES), 10),
        f.texts("health", INSIDE, 20),
        _farms(f.fields("farms")) if f.has("farms") else {},
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
        f.texts("groups", USER_NAME, 30),
    )
    f.end()
    return found


def _group(item: object, where: str) -> Group:
    f = Fields(item, where)
    found = Group(f.text("name", USER_NAME), f.integer("gid", 200, 60000))
    f.end()
    return found


def _cvmfs(f: Fields) -> Cvmfs:
    found = Cvmfs(
        f.texts("repositories", REPOSITORY, 100),
        f.text("http_proxy", PROXIES) if f.has("http_proxy") else None,
        f.integer("quota_mb", 100, 1 << 30) if f.has("quota_mb") else None,
    )
    f.end()
    return found


def _farms(f: Fields) -> Dict[str, FarmSettings]:
    found = {}
    for name in f.names(NAME, 50):
        farm = f.fields(name)
        found[name] = FarmSettings(
            farm.text("kind", FARM_KIND), farm.pairs("settings", SETTING, SETTING_VALUE, 50)
        )
        farm.end()
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
