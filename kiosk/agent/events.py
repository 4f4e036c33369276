"""Server-sent events: the parser, and the thread that stays connected.

A stream that lies can at the worst make the agent look for what is new. Lines and events are bounded.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kiosk.agent.web import Web, WebError

LONGEST = 1 << 16
FIRST, LAST = 1.0, 300.0
"""Seconds between tries to connect: at first, and at the most."""
LASTING = 60.0
"""Seconds after which a stream that ends was a good one, and is taken up again soon."""


@dataclass(frozen=True)
class Event:
    """A named event and its data."""

    name: str
    data: str


class Parser:
    """Takes bytes as they come and gives events."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that are complete now. WebError where a line or an event is longer than any should be."""
        *lines, self._rest = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n")
        if len(self._rest) > LONGEST:
            raise WebError("an event is too long")
        for line in lines:
            if (event := self._line(line.decode("utf-8", "replace"))) is not None:
                yield event

    def _line(self, line: str) -> Event | None:
        if line == "":
            name, data = self._name or "message", self._data
            self._name, self._data, self._size = "", [], 0
            return Event(name, "\n".join(data)) if data else None
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "event":
            self._name = value[:100]
        elif key == "data":
            self._size += len(value) + 1
            if self._size > LONGEST:
                raise WebError("an event is too long")
            self._data.append(value)
        return None


def pause(tries: int, chance: Callable[[], float] = random.random) -> float:
    """Seconds before the next try, after so many that failed: twice as long each time, anywhere between half
    and all of it."""
    return float(min(LAST, FIRST * 2.0 ** min(tries, 10)) * (0.5 + 0.5 * chance()))


class Stream(threading.Thread):
    """Stays connected until the process ends; `told` is called for every event, `state` with None once
    connected and with a reason when that is over. Both from this thread."""

    def __init__(
        self, web: Web, path: str, told: Callable[[Event], None], state: Callable[[str | None], None]
    ) -> None:
        super().__init__(name="kiosk-events", daemon=True)
        self._web = web
        self._path = path
        self._told = told
        self._state = state
        self._ended = threading.Event()

    def run(self) -> None:
        """Connects again and again, with growing pauses."""
        tries = 0
        while not self._ended.is_set():
            begin = time.monotonic()
            try:
                self._once()
                why = "the server ended it"
            except WebError as e:
                why = str(e)
            tries = 0 if time.monotonic() - begin > LASTING else tries + 1
            self._state(why)
            self._ended.wait(pause(tries))

    def end(self) -> None:
        """Makes it the last connection."""
        self._ended.set()

    def _once(self) -> None:
        parser = Parser()
        for data in self._web.stream(self._path, {"Accept": "text/event-stream"}):
            if not data:
                self._state(None)
            for event in parser.feed(data):
                self._told(event)
