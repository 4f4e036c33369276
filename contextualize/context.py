"""The context document (schema kiosk.context/1): what a machine is told at boot, the same from every source.

Only `image` must be there, and `node` where the source does not know the machine itself: several machines started
with one document are several nodes. Nobody has signed a context: it chooses among what is signed, and gives
this machine its name, its disks, its network, and the secrets of the farm that it joins. What a context could
use to change the machine itself (`hooks`, `user_data`, `root_keys`, a `farm` that no site declares) is done only where
a verified site layer allows it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Dict, NamedTuple, Optional, Tuple

from contextualize.document import (
    FARM_KIND,
    LAYER_NAME,
    NAME,
    SETTING,
    SETTING_VALUE,
    VERSION,
    Fields,
    LayerName,
    read,
)

LIMIT = 256 * 1024
UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
HOST_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
HOSTNAME = rf"(?=.{{1,253}}\Z){HOST_LABEL}(?:\.{HOST_LABEL})*"
SERIAL = r"[A-Za-z0-9][A-Za-z0-9_-]{0,19}"
"""A virtio disk's serial: virtio carries 20 bytes."""
URL = r"https?://[A-Za-z0-9.\-_:\[\]]{1,260}(?:/[A-Za-z0-9._~/%-]{0,500})?"
ADDRESS = r"[0-9A-Fa-f.:]{2,45}"
KEY = r"(?:ssh-|ecdsa-|sk-)[A-Za-z0-9@.-]{1,60} [A-Za-z0-9+/=]{16,4000}(?: [A-Za-z0-9 @._:+-]{0,200})?"
DAY = 86400
LONGEST_JOIN = 1800
"""The most seconds for joining a farm: the whole boot has 40 minutes (kiosk-contextualize.service)."""


class LayerUse(NamedTuple):
    """A layer that the context asks for, and the disk that should hold it."""

    name: LayerName
    version: str
    device: str


class Scratch(NamedTuple):
    """The scratch disk, by serial, where it is mounted, and how many MiB of it become swap."""

    device: str
    mount: str
    swap: int = 0


class Repository(NamedTuple):
    """Where signed metadata is fetched from when none came with the context, and later, to see whether the
    versions that run here are still good; `proxy` is the site's Squid."""

    url: str
    proxy: Optional[str] = None


class Network(NamedTuple):
    """A static address instead of DHCP's: `address` and `gateway` as CIDR and address, the interface by MAC
    address (None: the only one)."""

    address: str
    gateway: Optional[str] = None
    dns: Tuple[str, ...] = ()
    search: Tuple[str, ...] = ()
    mac: Optional[str] = None


class Life(NamedTuple):
    """How long the machine lives, in seconds from the start of its kernel. It begins to drain between `age` minus
    `jitter` and `age` (which moment follows from the node's id), and waits at most `drain` for running jobs."""

    age: int = DAY
    jitter: int = 0
    drain: int = DAY

    def drains(self, node_id: str) -> int:
        """Seconds after the start of its kernel at which the machine of that id begins to drain: spread over the
        jitter, and the same whenever it is asked."""
        part = int.from_bytes(hashlib.sha256(node_id.lower().encode()).digest()[:8], "big") / 2**64
        return self.age - round(self.jitter * part)


class Farm(NamedTuple):
    """The farm to join: `kind` names a driver (slurm, lsf, htcondor), `settings` are the driver's own, `secrets`
    are files by name (base64 in the document), and `timeout` the seconds within which the farm must list us."""

    kind: str
    name: str
    settings: Dict[str, str]
    secrets: Dict[str, bytes]
    timeout: int = 600

    def __repr__(self) -> str:  # it holds secrets
        return f"{type(self).__name__}({self.kind!r}, {self.name!r})"


class Hooks(NamedTuple):
    """HEPiX hooks: shell scripts that run as root before and after the machine is set up."""

    prolog: Optional[str] = None
    epilog: Optional[str] = None


class Instance(NamedTuple):
    """What a source knows of its machine by itself, not yet checked: its id there, and its host name (None: it has
    none). It counts only for a document without `node`."""

    kind: str
    id: str
    name: Optional[str] = None


class Context(NamedTuple):
    """What this machine is told at boot."""

    node_id: str
    node_name: str
    image: str
    version: str
    layers: Tuple[LayerUse, ...] = ()
    repository: Optional[Repository] = None
    scratch: Optional[Scratch] = None
    network: Optional[Network] = None
    time_servers: Tuple[str, ...] = ()
    root_keys: Tuple[str, ...] = ()
    life: Life = Life()
    farm: Optional[Farm] = None
    hooks: Hooks = Hooks()
    user_data: Optional[str] = None


def parse(data: bytes, instance: Optional[Instance] = None) -> Context:
    """Reads a context document; Refused when anything in it is not as specified, or not known. `instance` stands in
    for a `node` that is left out."""
    f = read(data, "context", LIMIT)
    f.schema("kiosk.context/1")
    image = f.fields("image")
    name = image.text("name", NAME)
    node_id, node_name = _node(f.fields("node")) if f.has("node") else _own(f, instance, name)
    found = Context(
        node_id=node_id,
        node_name=node_name,
        image=name,
        version=image.text("version", VERSION),
        layers=tuple(_layer_use(item, i) for i, item in enumerate(f.items("layers", 16))),
        repository=repository(f.fields("repository")) if f.has("repository") else None,
        scratch=_scratch(f.fields("scratch")) if f.has("scratch") else None,
        network=_network(f.fields("network")) if f.has("network") else None,
        time_servers=f.texts("time_servers", HOSTNAME, 8),
        root_keys=f.texts("root_keys", KEY, 50),
        life=_life(f.fields("life")) if f.has("life") else Life(),
        farm=_farm(f.fields("farm")) if f.has("farm") else None,
        hooks=_hooks(f.fields("hooks")) if f.has("hooks") else Hooks(),
        user_data=f.text("user_data", TEXT) if f.has("user_data") else None,
    )
    for part in (image, f):
        part.end()
    devices = [use.device for use in found.layers] + ([found.scratch.device] if found.scratch else [])
    if len(set(devices)) != len(devices):
        f.fault("layers", "one disk is named twice")
    return found


TEXT = r"[^\x00]{0,131072}"
MOUNT = r"(?:/[A-Za-z0-9][A-Za-z0-9_-]{0,60}){1,4}"
MAC = r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}"


def _node(f: Fields) -> Tuple[str, str]:
    found = f.text("id", UUID), f.text("name", HOSTNAME)
    f.end()
    return found


def _own(f: Fields, instance: Optional[Instance], image: str) -> Tuple[str, str]:
    """The node's id and name as its source knows it; without a name it is called by its image and its id there."""
    if instance is None:
        f.fault("node", "missing, and the source has no id of this machine")
    if not re.fullmatch(HOST_LABEL, instance.id):
        f.fault(
            "node",
            f"missing, and the source's id of this machine, {instance.id!r:.80}, can't stand in for it",
        )
    name = instance.name or f"{image}-{instance.id}"
    if not re.fullmatch(HOSTNAME, name):
        f.fault("node", f"missing, and {name!r:.120}, by the source, is not a host name")
    import uuid  # few machines need it

    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"kiosk:{instance.kind}:{instance.id}")), name


def _layer_use(item: object, index: int) -> LayerUse:
    f = Fields(item, f"context: layers[{index}]")
    use = LayerUse(
        LayerName.parse(f.text("name", LAYER_NAME)),
        f.text("version", VERSION),
        f.text("device", SERIAL),
    )
    f.end()
    return use


def _scratch(f: Fields) -> Scratch:
    swap = f.integer("swap", 0, 1 << 20) if f.has("swap") else 0
    found = Scratch(f.text("device", SERIAL), f.text("mount", MOUNT), swap)
    f.end()
    return found


def repository(f: Fields) -> Repository:
    """Reads where signed metadata is fetched from."""
    found = Repository(f.text("url", URL), f.text("proxy", URL) if f.has("proxy") else None)
    f.end()
    return found


def _network(f: Fields) -> Network:
    found = Network(
        f.text("address", rf"{ADDRESS}/[0-9]{{1,3}}"),
        f.text("gateway", ADDRESS) if f.has("gateway") else None,
        f.texts("dns", ADDRESS, 4),
        f.texts("search", HOSTNAME, 6),
        f.text("mac", MAC) if f.has("mac") else None,
    )
    f.end()
    return found


def _life(f: Fields) -> Life:
    year = 366 * DAY
    age = f.integer("age", 60, year) if f.has("age") else DAY
    jitter = f.integer("jitter", 0, year) if f.has("jitter") else 0
    drain = f.integer("drain", 0, year) if f.has("drain") else DAY
    if jitter >= age:
        f.fault("jitter", "is not shorter than the age")
    f.end()
    return Life(age, jitter, drain)


def _farm(f: Fields) -> Farm:
    found = Farm(
        f.text("kind", FARM_KIND),
        f.text("name", NAME),
        f.pairs("settings", SETTING, SETTING_VALUE, 50),
        _secrets(f),
        f.integer("timeout", 10, LONGEST_JOIN) if f.has("timeout") else 600,
    )
    f.end()
    return found


def _secrets(f: Fields) -> Dict[str, bytes]:
    """Secrets by name. What is wrong with one is said without showing it."""
    found = {}
    for name, value in f.secrets("secrets", SETTING, 20).items():
        try:
            found[name] = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            f.fault(f"secrets.{name}", "is not base64")
        if not 0 < len(found[name]) <= 64 * 1024:
            f.fault(f"secrets.{name}", "is empty or larger than 64 KiB")
    return found


def _hooks(f: Fields) -> Hooks:
    found = Hooks(
        f.text("prolog", TEXT) if f.has("prolog") else None,
        f.text("epilog", TEXT) if f.has("epilog") else None,
    )
    f.end()
    return found
