"""An order for a VM: versions are chosen from the host cache, and checked against what is signed and not revoked.

Whatever starts a VM (a person, the scheduler) starts it by this, so that nothing is started that `kiosk vm start`
would refuse.
"""

from __future__ import annotations

import re
import secrets
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contextualize.errors import Refused
from contextualize.manifest import Declared
from kiosk.cloud.api import VmSpec
from kiosk.cloud.context import SOURCES, Source, agree, document, given
from kiosk.cloud.hostcache import SYNC, HostCache
from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.cloud.qemu.record import HOSTNAME, TAP
from kiosk.errors import NotFoundError, PolicyError, UsageError, VerificationError
from kiosk.model.flavour import Flavour
from kiosk.model.floor import Floor
from kiosk.model.guest import guest_declares, guest_name
from kiosk.model.manifest import read_manifest
from kiosk.model.names import (
    ImageRef,
    LayerRef,
    Ref,
    floor_path,
    is_floor_path,
    manifest_path,
    parse_manifest_path,
)
from kiosk.trust.bundle import export

MOST_LAYERS = 16


@dataclass(frozen=True)
class Order:
    """What the user asked for, as typed."""

    image: str
    layers: tuple[str, ...]
    flavour: str
    name: str | None
    lifetime: int | None
    network: bool
    tap: str | None = None
    own_flavours: Mapping[str, str] = field(default_factory=dict)
    source: str = "nocloud"
    context: Path | None = None


@dataclass(frozen=True)
class Plan:
    """What will be started: everything with its version."""

    image: ImageRef
    layers: tuple[LayerRef, ...]
    flavour: Flavour
    name: str
    lifetime: int | None
    network: bool
    source: Source = "nocloud"
    context: Mapping[str, Any] = field(default_factory=dict, repr=False)
    tap: str | None = None


def plan(cache: HostCache, order: Order) -> Plan:
    """Chooses versions from the host cache. NotFoundError, UsageError or PolicyError when it can't be."""
    image = cache.resolve(ImageRef.parse(order.image))
    assert isinstance(image, ImageRef)
    layers: list[LayerRef] = []
    declared: list[Declared] = []
    for text in order.layers:
        ref = cache.resolve(LayerRef.parse(text))
        assert isinstance(ref, LayerRef)
        if ref.base in [other.base for other in layers]:
            raise UsageError(f"the layer {ref.base} is named twice")
        if same := next((other for other in layers if other.prefix == ref.prefix), None):
            raise PolicyError(
                f"the layers {same.base} and {ref.base} would both be mounted at {ref.prefix}",
                hint="A machine takes one site layer, and one layer of each experiment.",
            )
        manifest = cache.layer(ref)
        made_for = manifest.images
        if made_for and image.name not in made_for:
            raise PolicyError(f"the layer {ref} is made for {', '.join(made_for)}, not for {image.name}")
        layers.append(ref)
        try:
            declared.append((guest_name(ref), guest_declares(manifest.declares)))
        except Refused as e:
            raise PolicyError(f"the guest would refuse {ref}: {e.reason}") from None
    if len(layers) > MOST_LAYERS:
        raise UsageError(f"a VM can have {MOST_LAYERS} layers, not {len(layers)}")
    name = order.name or f"{image.name[:40].rstrip('-')}-{secrets.token_hex(3)}"
    if not re.fullmatch(HOSTNAME, name):
        raise UsageError(
            f"{name!r} is not a host name", hint="Letters, digits, dashes and dots: --name node-1"
        )
    if order.lifetime is not None and not 60 <= order.lifetime <= 366 * 86400:
        raise UsageError("a lifetime is from one minute to a year", hint="--lifetime 24h")
    if order.tap is not None:
        check_tap(order.tap)
    flavour = Flavour.parse(order.flavour, order.own_flavours)
    if order.source not in SOURCES:
        raise UsageError(f"{order.source!r} is not a source of context", hint=f"Write {', '.join(SOURCES)}.")
    more = given(order.context) if order.context else {}
    told = document(
        uuid=str(uuid.UUID(int=0)), name=name, image=image, layers=layers, lifetime=order.lifetime, more=more
    )
    agree(told, declared)
    return Plan(
        image, tuple(layers), flavour, name, order.lifetime, order.network, order.source, more, order.tap
    )


def check_tap(name: str) -> None:
    """Refuses what is no tap interface of this host: QEMU, as root, would make one that leads nowhere."""
    if not re.fullmatch(TAP, name):
        raise UsageError(f"{name!r} is not the name of a network interface", hint="--tap tap0")
    if not Path("/sys/class/net", name, "tun_flags").exists():
        raise NotFoundError(
            f"there is no tap interface {name} on this host",
            hint=f"ip tuntap add dev {name} mode tap; ip link set {name} master BRIDGE up",
        )


def rehearse(driver: QemuCloud, metadata: Path, planned: Plan) -> None:
    """Refuses what `launch` would refuse; nothing stays of it."""
    with tempfile.TemporaryDirectory(prefix="kiosk-") as bundle:
        driver.check(checked(driver.cache, metadata, planned, Path(bundle)))


def checked(cache: HostCache, metadata: Path, planned: Plan, bundle: Path) -> VmSpec:
    """The VM with its signed metadata in `bundle`. PolicyError when a part of it was revoked, VerificationError when
    the cache has something else than what is signed."""
    make_bundle(cache, metadata, (planned.image, *planned.layers), bundle)
    return VmSpec(
        name=planned.name,
        image=planned.image,
        layers=planned.layers,
        flavour=planned.flavour,
        bundle=bundle,
        lifetime=planned.lifetime,
        network=planned.network,
        source=planned.source,
        context=planned.context,
        tap=planned.tap,
    )


def targets_of(bundle: Path) -> dict[str, Path]:
    """The files of a bundle's signed targets by the targets' paths; only the files have a digest in their names."""
    top = bundle / "targets"
    return {
        str((path.parent / path.name.partition(".")[2]).relative_to(top)): path
        for path in sorted(top.rglob("*.json"))
    }


def make_bundle(cache: HostCache, metadata: Path, refs: tuple[Ref, ...], bundle: Path) -> None:
    """Exports the signed metadata for these versions, which must be the very ones in the cache. PolicyError when one
    of them was revoked."""
    export(metadata, [manifest_path(ref) for ref in refs], bundle)
    found = targets_of(bundle)
    signed = {
        parse_manifest_path(target): read_manifest(path.read_bytes(), where=path.name.partition(".")[0])
        for target, path in found.items()
        if not is_floor_path(target)
    }
    for ref in refs:
        floor = found.get(floor_path(ref))
        if floor is not None and (fault := Floor.of(ref, floor.read_bytes()).fault(ref)) is not None:
            raise PolicyError(
                fault, hint=f"`kiosk sync` fetches a newer version of {ref.base}, once there is one."
            )
        if signed.get(ref) != cache.manifest(ref):
            raise VerificationError(f"{ref} in the host cache is not what is signed", hint=SYNC)
