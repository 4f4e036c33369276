"""The benchmark of a farm works, leaves nothing behind, and judges by its figures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import network, swarm, swarm_goals
from benchmarks.farm import KIOSK
from kiosk import files
from kiosk.errors import KioskError
from kiosk.run import CommandError, run

PROBE = f"kiosk-probe-{os.getpid()}"


def has_namespaces() -> bool:
    """Whether `ip netns exec` works here: not without root, nor where / is no mount (in a chroot)."""
    if os.geteuid() != 0:
        return False
    try:
        run(["ip", "netns", "add", PROBE], timeout=20)
        try:
            run(["ip", "netns", "exec", PROBE, "true"], timeout=20)
        finally:
            run(["ip", "netns", "delete", PROBE], timeout=20)
    except KioskError:
        return False
    return True


ROOT = pytest.mark.skipif(not has_namespaces(), reason="network namespaces can't be used here")
PROJECT = Path(__file__).parent.parent.parent


def row(
    way: str, agents: int, last: float, copies: float = 1.0, first_byte: float | None = None
) -> dict[str, object]:
    return {
        "way": way,
        "agents": agents,
        "done": [last],
        "origin_bytes": copies * 100,
        "first_byte": first_byte,
        "failed": "",
    }


def met(rows: list[dict[str, object]], words: str) -> bool | None:
    (found,) = [goal.met for goal in swarm_goals.judge(100, rows) if words in goal.what]
    return found


def test_the_last_of_32_is_held_against_a_single_one() -> None:
    assert met([row("agent", 1, 10), row("agent", 32, 20)], "last of 32") is True
    assert met([row("agent", 1, 10), row("agent", 32, 20.1)], "last of 32") is False
    assert met([row("agent", 1, 10)], "last of 32") is None


def test_copies_are_those_of_the_worst_run() -> None:
    assert met([row("agent", 8, 10, 3.0), row("agent", 32, 10, 1.2)], "3 copies") is True
    assert met([row("agent", 8, 10, 3.1), row("agent", 32, 10, 1.2)], "3 copies") is False


def test_a_run_that_failed_meets_no_goal() -> None:
    broken = {**row("agent", 32, 5), "failed": "1 of 32 did not finish"}
    assert met([row("agent", 1, 10), broken], "last of 32") is None


def test_rows_of_a_later_run_take_the_place_of_the_older() -> None:
    old, new = [row("http", 1, 10), row("http", 2, 20)], [row("http", 2, 19)]
    assert [r["done"] for r in swarm.merged(old, new)] == [[10], [19]]


@ROOT
def test_hosts_reach_each_other_at_their_links_rate_and_are_counted() -> None:
    with network.network() as net:
        one, other = net.host(16_000_000), net.host(16_000_000)
        listen = [*one.inside, sys.executable, "-c", LISTEN, one.address]
        with subprocess.Popen(listen, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            server.stdout.readline()
            began = time.monotonic()
            subprocess.run([*other.inside, sys.executable, "-c", SEND, one.address], check=True, timeout=30)
            server.wait(30)
            seconds = time.monotonic() - began
        assert one.received() > 1_000_000
        assert other.sent() > 1_000_000
    assert seconds > 0.4  # 1 MB at 2 MB/s, and what the queue and the bucket let through
    assert not (Path("/run/netns") / one.namespace).exists()
    assert not (network.COUNTERS / net.bridge).exists()


@ROOT
def test_what_a_killed_run_left_is_gone_after_the_next() -> None:
    argv = [sys.executable, "-c", "from tests.benchmarks.test_swarm import stay; stay()"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=PROJECT) as process:
        assert process.stdout is not None
        name = process.stdout.readline().decode().strip()
        assert (Path("/run/netns") / name).exists()
        process.send_signal(signal.SIGKILL)
    with network.network():
        assert not (Path("/run/netns") / name).exists()


def stay() -> None:
    """Makes a host, says its name, and waits to be killed."""
    with network.network() as net:
        print(net.host(1_000_000).namespace, flush=True)
        time.sleep(60)


LISTEN = """\
import socket, sys
with socket.create_server((sys.argv[1], 9)) as s:
    print("listening", flush=True)
    c, _ = s.accept()
    while c.recv(1 << 16):
        pass
"""
SEND = """\
import socket, sys
with socket.create_connection((sys.argv[1], 9)) as s:
    s.sendall(bytes(1_000_000))
    s.shutdown(socket.SHUT_WR)
    s.recv(1)
"""


@ROOT
@pytest.mark.slow
@pytest.mark.parametrize("way", swarm.WAYS)
def test_three_hosts_get_a_small_image(way: str) -> None:
    farm = swarm.Farm(4 << 20, 40_000_000, 40_000_000, 160_000_000)
    if way == "agent":
        try:
            run([*KIOSK, "fleet", "--help"], timeout=60)
        except CommandError:
            pytest.skip("this kiosk has no fleet")
    with files.scratch(swarm.HOME / "kiosk-bench-swarm") as folder:
        folder.chmod(0o711)  # pytest's own folders are closed to Squid's user
        found = swarm.measure(way, 3, farm, folder / way)
    assert found.failed == ""
    assert len(found.done) == 3
    assert found.origin_bytes >= farm.size
    if way != "http":
        assert found.origin_bytes < 3.5 * farm.size


def test_of_two_runs_of_a_kind_the_slower_is_judged() -> None:
    runs = [row("agent", 1, 10), row("agent", 32, 29), row("agent", 32, 18)]
    assert met(runs, "last of 32") is False
