"""Stage `verify`: that this image and every layer are what their owners signed.

The root of trust is in the image, on its verified root file system. The context only brings signed metadata and
manifests, or says where they are fetched; python-tuf checks signatures, versions and expiry dates. Nothing that was
revoked (contextualize.floor) runs. The running root file system's hash, which the kernel enforces, must be the signed
one.

A layer is checked by the kernel wherever its manifest has a hash tree (contextualize.verity), block by block as it
is read. Its disk is read as a whole first, and must give the signed digest, where there is no tree, and up to WHOLE
bytes also where there is one. For a large layer that would take most of the boot and add nothing against a hostile
hypervisor, which can swap bytes after any such check; it only finds damage before a job does.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import BinaryIO, Dict, List, NamedTuple, Optional, Tuple

from contextualize import verity
from contextualize.context import Context, LayerUse
from contextualize.errors import Refused
from contextualize.floor import Floor, below_floor, floor_of
from contextualize.machine import PRIVATE, Machine
from contextualize.manifest import Declared, LayerManifest, image_manifest, layer_manifest
from contextualize.tree import squashfs_fault
from contextualize.trust import Signed, Trust

ROOT = "/usr/lib/kiosk/root.json"
TUF = f"{PRIVATE}/tuf"
"""What was verified stays here, so that a later look at the repository can't be shown an older state."""
CHUNK = 1 << 20
WHOLE = 64 << 20
"""The largest layer that is read as a whole although the kernel checks what is read of it."""


class Layer(NamedTuple):
    """A layer whose manifest was verified, and its bytes: as a whole ("digest"), or by the kernel whenever they are
    read ("verity")."""

    use: LayerUse
    manifest: LayerManifest
    signed: Signed
    checked: str = "digest"

    @property
    def declared(self) -> Declared:
        """The layer's name and declarations."""
        return self.use.name, self.manifest.declares


class Verified(NamedTuple):
    """The image's signature, root hash, and the layers: the site's first, then the others, both in the context's
    order; until when that holds."""

    image: Signed
    root_hash: str
    layers: Tuple[Layer, ...]
    root_version: int
    expires: str
    floors: Dict[str, str]
    """The signed floors of those that have one: image or layer, and the version below which nothing may run."""


def run(machine: Machine, context: Context, bundle: Optional[Path]) -> Verified:
    """Verifies the image and all layers of the context, with the signed metadata of a folder or of the context's
    repository, or refuses."""
    machine.folder(TUF, 0o700)
    trust = Trust(machine.read(ROOT), bundle, context.repository, machine.path(TUF))
    target = f"images/{context.image}/{context.version}.json"
    signed = trust.target(target, "images")
    image = image_manifest(signed.data, target)
    if (image.name, image.version) != (context.image, context.version):
        raise Refused(f"{target} is the manifest of {image.name}@{image.version}")
    floors = [_above_floor(trust, context.image, context.version)]
    running = root_hash(machine)
    if running != image.root_hash:
        raise Refused(f"the running root file system has the hash {running}, and {image.root_hash} is signed")
    ordered = sorted(context.layers, key=lambda use: use.name.kind != "site")
    layers = tuple([_layer(machine, trust, context, use) for use in ordered])
    floors += [_above_floor(trust, str(use.name), use.version) for use in ordered]
    known = {floor.name: floor.below for floor in floors if floor}
    return Verified(signed, running, layers, trust.root_version, trust.expires, known)


def root_hash(machine: Machine) -> str:
    """The hash that the kernel checks the root file system against, from the kernel's command line."""
    words = machine.read("/proc/cmdline", 64 * 1024).decode(errors="replace").split()
    hashes: List[str] = [w[len("roothash=") :] for w in words if w.startswith("roothash=")]
    if len(hashes) != 1 or not re.fullmatch(r"[0-9a-f]{64}", hashes[0]):
        raise Refused("the kernel's command line has no single roothash=, so the root is not a verified one")
    for block in sorted(machine.path("/sys/block").glob("dm-*/dm")):
        name, uuid = ((block / key).read_text(encoding="ascii").strip() for key in ("name", "uuid"))
        if name == "root" and uuid.startswith("CRYPT-VERITY-"):
            return hashes[0]
    raise Refused("the root file system is not on dm-verity")


def _above_floor(trust: Trust, name: str, version: str) -> Optional[Floor]:
    """The floor of an image or a layer, which this version is not below."""
    floor = floor_of(trust, name)
    reason = below_floor(floor, name, version)
    if reason:
        raise Refused(reason)
    return floor


def _layer(machine: Machine, trust: Trust, context: Context, use: LayerUse) -> Layer:
    target = use.name.target(use.version)
    signed = trust.target(target, use.name.role)
    manifest = layer_manifest(signed.data, target)
    if (manifest.name, manifest.version) != (use.name, use.version):
        raise Refused(f"{target} is the manifest of {manifest.name}@{manifest.version}")
    if manifest.prefix != use.name.prefix:
        raise Refused(f"{use.name} asks for the prefix {manifest.prefix:.120}; its own is {use.name.prefix}")
    if context.image not in manifest.images:
        raise Refused(
            f"{use.name}@{use.version} is made for {', '.join(manifest.images)}, not {context.image}"
        )
    checked = "verity" if manifest.verity and verity.available(machine) else "digest"
    if checked == "digest" or manifest.size <= WHOLE:
        with machine.open_disk(use.device) as disk:
            _content(disk, manifest, f"{use.name}@{use.version} on the disk {use.device}")
    return Layer(use, manifest, signed, checked)


def _content(disk: BinaryIO, manifest: LayerManifest, what: str) -> None:
    """Reads the first `size` bytes of a disk, no more and no less, and compares their digest."""
    digest, left, head = hashlib.sha256(), manifest.size, b""
    while left:
        try:
            data = disk.read(min(CHUNK, left))
        except OSError as e:
            raise Refused(f"{what}: {e.strerror}") from None
        if not data:
            raise Refused(f"{what}: ends {left} bytes before its signed size of {manifest.size}")
        head = head or data[:96]
        digest.update(data)
        left -= len(data)
    found = f"sha256:{digest.hexdigest()}"
    if found != manifest.digest:
        raise Refused(f"{what}: the content has the digest {found}, and {manifest.digest} is signed")
    fault = squashfs_fault(head, manifest.size)
    if fault:
        raise Refused(f"{what}: {fault}")
