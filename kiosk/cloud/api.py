"""What kiosk asks of a cloud: start a VM, list all VMs in one call, stop one; and say what it can't do.

A driver writes its intent down before it acts, so that every VM it ever started is in `list` until it is
stopped. A VM is thrown away when it ends: nothing in it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from kiosk.cloud.context import Source
from kiosk.model.flavour import Flavour
from kiosk.model.names import ImageRef, LayerRef

Phase = Literal["starting", "booting", "ready", "running", "draining", "stopping", "failed", "stopped"]
"""starting: the machine is being made; booting: it runs; ready: its guest verified everything and said so;
running: it runs, and nothing is known of its guest, since it is of an imported image;
draining: it takes no new jobs, and stops when those that run have ended (see `reason` and `jobs`);
stopping: the guest is shutting down; failed: it will never be ready (see `reason`); stopped: it ended itself."""


@dataclass(frozen=True)
class VmSpec:
    """A VM to start. Image and layers have versions; `bundle` is a folder with the signed metadata and
    manifests from which the guest verifies its layers; `lifetime` is in seconds. The network is outgoing only, or
    with `tap` the one that this network interface of the host is in. The guest is told by `source`, and `context` is
    what is added to its document: it can hold secrets."""

    name: str
    image: ImageRef
    layers: tuple[LayerRef, ...]
    flavour: Flavour
    bundle: Path
    lifetime: int | None = None
    network: bool = True
    source: Source = "nocloud"
    context: Mapping[str, Any] = field(default_factory=dict, repr=False)
    tap: str | None = None


@dataclass(frozen=True)
class VmState:
    """One VM as a single look found it. `stage` is the last one that the guest reported, `jobs` how many jobs a
    draining guest still has (None: unknown)."""

    id: str
    uuid: str
    name: str
    image: str
    layers: tuple[str, ...]
    flavour: str
    phase: Phase
    created: datetime
    stage: str | None = None
    reason: str | None = None
    jobs: int | None = None


@dataclass(frozen=True)
class Capabilities:
    """What a cloud can do beyond the three calls."""

    layers: bool
    """Attaches layers as disks of their own."""
    report: bool
    """Carries the guest's report (stages, attestation) to us."""
    console: bool
    execute: bool
    drain: bool
    """Can have a guest drain."""


class Cloud(Protocol):
    """The interface. Each call is bounded in time and raises KioskErrors only."""

    @property
    def name(self) -> str:
        """The driver's name."""

    @property
    def capabilities(self) -> Capabilities:
        """What this cloud can do."""

    def start(self, spec: VmSpec) -> VmState:
        """Starts a VM and returns at once; nothing is left of it when this raises."""

    def list_vms(self) -> list[VmState]:
        """All VMs that were started and not yet stopped, in one look."""

    def stop(self, id: str, *, now: bool = False) -> None:
        """Ends a VM and removes what is left of it: in order, or with `now` at once. NotFoundError."""

    def drain(self, id: str, reason: str) -> None:
        """Has a guest take no new jobs and stop when those that run have ended; returns once the guest was told.
        Nothing changes where it drains already. NotFoundError; GuestError where it can't be told."""
