"""A simulated cluster inside the one machine that joins it: made when its programs are first called, with that
machine's clock. Its master answers nobody on a machine whose name begins with `unanswered`."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from tests.simulators.lsf import programs
from tests.simulators.lsf.cluster import State

FASTER = 5.0
"""How many seconds pass in the cluster while one passes in the machine."""
MASTER = "10.0.2.2"
"""Of the network that QEMU makes: the machine finds its own address by it."""


def main(name: str, path: str, words: Sequence[str]) -> int:
    """Runs a program."""
    state = _state(Path(path))
    with state() as now:
        now["now"] = time.monotonic() * FASTER
    return programs.main(name, path, words)


def _state(path: Path) -> State:
    """The cluster; of two programs that make it at once, one does."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f"new-{os.getpid()}")
        own = socket.gethostname()
        with State.create(made, "ibm", MASTER)() as state:
            state.update(here=own, up=not own.startswith("unanswered"))
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
        made.unlink()
    return State(path)
