"""A network of this host's own for VMs: a bridge with tap interfaces, and a server that jobs send their output to."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.boot.farm import waiting_for

LOCK = Path("/run/lock/kiosk-test-bridge")
BRIDGE, TAPS = "kiosk-t0", ("kiosk-t1", "kiosk-t2", "kiosk-t3")
HOST = "10.77.33.1"
LEASES = "10.77.33.100,10.77.33.200"


def guest(tap: str) -> str:
    """The address of the VM at a tap."""
    return f"10.77.33.{10 + TAPS.index(tap)}"


def ip(*words: str) -> None:
    """Runs `ip`."""
    subprocess.run(["ip", *words], check=True)


@contextmanager
def bridge() -> Iterator[tuple[str, ...]]:
    """The taps, in a bridge that has HOST. One test run of this host at a time has them; what a killed one left is
    removed first. The test is skipped where this host makes no tap."""
    with waiting_for(LOCK):
        remove()
        probe = subprocess.run(
            ["ip", "tuntap", "add", "dev", TAPS[0], "mode", "tap"], capture_output=True, text=True
        )
        if probe.returncode != 0:
            pytest.skip(f"this host makes no tap interface: {probe.stderr.strip()}")
        try:
            ip("link", "add", BRIDGE, "type", "bridge")
            ip("addr", "add", f"{HOST}/24", "dev", BRIDGE)
            ip("link", "set", BRIDGE, "up")
            for tap in TAPS:
                if tap != TAPS[0]:
                    ip("tuntap", "add", "dev", tap, "mode", "tap")
                ip("link", "set", tap, "master", BRIDGE, "up")
            yield TAPS
        finally:
            remove()


@contextmanager
def addresses(folder: Path) -> Iterator[None]:
    """Gives the VMs at the bridge addresses by DHCP, as a site's network does."""
    words = [
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--port=0",
        "--user=root",
        "--no-ping",
    ]
    words += [f"--interface={BRIDGE}", "--except-interface=lo", "--bind-interfaces", "--dhcp-authoritative"]
    words += [
        f"--dhcp-range={LEASES},1h",
        f"--dhcp-leasefile={folder}/leases",
        f"--pid-file={folder}/dnsmasq.pid",
    ]
    with (folder / "dnsmasq.log").open("wb") as log:
        server = subprocess.Popen(
            [*words, "--log-facility=-"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        server.terminate()
        server.wait(10)


def remove() -> None:
    """Takes the interfaces away, those that are there."""
    for name in (*TAPS, BRIDGE):
        if Path("/sys/class/net", name).exists():
            ip("link", "del", name)


class Store:
    """Where jobs send their output, as to a storage element: `PUT /NAME`. `GET /NAME` is answered once the test says
    so, so that a job ends when the test wants it to."""

    def __init__(self) -> None:
        self.received: dict[str, str] = {}
        self.open = threading.Event()
        store = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 600

            def do_PUT(self) -> None:
                length = min(int(self.headers["Content-Length"]), 1 << 20)
                store.received[self.path[1:]] = self.rfile.read(length).decode()
                self.answer()

            def do_GET(self) -> None:
                store.open.wait(600)
                self.answer()

            def answer(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://{HOST}:{self._server.server_port}"

    def close(self) -> None:
        """Answers everybody, and ends."""
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
