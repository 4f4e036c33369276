"""What the configuration says about handing over: `[[handover]]` tables, each with a kind.

    [[handover]]
    kind = "files"
    folder = "/srv/images"
    images = ["debian-12-*"]

Unknown keys are errors. Paths are absolute, times in seconds.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from kiosk.config import Settings, read_agent
from kiosk.model.base import Document
from kiosk.model.names import ImageRef, Ref


def _absolute(path: Path) -> Path:
    if not path.is_absolute() or ".." in path.parts or not str(path).isprintable():
        raise ValueError("must be an absolute path of printable characters, without `..`")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Pattern = Annotated[str, StringConstraints(pattern=r"^[a-z0-9*?\[\]!-]{1,100}$")]
Word = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
LvmName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,126}$")]
Event = Literal[
    "ProcessPrefix",
    "AvailablePrefix",
    "AvailablePostfix",
    "ProcessPostfix",
    "ExpirePrefix",
    "ExpirePostfix",
]
Mode = Literal["copy", "overlay"]


class Table(Document):
    """What all kinds have: the images that they take, by patterns of their names. Layers are never handed over."""

    images: Annotated[tuple[Pattern, ...], Field(min_length=1, max_length=200)] = ("*",)

    def takes(self, ref: Ref) -> bool:
        """Whether an image is for this table."""
        return isinstance(ref, ImageRef) and any(fnmatchcase(ref.name, p) for p in self.images)


class CopiesTable(Table):
    """Copies (their blocks shared where the file system can) as raw or qcow2, or overlays, which are small and stand on
    the cache. `watch` names folders with disks of VMs that may be built on them."""

    mode: Mode = "copy"
    format: Literal["raw", "qcow2"] = "raw"
    watch: Annotated[tuple[AbsolutePath, ...], Field(max_length=50)] = ()


class FilesTable(CopiesTable):
    """Files in a folder."""

    kind: Literal["files"]
    folder: AbsolutePath


class LibvirtTable(CopiesTable):
    """The same in the folder of a libvirt pool (of the type dir), as volumes. Disks of VMs are those of all domains."""

    kind: Literal["libvirt"]
    uri: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9+]*://[\x21-\x7e]*$", max_length=500)] = (
        "qemu:///system"
    )
    pool: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,127}$")]


class LvmTable(Table):
    """Logical volumes in a volume group; thin ones where `thin_pool` names a pool in it."""

    kind: Literal["lvm"]
    group: LvmName
    thin_pool: LvmName | None = None


class OpenNebulaTable(Table):
    """What OpenNebula's probe prints on this host, for the transfer driver in `server/opennebula`. `attributes` is the
    file that the probe reads (by default `opennebula.attributes` in the cache); below `datastores` are VMs' disks."""

    kind: Literal["opennebula"]
    datastores: AbsolutePath = Path("/var/lib/one/datastores")
    attributes: AbsolutePath | None = None


class HookTable(Table):
    """A program that is told of events as vmcatcher tells its handlers. `run` is its argument list, never a shell's."""

    kind: Literal["hook"]
    run: Annotated[tuple[Word, ...], Field(min_length=1, max_length=100)]
    timeout: Annotated[float, Field(ge=1, le=86400)] = 60
    events: Annotated[tuple[Event, ...], Field(min_length=1)] = (
        "ProcessPrefix",
        "AvailablePrefix",
        "AvailablePostfix",
        "ProcessPostfix",
        "ExpirePrefix",
        "ExpirePostfix",
    )


AnyTable = Annotated[
    FilesTable | LibvirtTable | LvmTable | OpenNebulaTable | HookTable, Field(discriminator="kind")
]
Tables = Annotated[tuple[AnyTable, ...], Field(max_length=50)]


class TablesOnly(BaseModel):
    """Of an agent's configuration only these tables; whatever else it has is the agent's business."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    handover: Tables = ()


def read_tables(settings: Settings, path: Path | None = None) -> tuple[AnyTable, ...]:
    """The tables of the agent's configuration: of the file that is named, else of the agent's own. UsageError."""
    return read_agent(settings, TablesOnly, path)[0].handover
