"""Runs a real Squid with the site's configuration file, for a trial on one machine: the demo and the tests.

`server/squid.conf` is used as it is, but for the lines that a site edits as well.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from kiosk import data, run
from kiosk.errors import KioskError, NetworkError

START = 30.0


def adapted(text: str, changes: Mapping[str, str]) -> str:
    """The configuration with the lines that begin with a key of `changes` replaced; each must be there once."""
    lines = text.splitlines()
    for directive, value in changes.items():
        at = [i for i, line in enumerate(lines) if line.startswith(f"{directive} ")]
        if len(at) != 1:
            raise KioskError(
                f"has {len(at)} lines that begin with {directive!r} instead of one", where="squid.conf"
            )
        lines[at[0]] = f"{directive} {value}"
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def running(folder: Path, *, port: int, kiosk: str, cache_mb: int = 4000) -> Iterator[str]:
    """A Squid on 127.0.0.1:`port` in front of the kiosk at the URL `kiosk`, until the block ends.

    Gives the proxy's URL. Cache and logs are in `folder` (`access.log` says what came from the cache).
    """
    origin = urlsplit(kiosk)
    if not origin.hostname:
        raise KioskError(f"{kiosk!r} is not a URL")
    folder = folder.resolve()
    cache = folder / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    changes = {
        "http_port": f"127.0.0.1:{port}",
        "acl kiosk": f"dstdomain {origin.hostname}",
        "acl kiosk_port": f"port {origin.port or 80}",
        "cache_dir": f"aufs {cache} {cache_mb} 16 256",
        "coredump_dir": str(cache),
        "access_log": f"stdio:{folder}/access.log squid",
        "cache_log": f"{folder}/cache.log",
        "pid_filename": f"{folder}/squid.pid",
    }
    conf = folder / "squid.conf"
    text = (data.folder("server") / "squid.conf").read_text(encoding="utf-8")
    conf.write_text(adapted(text, changes) + "visible_hostname kiosk-trial\n")
    if os.geteuid() == 0:  # Squid gives up root for this user
        for path in (folder, cache):
            shutil.chown(path, "proxy", "proxy")
    run.run(["squid", "-N", "-z", "-f", conf], timeout=START)
    with run.service(["squid", "-N", "-f", conf], log_to=folder / "squid.out") as process:
        try:
            _wait(port, folder)
            yield f"http://127.0.0.1:{port}"
        finally:
            # at once: after SIGTERM it waits some seconds for idle clients
            process.send_signal(signal.SIGINT)


def _wait(port: int, folder: Path) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise NetworkError("Squid did not start", where=str(folder / "squid.out"), hint=f"See {folder}/cache.log")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
