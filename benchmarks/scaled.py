"""`kiosk` in a small model of a farm: `python -m benchmarks.scaled FACTOR WORDS...`.

kiosk gives an object up that comes more slowly than any real farm's would. The benchmark's links are slower than
real ones by FACTOR, and so this limit is, too. Its image is smaller than a real one, and so are the objects that it is
published in: a real image has thousands, and how many there are decides how well hosts can exchange them.
"""

from __future__ import annotations

import functools
import sys

from kiosk.cli.main import main
from kiosk.store import http, packer

SILENCE = 60.0
"""Seconds without a byte, when a slow link is shared by hundreds of connections."""
OBJECT = 64
"""Blocks in an object: 256 KiB."""


def run() -> None:
    """Runs kiosk."""
    factor = float(sys.argv[1])
    usual = http.Patience()
    http.Patience = functools.partial(  # type: ignore[misc,assignment]
        http.Patience,
        read=max(usual.read, SILENCE),
        slowest=usual.slowest / factor,
    )
    packer.PACK = OBJECT
    sys.argv[:] = ["kiosk", *sys.argv[2:]]
    main()


if __name__ == "__main__":
    run()
