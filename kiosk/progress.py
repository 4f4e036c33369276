"""Progress bars: tqdm on a terminal, silence elsewhere unless KIOSK_PROGRESS=1."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

from tqdm import tqdm

# tqdm's own lock is shared with forked processes: one that is killed while it holds it stops all others for ever.
tqdm.set_lock(threading.RLock())

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
