"""Freezing a node while a block runs, by a process of its own that thaws whatever happens to this one."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kiosk.cloud import untrusted
from kiosk.errors import GuestError
from kiosk.golden import freezer
from kiosk.log import logger
from kiosk.run import environment

log = logger(__name__)


@dataclass
class Window:
    """How a freeze went. `seconds` is known once the block has ended: from the request to freeze until the node
    said that it is thawed."""

    file_systems: int
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0


@contextlib.contextmanager
def frozen(spec: dict[str, Any], *, window: float) -> Iterator[Window]:
    """Freezes the node that `spec` describes (see `freezer.node_of`) while the block runs.

    The node is thawed at the end of the block, after `window` seconds, and when this process dies. GuestError
    where it can't be frozen, where the block took longer than the window, and where it does not thaw.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "kiosk.golden.freezer", json.dumps({**spec, "window": window})],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
        cwd="/",
    )
    log.debug("freezing by process %d", process.pid)
    assert process.stdin is not None and process.stdout is not None
    answer, patience = spec.get("answer", freezer.ANSWER), spec.get("patience", freezer.PATIENCE)
    thawing = 4 * answer + patience + 10
    with process.stdout as out:
        events = _Events(out.fileno())
        try:
            event = events.next(window + freezer.FREEZE + thawing)
            if event.get("event") != "frozen":
                raise _refused(event)
            found = ("the node was found frozen, and was thawed first",) if event.get("found_frozen") else ()
            state = Window(int(event["file_systems"]), found)
            yield state
        finally:
            with contextlib.suppress(OSError):
                process.stdin.write(b"thaw\n")
                process.stdin.flush()
            with contextlib.suppress(OSError):
                process.stdin.close()
            end = events.next(thawing)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            if end.get("event") == "failed" and end.get("frozen"):
                log.error("the node may still be FROZEN: %s", untrusted.line(str(end.get("what")), limit=500))
    if end.get("event") != "thawed":
        raise _refused(end)
    if end.get("by") != "request":
        raise GuestError(
            f"the node was thawed after {window:g} s, before its state was fixed",
            hint="Raise `window` in [source], or look why QEMU answers so slowly.",
        )
    state.seconds = float(end["seconds"])
    if state.file_systems == 0:
        raise GuestError("the guest agent froze no file system at all")


def _refused(event: dict[str, Any]) -> GuestError:
    what = untrusted.line(str(event.get("what", "the freezer ended without a word")), limit=1000)
    if event.get("frozen"):
        return GuestError(
            f"the node could not be thawed and MAY STILL BE FROZEN: {what}",
            hint="Thaw it by hand at once: fsfreeze -u in the node, virsh domfsthaw, or a reset.",
        )
    return GuestError(
        f"the node could not be frozen: {what}",
        hint="It needs a running qemu-guest-agent; with freeze = false a disk is captured as after a power cut.",
    )


class _Events:
    """The lines that the freezer says."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = b""

    def next(self, limit: float) -> dict[str, Any]:
        """The next event, or an empty one where the freezer ended or says nothing for `limit` seconds."""
        until = time.monotonic() + limit
        while b"\n" not in self._buffer:
            readable, _, _ = select.select([self._fd], [], [], max(0.0, until - time.monotonic()))
            data = os.read(self._fd, 4096) if readable else b""
            if not data:
                return {}
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        found = json.loads(line)
        return found if isinstance(found, dict) else {}
