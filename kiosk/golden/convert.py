"""Disk images for qemu-img, as data: every file by its name and its format, so that no header names another."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from kiosk.golden.capture import Format
from kiosk.run import run

FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large")


def alone(path: Path, format: Format) -> dict[str, Any]:
    """An image without what may be below it."""
    driver = "host_device" if path.is_block_device() else "file"
    image: dict[str, Any] = {"driver": format, "file": {"driver": driver, "filename": str(path)}}
    if format == "qcow2":
        image["backing"] = None
    return image


def named(image: dict[str, Any]) -> str:
    """The image as a word of qemu-img's command line."""
    return "json:" + json.dumps(image)


def to_raw(image: dict[str, Any], target: Path, *, timeout: float) -> None:
    """Writes the image's content to a raw file with holes; CommandError."""
    run(["qemu-img", "convert", "-O", "raw", "-S", "4k", named(image), target], timeout=timeout)
