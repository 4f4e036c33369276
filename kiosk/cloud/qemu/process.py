"""Finding and ending QEMU processes. A VM's processes are those that were started with its UUID.

No process is taken for a VM because of its number: a number may be used again by another process, a
random UUID on the command line is not. Signals go through a pidfd that was opened before the check.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")


def uuid_of(pid: int) -> str | None:
    """The UUID of the VM that a process runs, or None where it is no QEMU."""
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    programs = (b"qemu-system-", b"prlimit")
    if not words[0].rpartition(b"/")[2].startswith(programs) or b"-uuid" not in words[:-1]:
        return None
    return words[words.index(b"-uuid") + 1].decode(errors="replace")


def running() -> dict[str, list[int]]:
    """All QEMU processes by the UUID of their VM, in one look at /proc."""
    found: dict[str, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal() and (uuid := uuid_of(int(entry.name))):
            found.setdefault(uuid, []).append(int(entry.name))
    return found


def folder_of(pid: int) -> Path | None:
    """The folder in which a process was started; it may have been removed since."""
    try:
        return Path(str((PROC / str(pid) / "cwd").readlink()).removesuffix(" (deleted)"))
    except OSError:
        return None


@contextlib.contextmanager
def opened(uuid: str) -> Iterator[list[int]]:
    """File descriptors (pidfd) of the VM's processes."""
    with contextlib.ExitStack() as stack:
        descriptors = []
        for pid in running().get(uuid, []):
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            stack.callback(os.close, descriptor)
            if uuid_of(pid) == uuid:
                descriptors.append(descriptor)
        yield descriptors


def ended(descriptors: list[int], timeout: float) -> bool:
    """Waits until all these processes have ended; False after `timeout` seconds."""
    until = time.monotonic() + timeout
    left = set(descriptors)
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    while left:
        events = poll.poll(max(0, (until - time.monotonic()) * 1000))
        if not events:
            return False
        for descriptor, _ in events:
            poll.unregister(descriptor)
            left.discard(descriptor)
    return True


def kill(descriptors: list[int]) -> None:
    """Ends processes at once."""
    for descriptor in descriptors:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    ended(descriptors, 10)
