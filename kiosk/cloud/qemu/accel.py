"""Is KVM there, and does a guest really run on it? A probe that boots one says so.

On some machines (nested, or behind another VMM) /dev/kvm opens and simple code runs, but a guest hangs as
soon as it waits for an interrupt in 64-bit mode. So the probe is a small guest that does that: it switches to
long mode with paging, computes a little, then sleeps (hlt) until the timer has interrupted it eight times,
and writes to QEMU's debug exit port. The answer is kept until the host boots again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

from kiosk import files
from kiosk.cloud.qemu.record import Accel
from kiosk.errors import UsageError, VerificationError
from kiosk.log import logger
from kiosk.model.base import Document
from kiosk.run import CommandError, run

log = logger(__name__)

BOOT_SECTOR = bytes.fromhex(
    "fa31c08ed88ec08ed0bc007cbf0010b90018fcf3ab66c7060010"  # stack, clear 0x1000..0x7000
    "0320000066c70600200330000066c706003083000000"  # page tables: the first 2 MiB, identity
    "66b8001000000f22d80f20e06683c8200f22e0"  # cr3; cr4.PAE
    "66b9800000c00f32660d000100000f30"  # EFER.LME
    "0f0116007d0f20c0660d010000800f22c0ea697c0800"  # lgdt; cr0.PG and PE; far jump to 64-bit code
    "66b810008ed88ec08ed0bc007c0000"  # data segments
    "bf0050000031c0b900040000f3ab"  # interrupt table at 0x5000
    "bf00520000b8e07c000066890766c74702080066c74704008e0f011c25067d0000"  # vector 0x20 is `tick`
    "b011e620b020e621b004e621b001e621b0fee621"  # interrupt controller: only the timer
    "b034e643b09ce640b02ee640"  # timer: 100 a second
    "31dbb9002d3101ffc975fc"  # count down from 20 million
    "fbf483fb0872fa"  # sti; hlt until eight ticks
    "b010e6f4f4ebfd"  # debug exit port: 0x10
    "ffc3b020e62048cf"  # tick: count, end of interrupt, return
).ljust(0xE8, b"\0") + bytes.fromhex(
    "0000000000000000" "00000000009a2000" "0000000000920000"  # segments: none, 64-bit code, data
    "1700e87c0000" "ff0f0050000000000000"  # where they and the interrupt table are
)  # fmt: skip
PASSED = (0x10 << 1) | 1
LIMIT = 4.0


class Probe(Document):
    """What a probe found, and in which boot of the host."""

    boot: str
    kvm: bool
    reason: str


def choose(wanted: Literal["kvm", "tcg", "auto"], cache: Path) -> Accel:
    """How to run guests. UsageError where KVM is asked for and does not work."""
    if wanted == "tcg":
        return "tcg"
    found = probe(cache)
    if not found.kvm and wanted == "kvm":
        raise UsageError(f"KVM does not work here: {found.reason}", hint="Use --accel tcg (slow), or auto.")
    if not found.kvm:
        log.info("guests are emulated (slow), KVM does not work here: %s", found.reason)
    return "kvm" if found.kvm else "tcg"


def probe(cache: Path) -> Probe:
    """What the probe says, from `cache` where that is of this boot of the host."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    try:
        known = Probe.from_json(cache.read_bytes(), where=str(cache))
        if known.boot == boot:
            return known
    except (OSError, VerificationError):
        pass
    reason = failure("kvm", cache.parent)
    found = Probe(boot=boot, kvm=reason is None, reason=reason or "a guest ran")
    files.write(cache, found.to_json())
    return found


def failure(accel: Accel, folder: Path) -> str | None:
    """Boots the probe's guest; what went wrong, or None where it ran to its end."""
    if accel == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return (
            "/dev/kvm is not there or may not be used"
            if Path("/dev/kvm").exists()
            else "there is no /dev/kvm"
        )
    with files.scratch(folder, prefix="probe-") as work:
        disk = work / "boot.img"
        disk.write_bytes(BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa")
        file = {"driver": "file", "filename": str(disk)}
        drive = json.dumps({"driver": "raw", "node-name": "boot", "file": file})
        words: list[str | Path] = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-m", "16",
            "-machine", "pc", "-accel", accel, "-blockdev", drive,
            "-device", "ide-hd,drive=boot", "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
        ]  # fmt: skip
        try:
            run(words, timeout=LIMIT)
        except CommandError as e:
            if e.status == PASSED:
                return None
            if e.status < 0:
                return f"a guest hung (a test guest was not done after {LIMIT:.0f} s)"
            return f"QEMU ended with status {e.status}: {e.output.strip().splitlines()[-1:]}"
    return "the test guest ended without a result"
