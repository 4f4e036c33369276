"""Progress bars: tqdm on a terminal, silence elsewhere unless KIOSK_PROGRESS=1."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from tqdm import tqdm

if TYPE_CHECKING:
    Bar = tqdm[NoReturn]
else:
    Bar = tqdm


def bar(description: str, total: int | None, *, unit: str = "B") -> Bar:
    """A bar of `total` units; bytes are shown scaled. Use it as a context manager."""
    quiet = not sys.stderr.isatty() and os.environ.get("KIOSK_PROGRESS") != "1"
    return Bar(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=unit == "B",
        disable=quiet,
        leave=False,
        file=sys.stderr,
        mininterval=0.2,
    )
