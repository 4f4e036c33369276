"""A plain nginx and an rsync daemon on loopback, for as long as a block lasts, and what they sent."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kiosk.errors import NetworkError
from kiosk.run import service

CONF = """\
user root;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    log_format sent '$status $body_bytes_sent $request_uri';
    access_log {folder}/access.log sent;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    server {{
        listen 127.0.0.1:{port};
        root {root};
    }}
}}
"""
RSYNCD = """\
use chroot = no
reverse lookup = no
[images]
path = {root}
read only = yes
uid = root
gid = root
"""


@dataclass(frozen=True)
class Traffic:
    """What was sent to the host: bytes of bodies, and answers."""

    bytes: int
    requests: int


class Server:
    """A running nginx: its URL, and what it sent since it was last asked."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self._log = log
        self._read = 0

    def sent(self) -> Traffic:
        """All that was sent since the last call."""
        time.sleep(0.2)  # an answer is logged after its last byte is out
        with self._log.open("rb") as f:
            f.seek(self._read)
            lines = f.read().splitlines()
            self._read = f.tell()
        return Traffic(sum(int(line.split(b" ")[1]) for line in lines), len(lines))


@contextlib.contextmanager
def nginx(root: Path, folder: Path) -> Iterator[Server]:
    """Serves the files below `root`; its configuration and logs are in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    conf = folder / "nginx.conf"
    conf.write_text(CONF.format(folder=folder.resolve(), port=port, root=root.resolve()))
    log = folder / "access.log"
    log.unlink(missing_ok=True)
    argv: list[str | Path] = ["nginx", "-e", folder / "error.log", "-c", conf, "-g", "daemon off;"]
    with service(argv, log_to=folder / "nginx.out"):
        _wait(port, folder / "error.log")
        yield Server(f"http://127.0.0.1:{port}", log)


@contextlib.contextmanager
def rsyncd(root: Path, folder: Path) -> Iterator[str]:
    """Serves the files below `root` as the module `images`; gives its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    conf = folder / "rsyncd.conf"
    conf.write_text(RSYNCD.format(root=root.resolve()))
    argv: list[str | Path] = ["rsync", "--daemon", "--no-detach", f"--config={conf}", f"--port={port}"]
    with service([*argv, "--address=127.0.0.1"], log_to=folder / "rsyncd.out"):
        _wait(port, folder / "rsyncd.out")
        yield f"rsync://127.0.0.1:{port}/images"


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _wait(port: int, log: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise NetworkError("the server did not start", where=str(log))
