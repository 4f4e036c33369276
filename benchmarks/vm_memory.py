"""What a VM takes of its hypervisor's memory beyond its own: `python -m benchmarks.vm_memory [--json FILE]`.

The published image of the tests' farm, started as kiosk starts it. A process's memory is its PSS (`smaps`), told
apart by mapping: the guest's memory is the one mapping of its size, TCG's translated code another (KVM has none), and
the rest is QEMU's own. Page tables (VmPTE) and what KVM would keep beside them are the kernel's and counted too.
Looked at when the guest is ready, after it was made to touch its memory, and after it read and wrote its disks.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kiosk import files
from kiosk.cloud.api import VmSpec
from kiosk.cloud.qemu import process
from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.errors import GuestError
from kiosk.model.flavour import FLAVOURS, GIB, Flavour
from kiosk.order import make_bundle
from tests.boot.farm import LAYERS, Farm, inside, made, settled

SIZES = (FLAVOURS["tiny"], FLAVOURS["c1"], FLAVOURS["c2"], FLAVOURS["c4"])
HEAD = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \S+ *(.*)$")
TOUCH = (
    "mount -t tmpfs -o size={size}m none /mnt && head -c {size}m /dev/zero | tr '\\0' x > /mnt/x;"
    " rm -f /mnt/x; umount /mnt"
)
DISKS = (
    "cat /usr/bin/* /usr/lib/x86_64-linux-gnu/*.so* > /dev/null; for i in 1 2 3; do find / -xdev > /dev/null; done;"
    " d=$(findmnt -n -o TARGET -S /dev/disk/by-id/virtio-scratch || echo /tmp);"
    " dd if=/dev/urandom of=$d/x bs=1M count=300 conv=fsync 2>/dev/null; sha256sum $d/x; rm -f $d/x"
)


@dataclass(frozen=True)
class Look:
    """One look at a VM's process, in MiB of PSS. `beyond` is all but the guest's memory and TCG's code."""

    flavour: str
    when: str
    guest: float
    code: float
    own: float
    tables: float
    rss: float

    @property
    def beyond(self) -> float:
        """What KVM would take too."""
        return self.own + self.tables


def look(pid: int, flavour: Flavour, when: str) -> Look:
    """Reads a process's mappings."""
    guest = code = own = rss = 0.0
    size, mode = 0, ""
    for line in (Path("/proc") / str(pid) / "smaps").read_text().splitlines():
        if head := HEAD.match(line):
            size, mode = int(head[2], 16) - int(head[1], 16), head[3]
            continue
        name, _, value = line.partition(":")
        if name == "Rss":
            rss += int(value.split()[0]) / 1024
        elif name == "Pss":
            pss = int(value.split()[0]) / 1024
            if (
                size >= flavour.memory * GIB or size >= GIB
            ):  # above 2.75 GiB QEMU still has one mapping of all
                guest += pss
            elif mode.startswith("rwx"):
                code += pss
            else:
                own += pss
    status = (Path("/proc") / str(pid) / "status").read_text()
    found = re.search(r"^VmPTE:\s+(\d+) kB", status, re.MULTILINE)
    return Look(str(flavour), when, guest, code, own, int(found[1]) / 1024 if found else 0.0, rss)


def measured(farm: Farm, vms: Path, flavour: Flavour) -> list[Look]:
    """Starts one VM with the site's and the experiment's layer and looks at it three times."""
    cloud = QemuCloud(vms, farm.cache, boot="direct-kernel")
    image, refs = farm.image(), tuple(farm.layer(name) for name in LAYERS)
    with files.scratch(vms, prefix="bundle-") as bundle:
        make_bundle(farm.cache, farm.settings.host / "metadata", (image, *refs), bundle)
        started = cloud.start(VmSpec("memory", image, refs, flavour, bundle))
    try:
        state = settled(cloud, started.id)
        if state.phase != "ready":
            raise GuestError(f"the VM is {state.phase}: {state.reason}")
        pid = max(process.running()[started.uuid])
        looks = [look(pid, flavour, "ready")]
        for when, script in (
            ("memory touched", TOUCH.format(size=flavour.memory * 1024 * 6 // 10)),
            ("disks used", DISKS),
        ):
            inside(cloud, started.id, "/bin/sh", "-c", script, timeout=600)
            looks.append(look(pid, flavour, when))
        return looks
    finally:
        cloud.stop(started.id, now=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(arguments)
    looks: list[Look] = []
    print(
        f"{'flavour':>9} {'when':<15} {'guest':>7} {'code':>6} {'QEMU':>6} {'tables':>7} {'beyond':>7}  MiB",
        flush=True,
    )
    with made() as farm, files.scratch(farm.home / "tests", prefix="memory-") as vms:
        for flavour in SIZES:
            for one in measured(farm, vms / "vms", flavour):
                looks.append(one)
                print(
                    f"{one.flavour:>9} {one.when:<15} {one.guest:7.0f} {one.code:6.0f} {one.own:6.1f} "
                    f"{one.tables:7.1f} {one.beyond:7.1f}",
                    flush=True,
                )
    if chosen.json:
        files.write(chosen.json, json.dumps([asdict(one) for one in looks], indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
