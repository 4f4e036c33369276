"""The scheduler's configuration: /etc/kiosk/scheduler.toml, read strictly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from kiosk.config import read_toml
from kiosk.model.flavour import Flavour
from kiosk.model.names import ImageRef, LayerRef
from kiosk.scheduler.model import Capacity, NodeType

FILE = Path("/etc/kiosk/scheduler.toml")
UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/@+-]{1,100}$")]
TypeName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]


def _seconds(value: object) -> object:
    """A length of time as `90 s`, `5 min`, `24 h`, `7 d`, or a number of seconds."""
    found = re.fullmatch(r"([0-9]{1,9}) ?(s|min|h|d)", value) if isinstance(value, str) else None
    if isinstance(value, str) and not found:
        raise ValueError("is not a length of time such as 90 s, 5 min, 24 h, 7 d")
    return int(found[1]) * UNITS[found[2]] if found else value


def _image(text: str) -> str:
    if ImageRef.parse(text).version is not None:
        raise ValueError("has a version: the newest that is offered is taken")
    return text


def _layer(text: str) -> str:
    if LayerRef.parse(text).version is not None:
        raise ValueError("has a version: the newest that is offered is taken")
    return text


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=366 * 86400)]
AtOnce = Annotated[
    str,
    StringConstraints(pattern=r"^([0-9]{1,6}|[0-9]{1,2}%|100%)$"),
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
]
ImageName = Annotated[str, AfterValidator(_image)]
LayerName = Annotated[str, AfterValidator(_layer)]


class Table(BaseModel):
    """A table of the file: an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Offers(Table):
    """What jobs find on the nodes of a type."""

    tags: frozenset[Word] = frozenset()
    values: dict[Word, Word] = {}


class TypeTable(Table):
    """`[types.NAME]`: `slots` is the flavour's cores where it is not said, `memory` (MiB) nine tenths of its memory.
    `max_unavailable` is a number of nodes or a share such as `10%`; `lifetime` that of its VMs; `context` is a
    file with what their context says besides (`kiosk context check`): the farm to join, and its secrets. Idle nodes
    are kept for as long as was learned to pay, and for `keep` at the most where that is said."""

    image: ImageName
    layers: tuple[LayerName, ...] = ()
    flavour: str
    slots: Annotated[int, Field(ge=1, le=4096)] | None = None
    memory: Annotated[int, Field(ge=1)] | None = None
    minimum: Annotated[int, Field(ge=0, le=100_000)] = 0
    maximum: Annotated[int, Field(ge=0, le=100_000)]
    lifetime: Seconds = 86400.0
    keep: Seconds | None = None
    max_unavailable: AtOnce = "10%"
    offers: Offers = Offers()
    context: Path | None = None

    def node_type(self, name: str, flavours: dict[str, str] | None = None) -> NodeType:
        """As the scheduler's core has it; UsageError where the flavour is none."""
        flavour = Flavour.parse(self.flavour, flavours)
        share = self.max_unavailable.removesuffix("%")
        at_once = int(share) if share == self.max_unavailable else self.maximum * int(share) // 100
        return NodeType(
            name, self.image, self.layers, flavour, self.slots or flavour.cores,
            self.memory or flavour.memory * 1024 * 9 // 10, self.minimum, self.maximum, self.lifetime, max(1, at_once),
            self.offers.tags, frozenset(self.offers.values.items()), self.keep,
        )  # fmt: skip


class Rule(Table):
    """`[[rules]]`: the first that fits a job says which types may serve it, in the order of preference. A rule fits
    where all that it names does: `queue`, `user`, `group` (shell patterns), `text` (a regular expression, searched in
    the resource string), `tags` and `values` that the job asks for. `answers` are tags, and keys of values, that need
    not be among what the type offers, since the rule answers for them."""

    queue: str | None = None
    user: str | None = None
    group: str | None = None
    text: Annotated[str, StringConstraints(max_length=500)] | None = None
    tags: frozenset[Word] = frozenset()
    values: dict[Word, Word] = {}
    types: Annotated[tuple[TypeName, ...], Field(min_length=1)]
    answers: frozenset[Word] = frozenset()


class BatchTable(Table):
    """`[batch]`: which batch system, where its commands are (`commands`, a folder; else PATH), and for LSF the folder
    of its event log (`events`), which then is followed instead of asking. `workload` is kiosk's own, without a batch
    system: the jobs of `file` run in the VMs (docs/scheduler-workload.md). With `plan`, a file of `kiosk scheduler
    plan`, nothing is asked at all."""

    system: Literal["lsf", "slurm", "workload"]
    commands: Path | None = None
    events: Path | None = None
    file: Path | None = None
    timeout: Seconds = 60.0
    plan: Path | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.system != "workload" and self.file is not None:
            raise ValueError(f'`file` is of the system "workload", and the system is "{self.system}"')
        if self.system == "workload" and self.file is None:
            raise ValueError('the system "workload" needs `file`, the file with its jobs')
        if self.system == "workload" and (self.commands is not None or self.events is not None):
            raise ValueError('the system "workload" has neither `commands` nor `events`')
        return self


class CloudTable(Table):
    """`[cloud]`: where VMs run. `prefix` begins the names of this farm's VMs. Guests have their own outgoing network,
    or the networks that these `taps` are in, one for each VM, on which the farm can reach them. `memory` (MiB),
    `cores` and `scratch` (GiB) are what this host has for VMs, where it is not all that it has."""

    driver: Literal["qemu"] = "qemu"
    prefix: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]{0,15}$")] = "kiosk"
    taps: Annotated[tuple[Word, ...], Field(max_length=1000)] = ()
    memory: Annotated[int, Field(ge=1)] | None = None
    cores: Annotated[int, Field(ge=1)] | None = None
    scratch: Annotated[int, Field(ge=1)] | None = None


class CanaryTable(Table):
    """`[canary]`: how many `nodes` try a new version of an image, and after which time without jobs having joined is
    enough."""

    nodes: Annotated[int, Field(ge=1, le=1000)] = 2
    idle: Seconds = 21_600.0


class CapacityTable(Table):
    """`[capacity]`: what all types together may take."""

    nodes: Annotated[int, Field(ge=1)] | None = None
    cores: Annotated[int, Field(ge=1)] | None = None


class SchedulerSettings(Table):
    """The whole file. `tick` is how often the scheduler looks (at most 12 times an hour by default)."""

    tick: Seconds = 300.0
    batch: BatchTable
    cloud: CloudTable = CloudTable()
    canary: CanaryTable = CanaryTable()
    capacity: CapacityTable = CapacityTable()
    types: Annotated[dict[TypeName, TypeTable], Field(min_length=1)]
    rules: tuple[Rule, ...] = ()

    @classmethod
    def read(cls, path: Path = FILE) -> SchedulerSettings:
        """Reads the file; UsageError names file and key. A workload's file is found beside it."""
        found = read_toml(path, cls)
        if found.batch.file is None:
            return found
        batch = found.batch.model_copy(update={"file": path.parent / found.batch.file})
        return found.model_copy(update={"batch": batch})

    def node_types(self, flavours: dict[str, str] | None = None) -> dict[str, NodeType]:
        """The types by name."""
        return {name: table.node_type(name, flavours) for name, table in self.types.items()}

    def most(self) -> Capacity:
        """What all types together may take: no more nodes than there are taps, either."""
        limits = [n for n in (self.capacity.nodes, len(self.cloud.taps) or None) if n is not None]
        return Capacity(min(limits, default=None), self.capacity.cores)
