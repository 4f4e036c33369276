"""kill -9 of `kiosk serve` in the middle of a distribution: leases, numbers and pushes are what they were."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import requests

from kiosk.config import Settings
from kiosk.fleet import Database, FleetKey, Push
from kiosk.serve.squid import free_port
from tests.serve.fleet import Agent, until
from tests.simulators.published import ready


@contextlib.contextmanager
def served(settings: Settings, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The real command, until the block ends."""
    words = [sys.executable, "-m", "kiosk", "serve", "--listen", f"127.0.0.1:{port}"]
    process = subprocess.Popen(
        words, env={**os.environ, "KIOSK_HOME": str(settings.home)}, stdout=subprocess.DEVNULL
    )

    def healthy() -> bool:
        assert process.poll() is None
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5).ok
        return False

    try:
        until(healthy, 30)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_killed_server_comes_back_with_its_leases_and_numbers(tmp_path: Path) -> None:
    settings = ready(tmp_path).settings
    port, key = free_port(), FleetKey.of(settings.fleet_key)
    agents = [Agent(f"http://127.0.0.1:{port}", f"hv-{n}", key.token(f"hv-{n}")) for n in range(12)]
    with served(settings, port) as process:
        assert [a.lease().json()["granted"] for a in agents[:4]] == [True, True, False, False]
        database = Database.of(settings)
        now = time.time()
        push = database.add_push(Push(0, ("worker",), created=now, expires=now + 600))
        process.send_signal(signal.SIGKILL)
        process.wait()
    with served(settings, port) as process:
        assert not any(a.lease().json()["granted"] for a in agents[2:]), "the holders have not come back yet"
        assert all(a.lease().json()["granted"] for a in agents[:2])
        agents[0].sequence = 0
        assert agents[0].report().json()["sequence"] == 2
        with requests.get(f"{agents[0].url}/api/events?host=hv-1", stream=True, timeout=10) as answer:
            lines = answer.iter_lines(chunk_size=1)
            until(lambda: f'{{"push": {push.id}' in next(lines).decode())
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 130
    database.close()
