"""What agents post: reports and requests for leases. Who says it is verified before anything of it is believed.

A body is read up to its limit alone. A call counts for the host that signed it and for no other. Sequence numbers,
leases and bytes are stored before the answer is sent, by one thread, so that no two calls see the same state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TypeVar

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from kiosk.errors import KioskError, PolicyError, StorageError, VerificationError
from kiosk.fleet.catalogue import Catalogue
from kiosk.fleet.database import Database, Host, StaleSequence
from kiosk.fleet.tokens import FleetKey
from kiosk.log import logger
from kiosk.model.base import explain
from kiosk.model.report import LARGEST_REPORT, Lease, LeaseRequest, Report
from kiosk.serve.leases import FASTEST, Leases
from kiosk.serve.tracker import Tracker

log = logger(__name__)

LARGEST_REQUEST = 4 << 10
SLOWEST = 20.0
EVERY = 0.5
BURST = 8
STATUS = {
    VerificationError: HTTPStatus.UNAUTHORIZED,
    PolicyError: HTTPStatus.FORBIDDEN,
    StorageError: HTTPStatus.SERVICE_UNAVAILABLE,
}
T = TypeVar("T", Report, LeaseRequest)


class Refused(Exception):
    """An answer other than 200; `wait` seconds before another try."""

    wait = 0.0

    def __init__(
        self, status: HTTPStatus, error: str, hint: str = "See docs/fleet-api.md.", **more: object
    ) -> None:
        super().__init__(error)
        self.status = status
        self.body = {"error": error, "hint": hint, **more}


class Rate:
    """One call in `EVERY` seconds for each host, some more after a rest."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}

    def count(self, host: str, now: float) -> None:
        """Counts a call; Refused where it came too early."""
        due = max(self._next.get(host, now), now)
        if due - now > EVERY * (BURST - 1):
            refused = Refused(HTTPStatus.TOO_MANY_REQUESTS, "too many calls of this host")
            refused.wait = due - now - EVERY * (BURST - 1)
            raise refused
        if len(self._next) > 4096:
            self._next = {h: t for h, t in self._next.items() if t > now}
        self._next[host] = due + EVERY


class Desk:
    """Takes calls. `catalogue` is what the kiosk offers now."""

    def __init__(
        self,
        key: FleetKey,
        database: Database,
        leases: Leases,
        tracker: Tracker,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._key = key
        self._database = database
        self._leases = leases
        self._tracker = tracker
        self._rate = Rate()
        self._now = now
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="kiosk-fleet")
        self.catalogue = Catalogue()
        self.refused = 0

    async def report(self, request: Request) -> JSONResponse:
        """`POST /api/report`"""
        return await self._answer(request, Report, LARGEST_REPORT, self._take_report)

    async def lease(self, request: Request) -> JSONResponse:
        """`POST /api/lease`"""
        return await self._answer(request, LeaseRequest, LARGEST_REQUEST, self._take_lease)

    async def _answer(
        self, request: Request, kind: type[T], most: int, take: Callable[[T, str], dict[str, object]]
    ) -> JSONResponse:
        headers = {"Cache-Control": "no-store"}
        try:
            said = self._signed(request, kind, await body_of(request, most))
            self._rate.count(said.host, time.monotonic())
            address = request.client.host if request.client else ""
            loop = asyncio.get_running_loop()
            return JSONResponse(await loop.run_in_executor(self.thread, take, said, address), headers=headers)
        except Refused as e:
            self.refused += 1
            log.info("%s %s: %s", request.url.path, e.status, e)
            if e.wait:
                headers["Retry-After"] = str(int(e.wait) + 1)
            return JSONResponse(e.body, int(e.status), headers)

    def _signed(self, request: Request, kind: type[T], body: bytes) -> T:
        try:
            host = self._key.caller(
                request.headers.get("authorization", ""), request.method, request.scope["path"], body
            )
        except VerificationError as e:
            raise Refused(HTTPStatus.UNAUTHORIZED, e.what, e.hint or "") from None
        try:
            said = kind.model_validate_json(body, strict=True)
        except ValidationError as e:
            raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"not a {kind.__name__}: {explain(e)}") from None
        if said.host != host:
            raise Refused(HTTPStatus.UNAUTHORIZED, f"{host} may not speak for another host")
        return said

    def _take_report(self, said: Report, address: str) -> dict[str, object]:
        now = self._now()
        before = self._accept(said, address, now, said)
        read = origin_delta(before, said, now)
        if read:
            self._leases.budget.report(said.host, read, now)
            self._keep()
        return {}

    def _take_lease(self, said: LeaseRequest, address: str) -> dict[str, object]:
        now = self._now()
        self._accept(said, address, now, None)
        catalogue = self.catalogue
        version = f"{said.name}@{said.version}"
        swarm = next((i for i, name in catalogue.swarms.items() if name == version), b"")
        known = catalogue.versions if catalogue.timestamp else None
        before = self._leases.held()
        answer: Lease = self._leases.ask(
            said,
            now,
            known=known,
            size=catalogue.sizes.get(version),
            leechers=self._tracker.leechers(swarm),
        )
        if self._leases.held() != before:
            self._keep()
        return answer.model_dump(mode="json")

    def _accept(
        self, said: Report | LeaseRequest, address: str, now: float, report: Report | None
    ) -> Host | None:
        try:
            return self._database.accept(said.host, said.sequence, now=now, address=address, report=report)
        except StaleSequence as e:
            raise Refused(HTTPStatus.CONFLICT, e.what, sequence=e.last) from None
        except KioskError as e:
            raise _refused(e) from None

    def _keep(self) -> None:
        budget = self._leases.budget
        try:
            self._database.keep(self._leases.held(), budget.minutes())
            budget.changed.clear()
        except KioskError as e:
            raise _refused(e) from None


def _refused(error: KioskError) -> Refused:
    log.warning("%s", error)
    status = STATUS.get(type(error), HTTPStatus.INTERNAL_SERVER_ERROR)
    return Refused(status, error.what, error.hint or "")


def origin_delta(before: Host | None, said: Report, now: float) -> int:
    """The bytes that a host has read from the kiosk since its last report. What can't be true is cut; of a host
    that was not known, what it has read since its agent's start counts only if that was within the hour."""
    old = before.report if before else None
    if old is not None and old.since == said.since:
        read = max(0, said.origin_bytes - old.origin_bytes)
    else:
        read = said.origin_bytes if 0 <= now - said.since < 3600 or old is not None else 0
    passed = min(3600.0, now - before.reported) if before and before.reported else 3600.0
    return min(read, int(FASTEST * max(1.0, passed)))


async def body_of(request: Request, most: int) -> bytes:
    """A request's body of at most `most` bytes, none of it read where it says that it is longer."""
    said = request.headers.get("content-length", "0")
    too_large = Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {most} bytes")
    if not said.isdecimal() or int(said[:20]) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(SLOWEST):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, f"the body did not come within {SLOWEST:.0f} s") from None
    except ClientDisconnect:
        raise Refused(HTTPStatus.BAD_REQUEST, "the client went away") from None
    return bytes(body)
