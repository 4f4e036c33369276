"""What kiosk adds to a boot: `python -m benchmarks.boot [--runs 5] [--layers 0,2] [--flavour 2/2/2] [--json FILE]`.

The published image of the tests' farm is booted by its kernel, in turn with kiosk's units masked and with them: the
same disks, the same QEMU, the same host. Times are the guest's own, from the start of its kernel: until
multi-user.target without kiosk, until kiosk-ready.target and multi-user.target with it. Also what each stage took.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from typing_extensions import override

from kiosk import files
from kiosk.cloud.api import VmSpec
from kiosk.cloud.qemu import argv
from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.cloud.qemu.record import Record
from kiosk.errors import GuestError
from kiosk.model.flavour import Flavour
from kiosk.order import make_bundle
from tests.boot.farm import LAYERS, Farm, inside, made, settled

MASKED = "systemd.mask=kiosk-contextualize.service systemd.mask=kiosk-ready.target"
GOAL = 1.2
LIMIT = 300.0


@dataclass(frozen=True)
class WithoutKiosk(QemuCloud):
    """The driver, with kiosk's units masked by the kernel's command line."""

    @override
    def _spawn(self, folder: Path, made: Record, disks: argv.Disks) -> None:
        assert disks.kernel is not None
        kernel = replace(disks.kernel, cmdline=f"{disks.kernel.cmdline} {MASKED}")
        super()._spawn(folder, made, replace(disks, kernel=kernel))


@dataclass(frozen=True)
class Boot:
    """One boot: seconds of the guest's own clock, and what each of kiosk's stages took."""

    kiosk: bool
    layers: int
    seconds: float
    stages: dict[str, float]


def boot(farm: Farm, vms: Path, *, kiosk: bool, layers: Sequence[str], flavour: Flavour) -> Boot:
    """Boots once, and looks when what had to be reached was reached."""
    make = QemuCloud if kiosk else WithoutKiosk
    cloud = make(vms, farm.cache, boot="direct-kernel")
    image, refs = farm.image(), tuple(farm.layer(name) for name in layers)
    with files.scratch(vms, prefix="bundle-") as bundle:
        make_bundle(farm.cache, farm.settings.host / "metadata", (image, *refs), bundle)
        spec = VmSpec("boot", image, refs, flavour, bundle)
        state = cloud.start(spec)
    try:
        stages: dict[str, float] = {}
        if kiosk:
            state = settled(cloud, state.id)
            assert state.phase == "ready", state
            stages = dict((cloud.report(state.id).attestation or {})["stage_seconds"])  # type: ignore[arg-type]
        units = ["multi-user.target", *(["kiosk-ready.target"] if kiosk else [])]
        reached = [_reached(cloud, state.id, unit) for unit in units]
        return Boot(kiosk, len(refs), max(reached), stages)
    finally:
        cloud.stop(state.id, now=True)


def _reached(cloud: QemuCloud, id: str, unit: str) -> float:
    """Seconds after which a unit was active, asked once the whole boot is done."""
    until = time.monotonic() + LIMIT
    while True:
        try:
            inside(cloud, id, "systemctl", "is-system-running", "--wait")
            break
        except GuestError:  # its agent is not up yet
            if time.monotonic() > until:
                raise
    words = ("systemctl", "show", "--value", "--property=ActiveEnterTimestampMonotonic", unit)
    found = int(inside(cloud, id, *words).stdout)
    assert found, unit
    return found / 1e6


def table(boots: Sequence[Boot]) -> list[str]:
    """Medians, and the goal."""
    bare = statistics.median(b.seconds for b in boots if not b.kiosk)
    lines = [f"{'':<22} seconds to ready  ratio", f"{'without kiosk':<22} {bare:16.2f}   1.00"]
    for count in sorted({b.layers for b in boots if b.kiosk}):
        some = [b for b in boots if b.kiosk and b.layers == count]
        took = statistics.median(b.seconds for b in some)
        lines.append(f"{f'kiosk, {count} layers':<22} {took:16.2f} {took / bare:6.2f}")
        for stage in some[0].stages:
            lines.append(f"  {stage:<20} {statistics.median(b.stages[stage] for b in some):16.2f}")
        verdict = "PASS" if took / bare <= GOAL else "FAIL"
        lines.append(f"{verdict}  with {count} layers at most {GOAL} times as long as without kiosk")
    return lines


def main() -> None:
    """Measures and prints."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--layers", default="0,2")
    arguments.add_argument("--flavour", default="tiny")
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    flavour = Flavour.parse(given.flavour)
    boots: list[Boot] = []
    with made() as farm, files.scratch(farm.home / "tests", prefix="boot-") as vms:
        for _ in range(given.runs):
            boots.append(boot(farm, vms, kiosk=False, layers=(), flavour=flavour))
            for count in map(int, given.layers.split(",")):
                boots.append(boot(farm, vms, kiosk=True, layers=list(LAYERS)[:count], flavour=flavour))
    print("\n".join(table(boots)))
    if given.json:
        given.json.write_text(json.dumps([vars(b) for b in boots], indent=1) + "\n")


if __name__ == "__main__":
    main()
