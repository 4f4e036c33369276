"""A kiosk's web side in miniature: the repository's files, and the fleet's calls as docs/fleet-api.md has them.

It checks every proof and every document, writes down what it was told, and does what a test has set.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from kiosk.model.report import Lease, LeaseRequest, Report
from kiosk.proof import mac

TOKEN = bytes(range(32))


class Fleet:
    """What the server knows and does. `lease` answers every question for a lease; None: there is no such call."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self.url = ""
        self.asked: list[str] = []
        self.reports: list[Report] = []
        self.leases: list[LeaseRequest] = []
        self.lease: Lease | None = Lease(granted=True, seconds=60, retry=1, fanout=1)
        self.sequence = 0
        self.api = True
        self.streams: list[queue.Queue[bytes | None]] = []
        self.told = threading.Condition()
        self.greeting: list[bytes] = []
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    def start(self) -> None:
        """Listens, on the same port as before where it did."""
        handler = partial(Handler, self, directory=str(self.repository))
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._server.daemon_threads = True
        self._port = self._server.server_port
        self.url = f"http://127.0.0.1:{self._port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Ends, and cuts every stream."""
        self.cut()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def cut(self) -> None:
        """Ends the event streams."""
        with self.told:
            for stream in self.streams:
                stream.put(None)
            self.streams.clear()

    def send(self, name: str, data: dict[str, Any]) -> None:
        """An event to all who listen."""
        with self.told:
            for stream in self.streams:
                stream.put(event(name, data))

    def changed(self) -> None:
        """Tells that the repository has changed."""
        self.send("changed", {"timestamp": self.version})

    @property
    def version(self) -> int:
        """The version of the served timestamp.json."""
        data = (self.repository / "metadata/timestamp.json").read_bytes()
        return int(json.loads(data)["signed"]["version"])

    def wait(self, until: Any, seconds: float = 20) -> None:
        """Waits until `until()` holds, looked at whenever the server was told something."""
        with self.told:
            assert self.told.wait_for(until, seconds), self.reports[-1:]


def event(name: str, data: dict[str, Any]) -> bytes:
    """An event as it goes over the wire."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


class Handler(SimpleHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 60

    def __init__(self, fleet: Fleet, *args: Any, **more: Any) -> None:
        self.fleet = fleet
        super().__init__(*args, **more)

    def log_message(self, format: str, *args: object) -> None: ...

    def do_GET(self) -> None:
        fleet = self.fleet
        with fleet.told:
            fleet.asked.append(self.path)
        if self.path.startswith("/api/events") and fleet.api:
            self.events()
        elif self.path.startswith("/metadata/timestamp.json"):
            self.tagged(Path(self.translate_path(self.path)).read_bytes())
        else:
            super().do_GET()

    def tagged(self, data: bytes) -> None:
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        same = self.headers.get("If-None-Match") == tag
        self.send_response(304 if same else 200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", "0" if same else str(len(data)))
        self.end_headers()
        if not same:
            self.wfile.write(data)

    def events(self) -> None:
        stream: queue.Queue[bytes | None] = queue.Queue()
        with self.fleet.told:
            self.fleet.streams.append(stream)
            self.fleet.told.notify_all()
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(event("changed", {"timestamp": self.fleet.version}))
        for data in self.fleet.greeting:
            self.wfile.write(data)
        while (data := stream.get()) is not None:
            try:
                self.wfile.write(data)
            except OSError:
                return

    def do_POST(self) -> None:
        fleet = self.fleet
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not fleet.api:
            self.answer(404, {})
            return
        kind = Report if self.path == "/api/report" else LeaseRequest
        found: Any = kind.from_json(body, where=self.path)
        if (
            self.headers["Authorization"]
            != f"Kiosk host={found.host},mac={mac(TOKEN, 'POST', self.path, body)}"
        ):
            self.answer(401, {})
            return
        with fleet.told:
            if found.sequence <= fleet.sequence:
                self.answer(409, {"sequence": fleet.sequence})
                return
            fleet.sequence = found.sequence
            if kind is Report:
                fleet.reports.append(found)
                given: dict[str, Any] | None = {}
            else:
                fleet.leases.append(found)
                given = fleet.lease.model_dump() if fleet.lease else None
            fleet.told.notify_all()
        self.answer(404 if given is None else 200, given or {})

    def answer(self, status: int, fields: dict[str, Any]) -> None:
        data = json.dumps(fields).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with suppress(OSError):  # the agent was killed meanwhile
            self.wfile.write(data)


@contextmanager
def fleet(repository: Path) -> Iterator[Fleet]:
    """A served repository with the fleet's calls."""
    made = Fleet(repository)
    made.start()
    try:
        yield made
    finally:
        made.stop()
