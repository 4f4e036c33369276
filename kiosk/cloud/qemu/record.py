"""vm.json: what a VM was meant to be, written before anything is done for it."""

from __future__ import annotations

import fcntl
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from kiosk.cloud.context import Source
from kiosk.errors import VerificationError
from kiosk.model.base import Document
from kiosk.model.flavour import Flavour
from kiosk.model.names import ImageRef, LayerRef, Ref

Boot = Literal["uefi", "bios", "direct-kernel"]
Accel = Literal["kvm", "tcg"]
TAP = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$"
HOST_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
HOSTNAME = rf"^{HOST_LABEL}(?:\.{HOST_LABEL}){{0,10}}$"


class Record(Document):
    """A VM: its folder is named by `id`, and its processes and its guest know it by `uuid`. From the guest of an
    imported image no report is expected (`reports`)."""

    schema_: Literal["kiosk.vm/1"] = Field("kiosk.vm/1", alias="schema")
    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}$")]
    uuid: Annotated[str, StringConstraints(pattern=r"^[0-9a-f-]{36}$")]
    name: Annotated[str, StringConstraints(pattern=HOSTNAME, max_length=253)]
    image: str
    layers: tuple[str, ...]
    flavour: Flavour
    boot: Boot
    accel: Accel
    network: bool
    tap: Annotated[str, StringConstraints(pattern=TAP)] | None = None
    created: datetime
    lifetime: int | None = None
    reports: bool = True
    source: Source = "nocloud"

    @property
    def refs(self) -> tuple[Ref, ...]:
        """The versions in the host cache that this VM uses."""
        return (ImageRef.parse(self.image), *(LayerRef.parse(text) for text in self.layers))


class End(Document):
    """end.json: why kiosk gave a VM up. Its logs are kept until it is stopped."""

    stage: str | None = None
    reason: str


def read(folder: Path) -> Record:
    """The record of a VM's folder; VerificationError when there is none that fits."""
    path = folder / "vm.json"
    try:
        data = path.open("rb").read(1 << 20)
    except OSError as e:
        raise VerificationError(f"can't be read: {e.strerror}", where=str(path)) from None
    return Record.from_json(data, where=str(path))


def read_end(folder: Path) -> End | None:
    """Why kiosk gave the VM up, if it did."""
    path = folder / "end.json"
    try:
        return End.from_json(path.read_bytes(), where=str(path))
    except FileNotFoundError:
        return None
    except (OSError, VerificationError):
        return End(reason="end.json can't be read")


def starting(folder: Path) -> bool:
    """Whether a kiosk is still making this VM: then it holds the lock."""
    try:
        with (folder / "start.lock").open("rb") as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
