"""Server-sent events for agents: the repository has changed, and what to fetch now.

A listener is told the state, not a history: however slow it is, it gets the newest timestamp and each push once,
and keeps nothing waiting. An event can only hasten what an agent would do at its next poll.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from kiosk.fleet.pushes import Push
from kiosk.fleet.tokens import HOST

ALIVE = 25.0
OF_ONE_HOST = 4
HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


@dataclass
class Hub:
    """What listeners are told, and who listens. Used from the event loop alone."""

    now: Callable[[], float]
    most: int = 20_000
    timestamp: int = 0
    pushes: Sequence[Push] = ()
    listening: set[asyncio.Event] = field(default_factory=set)
    hosts: Counter[str] = field(default_factory=Counter)

    def changed(self) -> None:
        """Wakes all listeners."""
        for one in self.listening:
            one.set()

    def news(self, host: str | None, told: Told) -> bytes:
        """What a listener does not know yet."""
        parts = []
        if self.timestamp != told.timestamp:
            told.timestamp = self.timestamp
            parts.append(event("changed", {"timestamp": self.timestamp}))
        told.pushes &= {p.id for p in self.pushes}
        for push in self.pushes if host is not None else ():
            if push.id not in told.pushes and push.asks(host or "", self.now()):
                told.pushes.add(push.id)
                parts.append(event("push", {"push": push.id, "images": list(push.images)}))
        return b"".join(parts)


@dataclass
class Told:
    """What a listener knows."""

    timestamp: int | None = None
    pushes: set[int] = field(default_factory=set)


def event(name: str, data: dict[str, object]) -> bytes:
    """An event as it is sent."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


class Events:
    """`GET /api/events`, as an ASGI application: it costs little for a listener that waits."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serves one listener until it goes."""
        host = (parse_qs(scope["query_string"].decode("latin-1")).get("host") or [None])[0]
        if host is not None and not HOST.fullmatch(host):
            await refuse(send, HTTPStatus.BAD_REQUEST, "host is not a host's name")
            return
        hub = self._hub
        if len(hub.listening) >= hub.most or (host is not None and hub.hosts[host] >= OF_ONE_HOST):
            await refuse(send, HTTPStatus.SERVICE_UNAVAILABLE, "there are too many listeners")
            return
        news = asyncio.Event()
        hub.listening.add(news)
        hub.hosts[host or ""] += 1
        gone = asyncio.create_task(_gone(receive))
        gone.add_done_callback(lambda _: news.set())
        scope.get("state", {})["leave"] = gone.cancel
        try:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await self._tell(host, news, gone, send)
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            hub.listening.discard(news)
            hub.hosts[host or ""] -= 1
            if hub.hosts[host or ""] <= 0:
                del hub.hosts[host or ""]

    async def _tell(self, host: str | None, news: asyncio.Event, gone: asyncio.Task[None], send: Any) -> None:
        told = Told()
        text = b": kiosk\n\n"
        while not gone.done():
            news.clear()
            text += self._hub.news(host, told)
            if text:
                await send({"type": "http.response.body", "body": text, "more_body": True})
            text = b""
            try:
                await asyncio.wait_for(news.wait(), ALIVE)
            except TimeoutError:
                text = b": still here\n\n"


async def _gone(receive: Any) -> None:
    """Waits until the listener goes."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def refuse(send: Any, status: HTTPStatus, error: str) -> None:
    """An error as JSON."""
    body = json.dumps({"error": error, "hint": "See docs/fleet-api.md."}).encode()
    headers = [
        (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"), (b"retry-after", b"30"),
    ]  # fmt: skip
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    with contextlib.suppress(OSError):
        await send({"type": "http.response.body", "body": body})
