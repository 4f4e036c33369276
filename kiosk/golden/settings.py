"""What a golden node's definition says about where it is: its `[source]` and its `[ready]` table.

    [source]
    kind = "qemu"
    monitor = "/run/golden/qmp.sock"
    agent = "/run/golden/qga.sock"

Unknown keys are errors. Sizes are in bytes, times in seconds, paths absolute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from kiosk.golden.capture import Format
from kiosk.model.base import Document

GIB = 1 << 30


def _absolute(path: Path) -> Path:
    text = str(path)
    if not path.is_absolute() or ".." in path.parts or not text.isprintable():
        raise ValueError("must be an absolute path of printable characters, without `..`")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
Argv = Annotated[tuple[Word, ...], Field(min_length=1, max_length=100)]
"""A program and its arguments; never a shell's line."""
Pattern = Annotated[str, StringConstraints(max_length=500, pattern=r"^/[^\x00-\x1f]+$")]
"""A path from the node's root, with `*`, `?` and `[...]`; `*` also stands for slashes."""
HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9:][A-Za-z0-9.:_-]{0,252}$")]
UserName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,31}$")]
BlockName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9#/][A-Za-z0-9#/._-]{0,200}$")]
Timeout = Annotated[float, Field(ge=1, le=7 * 86400)]
Speed = Annotated[int, Field(ge=1 << 16, le=1 << 44)]
Window = Annotated[float, Field(ge=0.5, le=60)]


class Live(Document):
    """What capturing a running VM has in common. `freeze` is demanded unless it is switched off; `window` is the
    longest that the node may stay frozen, `answer` how long its agent may take to answer."""

    freeze: bool = True
    window: Window = 10
    answer: Annotated[float, Field(ge=1, le=120)] = 10
    timeout: Timeout = 4 * 3600


class QemuSettings(Live):
    """A VM of QEMU: the sockets of its monitor (QMP, one that nobody else uses) and of its guest agent, and the
    disk by its node name, drive or device; without one, the only disk that can be written."""

    kind: Literal["qemu"]
    monitor: AbsolutePath
    agent: AbsolutePath | None = None
    disk: BlockName | None = None
    speed: Speed | None = None

    @model_validator(mode="after")
    def _agent_for_freeze(self) -> QemuSettings:
        if self.freeze and self.agent is None:
            raise ValueError(
                "freezing needs the socket of the guest agent: name `agent`, or say freeze = false"
            )
        return self


class LibvirtSettings(Live):
    """A domain of libvirt. `disk` is the target (vda); `folder` is where libvirt's QEMU may write the copy,
    for hosts on which it may not write into kiosk's own folder."""

    kind: Literal["libvirt"]
    uri: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9+]*://[\x21-\x7e]*$", max_length=500)] = (
        "qemu:///system"
    )
    domain: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+@ -]{0,127}$")]
    disk: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]{1,15}$")] | None = None
    folder: AbsolutePath | None = None


class DiskSettings(Document):
    """A disk that no VM writes: a file, a block device, a snapshot. `before` makes the snapshot and `after` drops
    it: `after` runs whenever `before` was begun. `backing` names the one backing file that a qcow2 may have."""

    kind: Literal["disk"]
    path: AbsolutePath
    format: Format
    backing: AbsolutePath | None = None
    backing_format: Format = "raw"
    before: Argv | None = None
    after: Argv | None = None
    timeout: Timeout = 4 * 3600

    @model_validator(mode="after")
    def _fits(self) -> DiskSettings:
        if self.format == "raw" and self.backing is not None:
            raise ValueError("a raw disk has no backing file")
        return self


class SshSettings(Document):
    """A physical node, read over ssh as `user`, who is root or becomes it with `sudo = true`. Its host key must
    be in `known_hosts`. `mounts` are the file systems to read; `exclude` is left out beside what is scratch
    anyway. `before` and `after` run in the node."""

    kind: Literal["ssh"]
    host: HostName
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    user: UserName = "root"
    identity: AbsolutePath
    known_hosts: AbsolutePath
    config: AbsolutePath | None = None
    sudo: bool = False
    mounts: Annotated[tuple[AbsolutePath, ...], Field(min_length=1, max_length=50)] = (Path("/"),)
    exclude: Annotated[tuple[Pattern, ...], Field(max_length=500)] = ()
    nice: bool = True
    speed: Speed | None = None
    max_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 44)] = 64 * GIB
    before: Argv | None = None
    after: Argv | None = None
    timeout: Timeout = 4 * 3600

    @model_validator(mode="after")
    def _mounts_are_one(self) -> SshSettings:
        if self.mounts[0] != Path("/"):
            raise ValueError("the first of mounts must be /")
        return self


AnySource = Annotated[
    QemuSettings | LibvirtSettings | DiskSettings | SshSettings, Field(discriminator="kind")
]


class Ready(Document):
    """How the node's configuration management is asked whether the node is up to date, before it is captured: a
    command of one's own (`run`), or a ready-made question by name (`ask`, see kiosk/golden/ready.toml). The
    status 0 means ready, anything else means no image. `where` says on which machine it runs."""

    run: Argv | None = None
    ask: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,40}$")] | None = None
    where: Literal["node", "builder"] = "node"
    timeout: Annotated[float, Field(ge=1, le=86400)] = 300

    @model_validator(mode="after")
    def _one_question(self) -> Ready:
        if (self.run is None) == (self.ask is None):
            raise ValueError("either `run` or `ask` is needed")
        return self
