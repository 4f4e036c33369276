"""A hypervisor with a real agent: the daemon and its work as processes, its words in a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kiosk.agent import state
from kiosk.model.names import parse_ref
from kiosk.sync import HostCache
from tests.simulators.kiosk_api import TOKEN
from tests.simulators.published import Kiosk


class Hypervisor:
    """One host: its settings as files, and its agent while it runs."""

    def __init__(self, kiosk: Kiosk, url: str, name: str = "node-1", **keys: Any) -> None:
        self.kiosk = kiosk
        self.home = kiosk.home / name
        self.home.mkdir(exist_ok=True)
        self.cache = HostCache(self.home / "host")
        self.file = self.home / "agent.toml"
        (self.home / "token").write_text(TOKEN.hex())
        self.said = self.home / "said"
        self.process: subprocess.Popen[bytes] | None = None
        keys = {"token_file": str(self.home / "token"), "keep_free": "0", "host": name, "url": url, **keys}
        self.keys: dict[str, Any] = {"root": str(kiosk.root), **keys}
        self.environment: dict[str, str] = {}
        self.write()

    def write(self) -> None:
        """Writes agent.toml."""
        tables = {k: v for k, v in self.keys.items() if isinstance(v, dict)}
        plain = {k: v for k, v in self.keys.items() if not isinstance(v, dict)}
        lines = [f"{k} = {toml(v)}" for k, v in plain.items()]
        for name, table in tables.items():
            lines += [f"[{name}]", *(f"{k} = {toml(v)}" for k, v in table.items())]
        self.file.write_text("\n".join(lines) + "\n")

    def argv(self, *words: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "kiosk", "agent", "--agent-config", str(self.file), *words]

    def env(self) -> dict[str, str]:
        """The environment."""
        return {**os.environ, "KIOSK_HOME": str(self.home), "PYTHONUNBUFFERED": "1", **self.environment}

    def start(self) -> None:
        """Starts the agent."""
        with self.said.open("ab") as out:
            self.process = subprocess.Popen(self.argv(), env=self.env(), stdout=out, stderr=out)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it and returns its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(30)
        self.process = None
        return code

    def once(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`kiosk agent --once`."""
        return subprocess.run(
            self.argv("--once", *words), env=self.env(), capture_output=True, text=True, timeout=60
        )

    def current(self, name: str = "worker") -> str:
        """The version that new VMs get."""
        return str(self.cache.current(parse_ref(name)))

    def words(self) -> str:
        """What the agent said."""
        return self.said.read_text() if self.said.exists() else ""

    def state(self) -> dict[str, Any]:
        """HOST/agent.json."""
        return state.read(self.home / "host")

    def worker(self) -> int | None:
        """The process that works now."""
        assert self.process is not None
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            found = path.read_text().split()
        except FileNotFoundError:
            return None
        return int(found[0]) if found else None

    def wait(self, until: Callable[[], object], seconds: float = 20) -> None:
        """Waits until it holds."""
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, self.words()
            time.sleep(0.02)


def toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value) if isinstance(value, int | float) else f'"{value}"'


@contextmanager
def hypervisor(kiosk: Kiosk, url: str, name: str = "node-1", **keys: Any) -> Iterator[Hypervisor]:
    """A host with its agent running, ended with the block."""
    made = Hypervisor(kiosk, url, name, **keys)
    made.start()
    try:
        yield made
    finally:
        if made.process is not None:
            made.stop(signal.SIGKILL)
