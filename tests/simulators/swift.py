"""A real OpenStack Swift with its S3 interface, on free ports of 127.0.0.1, its data in a folder.

Swift's dependencies are its own, so it lives in a virtual environment of its own, made once (about 30 s) below
the tests' home and used again. Four small processes; signatures and Content-MD5 are really checked.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kiosk import files
from kiosk.run import run, service
from tests.simulators.images import kept_home

VERSION = "2.38.3"
KEY, SECRET = "kiosk:ci", "SWIFTSECRET"
SERVERS = ("account", "container", "object", "proxy")
START = 60.0

COMMON = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 1
user = root
swift_dir = {folder}
log_address = /dev/null
log_level = WARNING
"""
STORAGE = """devices = {folder}/srv
mount_check = false
disable_fallocate = true
eventlet_debug = false
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""
MIDDLEWARE = {
    "catch_errors": "",
    "gatekeeper": "",
    "healthcheck": "",
    "proxy-logging": "",
    "cache": "memcache_servers = 127.0.0.1:{nowhere}",
    "listing_formats": "",
    "bulk": "",
    "s3api": "s3_acl = false\nlocation = us-east-1\nmin_segment_size = 1048576",
    "tempauth": "user_kiosk_ci = {secret} .admin",
    "copy": "",
    "slo": "",
    "dlo": "",
    "versioned_writes": "allow_versioned_writes = true\nallow_object_versioning = true",
    "symlink": "",
}
EGGS = {"proxy-logging": "proxy_logging", "cache": "memcache"}
SWIFT_CONF = """[swift-hash]
swift_hash_path_prefix = kiosk
swift_hash_path_suffix = ci
[storage-policy:0]
name = gold
default = yes
"""
RINGS = """
import sys
from swift.common.ring import RingBuilder
for name, port in (a.split("=") for a in sys.argv[2:]):
    ring = RingBuilder(4, 1, 0)
    ring.add_dev(dict(region=1, zone=1, ip="127.0.0.1", port=int(port), device="d1", weight=1))
    ring.rebalance()
    ring.get_ring().save(f"{sys.argv[1]}/{name}.ring.gz")
"""


@dataclass(frozen=True)
class Swift:
    """A running service."""

    endpoint: str
    key: str = KEY
    secret: str = SECRET


def environment() -> Path | None:
    """Swift's programs, where they have been installed."""
    folder = kept_home() / f"swift-{VERSION}"
    return folder / "bin" if (folder / "ready").exists() else None


def install() -> Path:
    """Makes Swift's virtual environment, unless it is there."""
    folder = kept_home() / f"swift-{VERSION}"
    with files.locked(folder.with_suffix(".lock"), what="Swift's virtual environment"):
        if environment() is None:
            run([sys.executable, "-m", "venv", "--clear", folder], timeout=120)
            pip = [folder / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
            run([*pip, f"swift=={VERSION}"], timeout=600)
            files.write(folder / "ready", b"")
    return folder / "bin"


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Swift]:
    """Swift, until the block ends. `folder` must be on a file system with extended attributes."""
    programs = install()
    ports = dict(zip((*SERVERS, "nowhere"), _free_ports(len(SERVERS) + 1), strict=True))
    (folder / "srv" / "d1").mkdir(parents=True)
    (folder / "swift.conf").write_text(SWIFT_CONF)
    for name in SERVERS[:3]:
        text = COMMON + STORAGE
        (folder / f"{name}.conf").write_text(text.format(name=name, port=ports[name], folder=folder))
    _rings(programs, folder, ports)
    (folder / "proxy.conf").write_text(_proxy(folder, ports))
    with contextlib.ExitStack() as stack:
        for name in SERVERS:
            argv = [programs / f"swift-{name}-server", folder / f"{name}.conf"]
            stack.enter_context(service(argv, log_to=folder / f"{name}.log"))
        endpoint = f"http://127.0.0.1:{ports['proxy']}"
        _wait(endpoint, [ports[n] for n in SERVERS], folder)
        yield Swift(endpoint)


def _proxy(folder: Path, ports: dict[str, int]) -> str:
    order = "catch_errors gatekeeper healthcheck proxy-logging cache listing_formats bulk s3api tempauth copy slo dlo"
    text = COMMON.format(port=ports["proxy"], folder=folder)
    text += f"[pipeline:main]\npipeline = {order} versioned_writes symlink proxy-server\n"
    text += "[app:proxy-server]\nuse = egg:swift#proxy\nallow_account_management = true\naccount_autocreate = true\n"
    for name, more in MIDDLEWARE.items():
        text += f"[filter:{name}]\nuse = egg:swift#{EGGS.get(name, name)}\n"
        text += more.format(secret=SECRET, **ports) + "\n"
    return text


def _rings(programs: Path, folder: Path, ports: dict[str, int]) -> None:
    """Which device keeps what: one device, by Swift's own builder."""
    argv = [str(folder), *(f"{name}={ports[name]}" for name in SERVERS[:3])]
    run([programs / "python", "-c", RINGS, *argv], timeout=30)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def _wait(endpoint: str, ports: list[int], folder: Path) -> None:
    until = time.monotonic() + START
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            for port in ports:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            with urllib.request.urlopen(f"{endpoint}/healthcheck", timeout=2) as answer:
                if answer.status == 200:
                    return
        time.sleep(0.05)
    logs = "\n".join((folder / f"{n}.log").read_text(errors="replace")[-500:] for n in SERVERS)
    raise AssertionError(f"Swift did not start:\n{logs}")


def credentials() -> dict[str, str]:
    """What boto3 reads from the environment."""
    return {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}


if __name__ == "__main__":  # by hand: python -m tests.simulators.swift FOLDER
    with running(Path(sys.argv[1])) as started:
        print(started.endpoint, " ".join(f"{k}={v}" for k, v in credentials().items()), flush=True)
        os.read(0, 1)
