"""`kiosk serve`: the repository's files, the fleet's calls, change events and the swarm's tracker in one process.

An agent hears of a new timestamp within a second of its publication. What it costs to look at the fleet is bounded:
pages are made at most once in `FRESH` seconds, whoever asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kiosk.config import Settings
from kiosk.errors import KioskError
from kiosk.fleet import catalogue, status
from kiosk.fleet.database import Database
from kiosk.fleet.tokens import FleetKey
from kiosk.log import logger
from kiosk.serve import listen, metrics
from kiosk.serve.budget import MINUTES, Budget
from kiosk.serve.events import Events, Hub
from kiosk.serve.leases import Leases
from kiosk.serve.listen import Server
from kiosk.serve.reports import Desk
from kiosk.serve.static import Files
from kiosk.serve.tracker import Tracker

log = logger(__name__)

LOOK = 0.2
ASK = 0.5
TIDY = HOUR = 3600.0
FRESH = 2.0
OTHERS = 512
"""Connections that are kept for others than listeners."""


class Kiosk:
    """Everything that one server is made of. Opens the database and the fleet key: StorageError where it can't."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.files = Files(settings.repository)
        self.database = Database.of(settings)
        self.tracker = Tracker()
        now = time.time()
        minutes = self.database.egress(int(now // 60) - MINUTES)
        budget = Budget(settings.origin_budget, {m: g for m, g, _ in minutes}, {m: r for m, _, r in minutes})
        self.leases = Leases(settings.lease_copies, budget, self.database.leases(now - HOUR), now=now)
        self.desk = Desk(FleetKey.of(settings.fleet_key), self.database, self.leases, self.tracker)
        self.hub = Hub(time.time, most=max(OTHERS, listen.open_files() - listen.RESERVE - OTHERS))
        self._reader = catalogue.Reader(settings.repository)
        self._fleet = _Kept(self._statuses)

    def application(self) -> Starlette:
        """The application."""
        app = Starlette(
            routes=[
                Route("/api/events", Events(self.hub), methods=["GET"]),
                Route("/api/report", self.desk.report, methods=["POST"]),
                Route("/api/lease", self.desk.lease, methods=["POST"]),
                Route("/api/fleet", self.fleet, methods=["GET"]),
                Route("/announce", self.announce, methods=["GET"]),
                Route("/metrics", self.metrics, methods=["GET"]),
                Route("/healthz", healthz, methods=["GET"]),
            ],
            lifespan=self.life,
        )
        app.router.redirect_slashes = False
        app.router.default = self.files
        return app

    @contextlib.asynccontextmanager
    async def life(self, _app: Starlette) -> AsyncIterator[None]:
        """Watches the repository and the pushes while the server runs."""
        await self._look()
        work = ((self._look, LOOK), (self._ask, ASK), (self._tidy, TIDY))
        tasks = [asyncio.create_task(_again(call, pause)) for call, pause in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.desk.thread.shutdown()
            self.database.close()

    # -- pages ------------------------------------------------------------------------------------------------

    async def fleet(self, _request: Request) -> Response:
        """`GET /api/fleet`"""
        found = await self._fleet.get()
        return JSONResponse(status.fleet(found), headers={"Cache-Control": "no-store"})

    async def metrics(self, _request: Request) -> Response:
        """`GET /metrics`"""
        found, now = await self._fleet.get(), time.time()
        loop = asyncio.get_running_loop()
        leases, waiting = await loop.run_in_executor(self.desk.thread, self.leases.counts, now)
        peers = self.tracker.counts().values()
        page = metrics.text(
            found,
            metrics.Numbers(
                listeners=len(self.hub.listening),
                sent=self.files.sent,
                refused=self.desk.refused,
                leases=leases,
                waiting=waiting,
                budget=self.leases.budget.limit,
                used=self.leases.budget.used(now),
                over=self.leases.budget.over(now),
                seeds=sum(s for s, _ in peers),
                leechers=sum(n for _, n in peers),
                timestamp=self.hub.timestamp,
            ),
        )
        return Response(page, media_type="text/plain; version=0.0.4", headers={"Cache-Control": "no-store"})

    async def announce(self, request: Request) -> Response:
        """`GET /announce`"""
        address = request.client.host if request.client else ""
        answer = self.tracker.announce(request.scope["query_string"], address, time.monotonic())
        return Response(answer, media_type="text/plain", headers={"Cache-Control": "no-store"})

    def _statuses(self) -> list[status.HostStatus]:
        return status.statuses(self.database.hosts(), self.desk.catalogue, time.time())

    # -- what goes on -----------------------------------------------------------------------------------------

    _seen: object = None
    _unread = False
    _pushed: object = None

    async def _look(self) -> None:
        """Notices a new timestamp: reads what is new, so that its swarm is known, then tells the listeners."""
        seen = await asyncio.to_thread(_mark, self.settings.repository / "metadata" / "timestamp.json")
        if seen == self._seen and not self._unread:
            return
        try:
            self.desk.catalogue = await asyncio.to_thread(self._reader.read)
        except (OSError, ValueError) as e:
            if not self._unread or seen != self._seen:
                log.warning("the repository can't be read: %s", e)
            self._unread = True
        else:
            self._unread = False
            self.tracker.allow(self.desk.catalogue.swarms)
        version = await asyncio.to_thread(catalogue.timestamp, self.settings.repository)
        if version != self.hub.timestamp:
            self.hub.timestamp = version
            self.hub.changed()
        self._seen = seen

    async def _ask(self) -> None:
        """Notices new pushes and new waves of them."""
        loop, now = asyncio.get_running_loop(), time.time()
        pushes = await loop.run_in_executor(self.desk.thread, self.database.open_pushes, now)
        state = [(p.id, p.share(now)) for p in pushes]
        if state != self._pushed:
            self._pushed = state
            self.hub.pushes = pushes
            self.hub.changed()

    async def _tidy(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self.desk.thread, self.database.tidy, time.time())


class _Kept:
    """A value that takes long to make, made at most once in `FRESH` seconds."""

    def __init__(self, make: Callable[[], list[status.HostStatus]]) -> None:
        self._make = make
        self._lock = asyncio.Lock()
        self._value: list[status.HostStatus] = []
        self._made = float("-inf")

    async def get(self) -> list[status.HostStatus]:
        """The value, not older than `FRESH` seconds."""
        async with self._lock:
            if time.monotonic() - self._made > FRESH:
                self._value = await asyncio.to_thread(self._make)
                self._made = time.monotonic()
            return self._value


async def _again(call: Callable[[], Awaitable[None]], pause: float) -> None:
    """Calls again and again; what fails now may do better later."""
    while True:
        try:
            await call()
        except KioskError as e:
            log.warning("%s", e)
        await asyncio.sleep(pause)


async def healthz(_request: Request) -> Response:
    """`GET /healthz`"""
    return JSONResponse({"state": "ok"}, headers={"Cache-Control": "no-store"})


def _mark(path: Path) -> tuple[int, int, int] | None:
    """Whatever changes when a file is replaced or written to."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def server(settings: Settings, address: tuple[str, int]) -> Server:
    """A server that is bound and listens; `serve_forever` runs it. OSError where it can't listen."""
    return Server(Kiosk(settings).application(), address, lifespan=True)
