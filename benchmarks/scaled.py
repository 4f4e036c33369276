"""`kiosk`, as patient as a slow link needs: `python -m benchmarks.scaled FACTOR WORDS...`.

kiosk gives an object up that comes more slowly than any real farm's would. The benchmark's links are slower than
real ones by FACTOR, and so this limit is, too.
"""

from __future__ import annotations

import functools
import sys

from kiosk.cli.main import main
from kiosk.store import http


def run() -> None:
    """Runs kiosk."""
    factor = float(sys.argv[1])
    usual = http.Patience()
    http.Patience = functools.partial(  # type: ignore[misc,assignment]
        http.Patience,
        connect=usual.connect * factor,
        read=usual.read * factor,
        slowest=usual.slowest / factor,
    )
    sys.argv[:] = ["kiosk", *sys.argv[2:]]
    main()


if __name__ == "__main__":
    run()
