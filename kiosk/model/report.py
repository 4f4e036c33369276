"""What a hypervisor's agent tells the kiosk of itself, and what it is answered. docs/fleet-api.md has the calls.

All of it is for people and for scheduling: nothing here decides which bytes a host believes.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from kiosk.model.base import Document, Size
from kiosk.model.names import VersionText

HOST = r"[a-z0-9](?:[a-z0-9.-]{0,198}[a-z0-9])?"
HostName = Annotated[str, StringConstraints(pattern=f"^{HOST}$", max_length=200)]
"""A host's name as the fleet knows it: letters, digits, dots and hyphens, lower case."""
Base = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9/-]{0,150}$")]
"""An image's or a layer's name without a version."""
Text = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$")]
Transport = Literal["http", "swarm", "local"]
LARGEST_REPORT = 256 << 10
REPORT_SECONDS = 300.0
"""Agents report at least this often."""
LATE, LOST = 1.5, 4.0
"""After this many times `REPORT_SECONDS` a host is late, and lost."""


class HeldVersion(Document):
    """A version on the host; `used` by how many VMs."""

    name: Base
    version: VersionText
    current: bool = False
    used: Annotated[int, Field(ge=0, le=100_000)] = 0


class Fetching(Document):
    """What is on its way: bytes of its files that are right, out of `size`."""

    name: Base
    version: VersionText
    done: Size
    size: Size
    transport: Transport


class Report(Document):
    """The state of one agent. `sequence` grows with every report of a host, for ever. Byte counters count from
    the agent's start (`since`, seconds of the epoch by the host's clock, which may be wrong)."""

    schema_: Literal["kiosk.report/1"] = Field("kiosk.report/1", alias="schema")
    host: HostName
    sequence: Annotated[int, Field(ge=0, lt=1 << 63)]
    agent: Annotated[str, StringConstraints(max_length=60, pattern=r"^[A-Za-z0-9.+~-]*$")]
    since: Annotated[int, Field(ge=0, lt=1 << 40)]
    state: Literal["idle", "fetching", "waiting", "failed"]
    held: Annotated[tuple[HeldVersion, ...], Field(max_length=1000)] = ()
    fetching: Fetching | None = None
    origin_bytes: Size = 0
    swarm_bytes: Size = 0
    uploaded_bytes: Size = 0
    free_bytes: Size = 0
    error: Text | None = None
    failed: Annotated[
        tuple[Annotated[str, StringConstraints(max_length=180)], ...], Field(max_length=50)
    ] = ()
    """NAME@VERSION of what could not be fetched or handed over."""


class LeaseRequest(Document):
    """An agent asks whether it may fetch a version from the origin: `bytes` are still to come. `done` gives
    the lease back, with what is still to come then. `sequence` as in reports, from the same row."""

    schema_: Literal["kiosk.lease/1"] = Field("kiosk.lease/1", alias="schema")
    host: HostName
    sequence: Annotated[int, Field(ge=0, lt=1 << 63)]
    name: Base
    version: VersionText
    bytes: Size
    done: bool = False


class Lease(Document):
    """The answer: when `granted`, the host may read from the origin for `seconds` and asks again before they are
    over; otherwise it asks again after `retry` seconds. `slot` tells several holders apart (each begins at
    another place of the file). `fanout` is how many hosts want the version now."""

    granted: bool
    seconds: Annotated[float, Field(ge=0, le=3600)] = 0
    retry: Annotated[float, Field(ge=0, le=3600)] = 0
    slot: Annotated[int, Field(ge=0, le=1000)] = 0
    fanout: Annotated[int, Field(ge=0, le=1_000_000)] = 0
