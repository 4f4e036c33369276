"""The EFI system partition: a FAT file system with the one file that firmware starts, always the same bytes."""

from __future__ import annotations

import math
import os
from pathlib import Path

from kiosk.run import run

MIB = 1 << 20
PATH = "EFI/BOOT/BOOTX64.EFI"


def make(target: Path, image: Path, *, serial: str, date: int) -> None:
    """Writes the file system; `serial` is eight hexadecimal digits."""
    size = max(34, math.ceil((image.stat().st_size * 1.02 + MIB) / (4 * MIB)) * 4) * MIB
    os.utime(image, (date, date))
    with target.open("xb") as f:
        f.truncate(size)
    env = {"SOURCE_DATE_EPOCH": str(date), "TZ": "UTC", "MTOOLS_SKIP_CHECK": "1"}
    run(["mkfs.vfat", "--invariant", "-F", "32", "-i", serial, "-n", "ESP", target], timeout=60, env=env)
    for folder in ("EFI", "EFI/BOOT"):
        run(["mmd", "-i", target, f"::/{folder}"], timeout=60, env=env)
    run(["mcopy", "-m", "-i", target, image, f"::/{PATH}"], timeout=120, env=env)
