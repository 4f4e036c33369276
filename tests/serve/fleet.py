"""A kiosk with a fleet for tests: the real server on loopback, and hosts that sign what they say."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import requests

from kiosk.config import Settings
from kiosk.fleet.tokens import FleetKey, sign
from kiosk.serve import app


@dataclass
class Agent:
    """A host that speaks to the kiosk at `url` under a token."""

    url: str
    host: str
    token: str
    sequence: int = 0

    def post(self, path: str, body: bytes, **headers: str) -> requests.Response:
        """A call with a right signature, and other headers if they are given."""
        mac = sign(self.token, "POST", path, body)
        said = {"Authorization": f"Kiosk host={self.host},mac={mac}", **headers}
        return requests.post(self.url + path, data=body, headers=said, timeout=20)

    def report(self, **more: Any) -> requests.Response:
        """A report with the next number."""
        self.sequence += 1
        return self.post("/api/report", json.dumps(self.words("report", **more)).encode())

    def lease(self, version: str = "worker@1", size: int = 100, **more: Any) -> requests.Response:
        """A request for a lease with the next number."""
        self.sequence += 1
        name, _, number = version.partition("@")
        words = {"schema": "kiosk.lease/1", "host": self.host, "sequence": self.sequence}
        body = {**words, "name": name, "version": number, "bytes": size, **more}
        return self.post("/api/lease", json.dumps(body).encode())

    def words(self, kind: str, **more: Any) -> dict[str, Any]:
        """A report as JSON has it."""
        return {
            "schema": f"kiosk.{kind}/1", "host": self.host, "sequence": self.sequence, "agent": "0.1",
            "since": 0, "state": "idle", **more,
        }  # fmt: skip


@dataclass
class Listener:
    """An open event stream; `heard` are its events."""

    heard: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, name: str, seconds: float = 10, **words: Any) -> dict[str, Any]:
        """The first event of that name with these words; AssertionError when none comes."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = [d for n, d in self.heard if n == name and words.items() <= d.items()]
            return bool(found)

        with self.news:
            assert self.news.wait_for(there, seconds), f"no {name} {words} in {self.heard}"
        return found[0]

    def read(self, answer: BinaryIO) -> None:
        name = ""
        with contextlib.suppress(OSError, ValueError):
            for line in answer:
                key, _, value = line.decode().rstrip().partition(": ")
                if key == "event":
                    name = value
                elif key == "data":
                    with self.news:
                        self.heard.append((name, json.loads(value)))
                        self.news.notify_all()


@dataclass
class Fleet:
    """A running kiosk."""

    url: str
    settings: Settings
    kiosk: app.Kiosk

    def agent(self, host: str = "hv-1") -> Agent:
        """A host with its token."""
        return Agent(self.url, host, FleetKey.of(self.settings.fleet_key).token(host))

    @contextlib.contextmanager
    def listener(self, host: str | None = "hv-1") -> Iterator[Listener]:
        """Listens to events while the block lasts."""
        found, port = Listener(), int(self.url.rpartition(":")[2])
        query = f"?host={host}" if host else ""
        with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
            line.sendall(f"GET /api/events{query} HTTP/1.0\r\n\r\n".encode())
            answer = line.makefile("rb")
            assert b" 200 " in answer.readline()
            thread = threading.Thread(target=found.read, args=[answer], daemon=True)
            thread.start()
            found.wait("changed")
            yield found
            line.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[Fleet]:
    """The server while the block lasts."""
    kiosk = app.Kiosk(settings)
    with app.Server(kiosk.application(), ("127.0.0.1", 0), lifespan=True) as server, server.running() as url:
        yield Fleet(url, settings, kiosk)


def bare(home: Path, **more: Any) -> Settings:
    """Settings of a kiosk with an empty repository."""
    (home / "repository" / "metadata").mkdir(parents=True, exist_ok=True)
    return Settings(home=home, **more)


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    """Waits for what is about to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.01)
