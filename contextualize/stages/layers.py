"""Stage `layers`: mounts each verified layer read-only, without devices and set-user-ID, on its own prefix.

Where the layer has a hash tree, what is mounted is the device through which the kernel checks it.
The prefix follows from the layer's name. It must be empty in the base, so that a mount hides nothing. What
is in the layer is then checked by the very rules that `kiosk layer` applies before it is published.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Dict, Iterator, Sequence

from contextualize import tree, verity
from contextualize.errors import Refused
from contextualize.machine import Machine
from contextualize.stages.verify import Layer
from contextualize.tree import Entry


def run(machine: Machine, layers: Sequence[Layer]) -> None:
    """Mounts all layers, or refuses."""
    taken: Dict[str, Layer] = {}
    for layer in layers:
        prefix = layer.use.name.prefix
        if prefix in taken:
            raise Refused(f"{taken[prefix].use.name} and {layer.use.name} would both be mounted at {prefix}")
        if machine.filled(prefix):
            raise Refused(f"{layer.use.name}: the base has files below {prefix}, which the layer would hide")
        taken[prefix] = layer
        machine.folder(prefix)
        machine.mount(_device(machine, layer), prefix, "squashfs", "ro,nosuid,nodev")
        try:
            fault = next(tree.tree_faults(prefix, _entries(machine, prefix)), None)
        except OSError as e:
            raise Refused(f"{layer.use.name}: its files can't be listed: {e.strerror}") from None
        if fault:
            raise Refused(f"{layer.use.name}: {fault}")


def _device(machine: Machine, layer: Layer) -> str:
    if layer.checked != "verity" or layer.manifest.verity is None:
        return machine.disk(layer.use.device)
    what = f"{layer.use.name}@{layer.use.version} on the disk {layer.use.device}"
    return verity.opened(machine, layer.use.device, layer.manifest.verity, what)


def _entries(machine: Machine, prefix: str) -> Iterator[Entry]:
    cut = len(str(machine.path(prefix))) + 1
    for found in machine.walk(prefix):
        at = found.stat(follow_symlinks=False)
        target = str(Path(found.path).readlink()) if stat.S_ISLNK(at.st_mode) else ""
        size = at.st_size if stat.S_ISREG(at.st_mode) else 0
        yield Entry(found.path[cut:], at.st_mode, at.st_uid, at.st_gid, size, target)
