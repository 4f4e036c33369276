"""A kiosk, a Squid and hypervisors for the benchmark of distribution at scale: the real programs, as installed.

Every program runs in its host's namespace. Hosts' folders are in memory, since hosts do not share one disk.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.network import Host
from kiosk import data
from kiosk.errors import NetworkError
from kiosk.run import CommandError, detached, ended, run, service
from kiosk.serve.squid import adapted

SCALED = [sys.executable, "-m", "benchmarks.scaled"]
KIOSK = [sys.executable, "-m", "kiosk"]
IMAGE = "bench"
PORT, PROXY_PORT = 8080, 3128
START = 60.0
BLOCK = 1 << 20
GIGABIT = 1_000_000_000
PROJECT = Path(__file__).parent.parent


@dataclass
class Origin:
    """The kiosk host: its repository and its server."""

    host: Host
    home: Path

    @property
    def url(self) -> str:
        """What hypervisors ask."""
        return f"http://{self.host.address}:{PORT}"

    @property
    def root(self) -> Path:
        """The root of trust."""
        return self.home / "repository" / "metadata" / "1.root.json"

    @property
    def env(self) -> dict[str, str]:
        """The environment of its commands."""
        return {
            "KIOSK_HOME": str(self.home),
            "KIOSK_PASSPHRASE_FILE": str(self.home / "passphrase"),
            "KIOSK_PROGRESS": "0",
        }

    def kiosk(self, *words: str | Path) -> str:
        """Runs a kiosk command there."""
        return run([*KIOSK, *words], timeout=600, env=self.env)

    def create(self, size: int) -> None:
        """An empty signed repository, and a version of an image to publish: `size` bytes that no program can
        make smaller."""
        self.home.mkdir(parents=True)
        (self.home / "passphrase").write_text("nothing to hide\n")
        self.kiosk("init")
        disk = self.home / "disk.raw"
        with disk.open("wb") as f:
            for n in range(-(-size // BLOCK)):
                f.write(random.Random(n).randbytes(min(BLOCK, size - n * BLOCK)))
        self.kiosk("import", disk, "--format", "raw", "--name", IMAGE, "--version", "1")
        disk.unlink()

    def publish(self) -> float:
        """Publishes it. Returns when that was done, by the monotonic clock."""
        words = ["publish", IMAGE, "--without-audit", "made of noise, for a benchmark"]
        run([*SCALED, "1", *words], timeout=600, env=self.env, cwd=PROJECT)
        return time.monotonic()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """`kiosk serve` while the block lasts."""
        argv = [*self.host.inside, *KIOSK, "serve", "--listen", f"{self.host.address}:{PORT}"]
        with service(argv, log_to=self.home / "serve.log", env=self.env):
            wait(self.host, PORT, self.home / "serve.log")
            yield


@dataclass
class Hypervisor:
    """One host that fetches."""

    host: Host
    home: Path
    origin: Origin
    proxy: str | None = None
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.home.name
        self.home.mkdir(parents=True)

    @property
    def env(self) -> dict[str, str]:
        """The environment of its commands."""
        return {"KIOSK_HOME": str(self.home), "KIOSK_PROGRESS": "0", "KIOSK_URL": self.origin.url}

    @property
    def log(self) -> Path:
        """What its program said."""
        return self.home / "log"

    def done(self) -> bool:
        """Whether the image is verified and current here."""
        return (self.home / "host" / "images" / IMAGE / "current").is_symlink()

    def waits(self) -> bool:
        """Whether its agent has verified the repository, and hears of what changes."""
        try:
            found = json.loads((self.home / "host" / "agent.json").read_bytes())
        except (OSError, ValueError):
            return False
        return bool(found.get("timestamp")) and found.get("state") == "idle" and bool(found.get("connected"))

    def sync(self) -> subprocess.Popen[bytes]:
        """Starts `kiosk sync`: plain HTTP, as patient with its links as it is at 1 Gbit/s."""
        options = ["--root", str(self.origin.root), *(["--proxy", self.proxy] if self.proxy else [])]
        slower = str(max(1.0, GIGABIT / self.host.rate))
        argv = [*self.host.inside, *SCALED, slower, "sync", *options]
        return detached(argv, log_to=self.log, cwd=PROJECT, env=self.env)

    def agent(self) -> subprocess.Popen[bytes]:
        """Starts `kiosk agent`."""
        token = self.home / "token"
        token.write_text(self.origin.kiosk("fleet", "token", self.name).strip())
        token.chmod(0o600)
        file = self.home / "agent.toml"
        file.write_text(
            f'host = "{self.name}"\nurl = "{self.origin.url}"\nroot = "{self.origin.root}"\n'
            f'token_file = "{token}"\norigin_rate = {self.origin.host.rate // 8}\nkeep_free = "0"\n'
        )
        argv = [*self.host.inside, *KIOSK, "agent", "--agent-config", str(file)]
        return detached(argv, log_to=self.log, cwd=self.home, env=self.env)

    def said(self) -> str:
        """The last lines of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.strip().splitlines()[-5:])


@contextlib.contextmanager
def squid(host: Host, folder: Path, origin: Origin) -> Iterator[str]:
    """A Squid with the site's configuration; gives its URL."""
    cache = folder / "cache"
    cache.mkdir(parents=True)
    conf = folder / "squid.conf"
    changes = {
        "http_port": f"{host.address}:{PROXY_PORT}",
        "acl kiosk": f"dstdomain {origin.host.address}",
        "acl kiosk_port": f"port {PORT}",
        "cache_dir": f"aufs {cache} 2000 16 256",
        "coredump_dir": str(cache),
        "access_log": f"stdio:{folder}/access.log squid",
        "cache_log": f"{folder}/cache.log",
        "pid_filename": f"{folder}/squid.pid",
    }
    text = (data.folder("server") / "squid.conf").read_text(encoding="utf-8")
    conf.write_text(adapted(text, changes) + "visible_hostname kiosk-benchmark\n")
    for path in (folder, cache):
        shutil.chown(path, "proxy", "proxy")
    run([*host.inside, "squid", "-N", "-z", "-f", conf], timeout=START)
    with service([*host.inside, "squid", "-N", "-f", conf], log_to=folder / "out"):
        wait(host, PROXY_PORT, folder / "cache.log")
        yield f"http://{host.address}:{PROXY_PORT}"


@contextlib.contextmanager
def running(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Ends all of them with the block."""
    with ExitStack() as stack:
        for process in processes:
            stack.enter_context(ended(process))
        yield
        for process in processes:  # all at once, and not one after the other
            if process.poll() is None:
                process.terminate()


def wait(host: Host, port: int, log: Path) -> None:
    """Until something listens there."""
    probe = [*host.inside, sys.executable, "-c", PROBE, host.address, str(port), str(START)]
    try:
        run(probe, timeout=START + 30)
    except CommandError as e:
        raise NetworkError("the server did not start", where=str(log)) from e


PROBE = """\
import socket, sys, time
end = time.monotonic() + float(sys.argv[3])
while True:
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1).close()
        break
    except OSError:
        if time.monotonic() > end:
            raise
        time.sleep(0.05)
"""
