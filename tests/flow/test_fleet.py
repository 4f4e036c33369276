"""A fleet as it runs: `kiosk serve`, agents with tokens of their own, a version that comes by events, leases and the
swarm, and a server that dies on the way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from kiosk.files import sha256
from kiosk.fleet.tokens import FleetKey
from kiosk.model.manifest import Object
from kiosk.model.names import parse_ref
from kiosk.publish.signed import listed
from kiosk.store.directory import DirectoryStore
from kiosk.store.objects import path_of
from kiosk.swarm.session import Session
from kiosk.swarm.torrent import read
from tests.simulators.agent_host import Hypervisor
from tests.simulators.published import Kiosk, ready
from tests.simulators.swarm import QUICK, remember_as_whole

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


def wait(until: Callable[[], object], words: Callable[[], str], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, words()
        time.sleep(0.05)


@contextmanager
def farm(
    kiosk: Kiosk, server: Serving, names: Sequence[str] = HOSTS, **keys: Any
) -> Iterator[list[Hypervisor]]:
    """The hypervisors with their agents running."""
    key = FleetKey.of(kiosk.settings.fleet_key)
    with ExitStack() as stack:
        hosts = []
        for number, name in enumerate(names):
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
        wait(lambda: all_have(hosts, "2"), said)


@pytest.mark.slow
def test_one_host_in_five_vanishes_in_the_middle_and_comes_back(server: Serving) -> None:
    """A host is killed while the swarm brings it a version and it gives to others: they go on, and so does it."""
    kiosk = server.kiosk
    kiosk.image(version="2")
    with farm(kiosk, server, [f"hv{n}" for n in range(5)], bandwidth=250_000) as hosts:
        said = words(hosts, server)
        wait(lambda: any(in_the_middle(h) for h in hosts), said)
        gone = next(h for h in hosts if in_the_middle(h))
        worker = gone.worker()
        gone.stop(signal.SIGKILL)
        if worker is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        rest = [h for h in hosts if h is not gone]
        assert not all_have(rest, "2"), "in the middle"
        wait(lambda: all_have(rest, "2"), said)
        assert gone.current() == "None", "what is half here is not current"
        gone.start()
        wait(lambda: gone.current() == "2", said)
        disk = kiosk.settings.images / "worker" / "2" / "disk.raw"
        ref = parse_ref("worker@2")
        assert {sha256(h.cache.version_folder(ref) / "disk.raw") for h in hosts} == {sha256(disk)}
        wait(lambda: gone.state().get("state") == "idle", said)
        assert moved(gone) + 100_000 < min(map(moved, rest)), "it went on from what it had"


def in_the_middle(host: Hypervisor) -> bool:
    """Whether the swarm has brought some of a version, and not all."""
    fetching = host.state().get("fetching") or {}
    return (
        host.state().get("swarm", 0) > 200_000 and 0 < fetching.get("done", 0) < fetching.get("size", 0) // 2
    )


def moved(host: Hypervisor) -> int:
    """Bytes since the agent's start."""
    return int(host.state()["swarm"] + host.state()["http"])


@pytest.mark.slow
def test_a_liar_in_the_swarm_keeps_nobody_from_a_version(server: Serving, tmp_path: Path) -> None:
    """A peer that the tracker names has every object, all of them wrong."""
    kiosk = server.kiosk
    kiosk.image(version="2")
    torrent = next(m.torrent for m in listed(kiosk.settings).versions if m.ref == parse_ref("worker@2"))
    assert torrent is not None
    repository, folder = kiosk.settings.repository, tmp_path / "liar"
    data = DirectoryStore(repository).read(torrent.file)
    names = read(data, torrent.infohash)
    objects = [Object(digest=f"sha256:{n}", size=s) for n, s in zip(names.names, names.sizes, strict=True)]
    for one in objects:
        path = folder / path_of(one.digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(one.size))
    remember_as_whole(folder, objects)
    options = replace(QUICK, listen=("127.0.1.99:0",))
    with Session(folder, folder / "whole", options) as liar:

        def is_named() -> bool:
            if torrent.infohash in liar.torrents:
                liar.remove(torrent.infohash)
            trackers = [f"{server.url}/announce"]
            assert len(liar.add(data, torrent.infohash, trackers=trackers)) == len(objects)
            time.sleep(0.5)
            return "\nkiosk_swarm_seeds 1.0\n" in server.text("/metrics")

        wait(is_named, server.log.read_text)  # once the server has heard of the version
        with farm(kiosk, server, bandwidth=400_000) as hosts:
            said = words(hosts, server)
            wait(lambda: all_have(hosts, "2"), said)
            disk = kiosk.settings.images / "worker" / "2" / "disk.raw"
            ref = parse_ref("worker@2")
            assert {sha256(h.cache.version_folder(ref) / "disk.raw") for h in hosts} == {sha256(disk)}
            assert liar.stats().sent > 0, "it was listened to"
