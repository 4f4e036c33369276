"""Telling systemd: ready, alive, reloading, stopping (sd_notify(3)), by one datagram each."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(text: str) -> None:
    """Sends lines such as READY=1; nothing happens where systemd did not ask for them."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s,
        contextlib.suppress(OSError),
    ):
        s.settimeout(1)
        s.sendto(text.encode(), "\0" + address[1:] if address[0] == "@" else address)


def watchdog() -> float | None:
    """Seconds between two signs of life that systemd wants; None where it does not watch."""
    pid, usec = os.environ.get("WATCHDOG_PID"), os.environ.get("WATCHDOG_USEC", "")
    if not usec.isdecimal() or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1e6 / 2
