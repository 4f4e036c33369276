"""The serial console on this terminal: attached until Ctrl-], or its log, harmless to print."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

from kiosk.cloud import untrusted
from kiosk.errors import GuestError, UsageError

LEAVE = b"\x1d"
LOG_LIMIT = 16 << 20


def print_log(path: Path) -> None:
    """Prints the console log (its last 16 MiB), without what a terminal would act upon."""
    data = untrusted.tail(path, size=LOG_LIMIT)
    sys.stdout.write(untrusted.printable(data.decode(errors="replace"), limit=LOG_LIMIT).replace("\r", ""))
    sys.stdout.flush()


def attach(path: Path) -> None:
    """Connects the terminal and the console until Ctrl-], or until the VM ends."""
    if not sys.stdin.isatty():
        raise UsageError("the console needs a terminal", hint="Use --log to print what was written so far.")
    with _connected(path) as console, _raw(sys.stdin.fileno()) as keys:
        print("(attached; Ctrl-] leaves)\r", file=sys.stderr, flush=True)
        while True:
            readable, _, _ = select.select([console.fileno(), keys], [], [])
            if console.fileno() in readable:
                data = console.recv(65536)
                if not data:
                    return
                os.write(sys.stdout.fileno(), data)
            if keys in readable:
                typed = os.read(keys, 1024)
                if not typed or LEAVE in typed:
                    return
                console.sendall(typed)


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[socket.socket]:
    with contextlib.ExitStack() as stack:
        try:
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, folder)
            connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            connection.connect(f"/proc/self/fd/{folder}/{path.name}")
        except OSError as e:
            raise GuestError(f"the console is gone: {e.strerror or e}", where=str(path)) from None
        yield connection


@contextlib.contextmanager
def _raw(terminal: int) -> Iterator[int]:
    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal)
        yield terminal
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
