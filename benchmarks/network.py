"""A farm's network on one machine: hosts as network namespaces on a bridge, each with a link of its own rate.

* Both directions of every link are shaped by the kernel (`tbf`), and counted by it.
* A host reaches the others of its network and nothing else.
* What a killed run left (namespaces, the processes in them, bridges) is removed by the next one: all names carry
  the number of the process that made them.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kiosk.run import CommandError, run

SUBNET = ipaddress.ip_network("10.213.0.0/16")
NAMES = re.compile(r"kb([0-9]+)(?:x[0-9]+)?")
BURST = 64 << 10
QUEUE = "150ms"
"""A frame waits so long in front of a link at the most: about what a switch has."""
COUNTERS = Path("/sys/class/net")


@dataclass(frozen=True)
class Host:
    """A namespace with one link. `rate` in bits a second, each way."""

    namespace: str
    address: str
    rate: int

    @property
    def inside(self) -> list[str]:
        """The words before a command that is to run there."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}", "--"]

    def received(self) -> int:
        """Bytes that came to it over its link."""
        return self._counter("tx_bytes")

    def sent(self) -> int:
        """Bytes that it sent over its link."""
        return self._counter("rx_bytes")

    def _counter(self, name: str) -> int:
        return int((COUNTERS / self.namespace / "statistics" / name).read_text())


class Network:
    """A bridge; `host` adds hosts to it."""

    _numbers = itertools.count(1)  # a namespace that was removed may be there for a moment yet

    def __init__(self) -> None:
        self.bridge = f"kb{os.getpid()}"
        self._count = 0

    def host(self, rate: int, rack: int = 0) -> Host:
        """A new host; those of one `rack` share a /24."""
        self._count += 1
        name = f"{self.bridge}x{next(self._numbers)}"
        address = str(SUBNET[256 * rack + self._count])
        ip(f"netns add {name}")
        ip(f"link add {name} mtu 1500 type veth peer name eth0 netns {name}")
        ip(f"link set {name} master {self.bridge} up")
        ip(f"-n {name} addr add {address}/{SUBNET.prefixlen} dev eth0")
        ip(f"-n {name} link set eth0 up")
        ip(f"-n {name} link set lo up")
        shape = f"root tbf rate {rate}bit burst {BURST} latency {QUEUE}"
        run(["tc", *f"qdisc add dev {name} {shape}".split()], timeout=30)
        run(["tc", *f"-n {name} qdisc add dev eth0 {shape}".split()], timeout=30)
        return Host(name, address, rate)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """An empty network, and nothing of it left afterwards."""
    remove_leftovers()
    made = Network()
    remove(os.getpid())
    ip(f"link add {made.bridge} type bridge stp_state 0 forward_delay 0")
    try:
        ip(f"link set {made.bridge} up")
        yield made
    finally:
        remove(os.getpid())


def ip(words: str) -> str:
    """ip(8)."""
    return run(["ip", *words.split()], timeout=30)


def remove_leftovers() -> None:
    """Removes what runs have left that are no more."""
    for owner in {owner for owner, _ in _found()}:
        if not Path(f"/proc/{owner}").exists():
            remove(owner)


def remove(owner: int) -> None:
    """Ends what runs in one run's namespaces, and removes them and its bridge."""
    mine = [name for number, name in _found() if number == owner]
    for name in mine:
        _empty(name)
        for kind in ("link", "netns"):
            with contextlib.suppress(CommandError):
                ip(f"{kind} del {name}")


def _found() -> list[tuple[int, str]]:
    folder = Path("/run/netns")
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    links = [link["ifname"] for link in json.loads(ip("-j link show") or "[]") if link]
    found = [(NAMES.fullmatch(name), name) for name in [*names, *links]]
    return [(int(match[1]), name) for match, name in found if match]


def _empty(name: str) -> None:
    """Ends the processes of a namespace."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for _ in range(50):
            try:
                left = [int(pid) for pid in ip(f"netns pids {name}").split()]
            except CommandError:
                return
            if not left:
                return
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(0.1)
