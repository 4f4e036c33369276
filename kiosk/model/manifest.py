"""Manifests: what a version of an image or a layer is, to the byte. The signed targets of the repository.

A build writes a folder `NAME/VERSION/` with `manifest.json` and the files that it names; publishing cuts
those files into objects and signs the manifest with each artifact's index filled in. From then on the
manifest vouches for every byte, wherever the bytes come from.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from kiosk.model.accounts import AccountName
from kiosk.model.base import Digest, Document, Size
from kiosk.model.names import ImageRef, LayerKind, LayerRef, Name, Version, VersionText

FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
GuestPath = Annotated[str, StringConstraints(pattern=r"^/[^\x00-\x1f]{0,400}$")]
AccountId = Annotated[int, Field(ge=200, le=60000)]
SystemName = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,30}$")]
Switch = Literal["hooks", "user-data", "root-login", "farm"]


class Object(Document):
    """Stored bytes, named by digest."""

    digest: Digest
    size: Size


class Difference(Document):
    """A shorter way to a file for a host that holds the file with the digest `base`: the object that lists
    the difference's groups, and how many bytes those have together."""

    base: Digest
    groups: Object
    size: Size


class Artifact(Document):
    """A file of a version: its name in the version's folder, size in bytes, digest, and, once published,
    the object that holds the index from which a store rebuilds it, and differences to older files. `regions` is
    the digest of its regions' digests (docs/format.md): who made `digest` in the same pass has vouched for both."""

    file: FileName
    size: Size
    digest: Digest
    regions: Digest | None = None
    index: Object | None = None
    differences: Annotated[tuple[Difference, ...], Field(max_length=16)] = ()


class Torrent(Document):
    """The swarm in which a version's objects are shared: its BitTorrent v2 infohash, and the object that is its
    .torrent file."""

    infohash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    file: Object


class Partition(Document):
    """One partition of the disk; offset and size in bytes, type and uuid as GPT writes them."""

    label: str
    type: str
    uuid: str
    offset: Size
    size: Size


class Verity(Document):
    """dm-verity over the root partition (see veritysetup(8)); `data` and `hash` are partition labels."""

    root_hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    salt: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]*$")]
    data: str
    hash: str


class Source(Document):
    """What an image was made from. `date` is SOURCE_DATE_EPOCH, seconds; `tree` the digest of the tree.

    An imported image has the digest of the file that was given, and as `tree` that of its disk.
    """

    kind: Literal["recipe", "golden-node", "import"]
    name: str
    digest: Digest
    tree: Digest
    date: int


class LayerPolicy(Document):
    """What layers may do to this image: the /etc paths (fnmatch patterns) that they may add files under,
    and whether they may declare users, services, environment variables, and something for CVMFS. `allows` is what
    a site's layer may let contexts do, `experiment_ids` the first and the last number of experiments' users and groups,
    and `sites` those whose layers it takes (none: all)."""

    etc: tuple[str, ...] = ()
    users: bool = True
    services: bool = True
    environment: bool = True
    cvmfs: bool = True
    allows: tuple[Switch, ...] = ("hooks", "user-data", "root-login", "farm")
    experiment_ids: tuple[AccountId, AccountId] = (50000, 59999)
    sites: tuple[Name, ...] = ()


class AuditException(Document):
    """A finding of the audit that is accepted in this image: the check's name, the path in the image (an fnmatch
    pattern), and the reason, which is published with the image."""

    check: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{1,60}$")]
    path: GuestPath
    reason: Annotated[str, StringConstraints(min_length=10, max_length=400, pattern=r"^[^\x00-\x1f]*$")]


class ImageManifest(Document):
    """A version of an image. `artifacts` has at least disk, kernel, initrd, packages, files. `accounts` are people's
    accounts (uid from 1000 on) that it has, `exceptions` what its audit accepts.

    An imported image is kept as it came: it has a disk, and no kernel, initrd, verity or command line.
    """

    schema_: Literal["kiosk.image/1"] = Field("kiosk.image/1", alias="schema")
    name: Name
    version: VersionText
    description: str = ""
    architecture: Literal["x86_64"]
    os: str
    release: str
    created: datetime
    source: Source
    partitions: tuple[Partition, ...]
    verity: Verity | None = None
    cmdline: str = ""
    policy: LayerPolicy
    accounts: Annotated[tuple[AccountName, ...], Field(max_length=1000)] = ()
    exceptions: Annotated[tuple[AuditException, ...], Field(max_length=200)] = ()
    artifacts: dict[FileName, Artifact]
    torrent: Torrent | None = None

    @property
    def ref(self) -> ImageRef:
        """Its name and version."""
        return ImageRef(self.name, Version.parse(self.version))

    @property
    def imported(self) -> bool:
        """Whether it came from elsewhere: then kiosk's agent is not in it, and it reports nothing."""
        return self.source.kind == "import"

    @model_validator(mode="after")
    def _whole(self) -> ImageManifest:
        if self.verity is None and not self.imported:
            raise ValueError("only an imported image is without verity")
        return self


class Sparse(Document):
    """A document without those of its fields that came later (`LATER`) where they are at their default: guests
    that don't know them refuse them, and have no need to where nothing is asked of them."""

    @model_serializer(mode="wrap")
    def _without_later(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        later = [
            n
            for n in LATER
            if n in fields and getattr(self, n) == fields[n].get_default(call_default_factory=True)
        ]
        return {k: v for k, v in value.items() if k not in later}


LATER = ("groups", "cvmfs", "allows", "health", "farms")


class Group(Document):
    """A group that a layer declares."""

    name: SystemName
    gid: AccountId


class User(Sparse):
    """An account that a layer declares. It has no password; system accounts stay below 1000. `groups` are groups
    that the same layer declares."""

    name: SystemName
    uid: AccountId
    home: GuestPath = "/nonexistent"
    shell: GuestPath = "/usr/sbin/nologin"
    comment: str = ""
    groups: tuple[SystemName, ...] = ()


class EtcFile(Document):
    """A file below /etc that a layer adds; `source` is a path inside the layer."""

    path: GuestPath
    source: str
    mode: Literal["0644", "0755"] = "0644"


class Cvmfs(Document):
    """What the CVMFS client is told (as CVMFS_REPOSITORIES, CVMFS_HTTP_PROXY, CVMFS_QUOTA_LIMIT). Only a site says
    more than repositories."""

    repositories: tuple[str, ...] = ()
    http_proxy: str | None = None
    quota_mb: int | None = None


class FarmSettings(Document):
    """A farm that a site's machines may join: the driver, and settings that no context can change."""

    kind: Annotated[str, StringConstraints(pattern=r"^[a-z]{1,20}$")]
    settings: dict[str, str] = Field({})


class Declarations(Sparse):
    """All that a layer may do besides filling its prefix. `services` are unit files inside the layer, `health`
    programs inside it that fail where the machine must take no more jobs; `allows` and `farms` are a site's."""

    environment: dict[Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,60}$")], str] = Field({})
    users: tuple[User, ...] = ()
    services: tuple[str, ...] = ()
    files: tuple[EtcFile, ...] = ()
    groups: tuple[Group, ...] = ()
    cvmfs: Cvmfs | None = None
    allows: tuple[Switch, ...] = ()
    health: tuple[str, ...] = ()
    farms: dict[Name, FarmSettings] = Field({})


class LayerVerity(Document):
    """dm-verity over a layer's image: SHA-256, blocks of 4096 bytes, no superblock. The tree stands behind the data,
    in the same file, from block `hash_start` on."""

    root_hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    salt: Annotated[str, StringConstraints(pattern=r"^(?:[0-9a-f]{2}){1,32}$")]
    data_blocks: Annotated[int, Field(ge=2, le=1 << 34)]
    hash_start: Annotated[int, Field(ge=2, le=1 << 34)]


class LayerManifest(Document):
    """A version of a layer. `artifacts` has `layer`: the read-only SquashFS image, with its hash tree behind it
    where there is `verity`."""

    schema_: Literal["kiosk.layer/1"] = Field("kiosk.layer/1", alias="schema")
    kind: LayerKind
    owner: Name
    name: Name
    version: VersionText
    description: str = ""
    created: datetime
    prefix: GuestPath
    images: tuple[Name, ...]
    declares: Declarations
    verity: LayerVerity | None = None
    artifacts: dict[FileName, Artifact]
    torrent: Torrent | None = None

    @property
    def ref(self) -> LayerRef:
        """Its kind, owner, name and version."""
        return LayerRef(self.kind, self.owner, self.name, Version.parse(self.version))


Manifest = ImageManifest | LayerManifest


def read_manifest(data: bytes, *, where: str) -> Manifest:
    """Reads either kind by its schema; VerificationError when it is neither."""
    kind = LayerManifest if b'"kiosk.layer/1"' in data else ImageManifest
    return kind.from_json(data, where=where)
