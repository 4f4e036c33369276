"""A fleet as it runs: `kiosk serve`, agents with tokens of their own, a version that comes by events, leases and the
swarm, and a server that dies on the way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kiosk.files import sha256
from kiosk.fleet.tokens import FleetKey
from kiosk.model.names import parse_ref
from tests.simulators.agent_host import Hypervisor
from tests.simulators.published import Kiosk, ready

HOSTS = ("hv1", "hv2", "hv3", "hv4")


@dataclass
class Serving:
    """`kiosk serve` as a process; one copy at a time leaves it by lease, so that all others have to share."""

    kiosk: Kiosk
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.kiosk.home / "serve.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        (self.kiosk.home / "kiosk.toml").write_text(
            f'home = "{self.kiosk.settings.home}"\nlease_copies = 1\n'
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        env = {**os.environ, "KIOSK_CONFIG": str(self.kiosk.home / "kiosk.toml"), "PYTHONUNBUFFERED": "1"}
        argv = [sys.executable, "-m", "kiosk", "serve", "--listen", f"127.0.0.1:{self.port}"]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(argv, env=env, stdout=out, stderr=out)
        wait(lambda: self.get("/healthz"), self.log.read_text)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return None

    def text(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=5) as answer:
            return str(answer.read().decode())


def wait(until: Callable[[], object], words: Callable[[], str], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, words()
        time.sleep(0.05)


@contextmanager
def farm(kiosk: Kiosk, server: Serving, **keys: Any) -> Iterator[list[Hypervisor]]:
    """The hypervisors with their agents running."""
    key = FleetKey.of(kiosk.settings.fleet_key)
    with ExitStack() as stack:
        hosts = []
        for number, name in enumerate(HOSTS):
            host = Hypervisor(
                kiosk,
                server.url,
                name,
                images=["worker"],
                swarm={"listen": f"127.0.1.{number + 1}:0", "peers": ["127.0.0.0/8"]},
                **keys,
            )
            (host.home / "token").write_text(key.token(name))
            host.start()
            stack.callback(lambda h=host: h.process is None or h.stop(signal.SIGKILL))
            hosts.append(host)
        yield hosts


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    made = Serving(ready(tmp_path))
    made.start()
    yield made
    made.kill()


def all_have(hosts: list[Hypervisor], version: str) -> bool:
    return all(h.current() == version for h in hosts)


def words(hosts: list[Hypervisor], server: Serving) -> Callable[[], str]:
    return lambda: server.log.read_text() + "".join(f"\n{h.home.name}: {h.words()}" for h in hosts)


@pytest.mark.slow
def test_a_version_reaches_all_hosts_by_event_lease_and_swarm(server: Serving) -> None:
    kiosk = server.kiosk
    kiosk.image(version="2")
    with farm(kiosk, server, bandwidth=400_000) as hosts:  # so that one host alone would take long
        said = words(hosts, server)
        wait(lambda: all_have(hosts, "2"), said)
        kiosk.image(version="3")
        wait(lambda: all_have(hosts, "3"), said)
        disk = kiosk.settings.images / "worker" / "3" / "disk.raw"
        ref = parse_ref("worker@3")
        assert {sha256(h.cache.version_folder(ref) / "disk.raw") for h in hosts} == {sha256(disk)}
        wait(lambda: len((server.get("/api/fleet") or {}).get("hosts", [])) == len(HOSTS), said)
        wait(lambda: all(h.state().get("state") == "idle" for h in hosts), said)
        swarm = sum(h.state().get("swarm", 0) for h in hosts)
        assert swarm > 0, said()
        wait(lambda: sum(h["uploaded_bytes"] for h in server.get("/api/fleet")["hosts"]) >= swarm, said)
        wait(lambda: "\nkiosk_swarm_leechers 0.0\n" in server.text("/metrics"), said)
        assert "\nkiosk_swarm_seeds 0.0\n" not in server.text("/metrics")
        assert 'version="3"' in server.text("/metrics") or "worker@3" in server.text("/metrics")


@pytest.mark.slow
def test_a_server_killed_while_a_version_goes_out_costs_time_only(server: Serving) -> None:
    kiosk = server.kiosk
    with farm(kiosk, server, poll=2, origin_rate=1_000_000_000) as hosts:
        said = words(hosts, server)
        wait(lambda: all_have(hosts, "1"), said)
        kiosk.image(version="2")
        server.kill()
        hosts[0].stop(signal.SIGKILL)
        time.sleep(0.5)
        assert all(h.current() in ("1", "2") for h in hosts)
        server.start()
        hosts[0].start()
        wait(lambda: all_have(hosts, "2"), said, 90)
