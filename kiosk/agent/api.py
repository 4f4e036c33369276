"""The signed calls to `kiosk serve` (docs/fleet-api.md): reports and leases, one after the other in one thread.

The daemon's loop never waits for them. Their numbers grow for ever; where the server knows a higher one (this
host's clock was set back), it says where to go on.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kiosk.agent.web import Answer, Web, WebError
from kiosk.proof import mac

LARGEST_ANSWER = 1 << 16
QUEUED = 64
Then = Callable[[Answer | None], None]
"""Told the answer, or None where there was none. Called in the API's thread."""


@dataclass(frozen=True)
class _Call:
    path: str
    fields: Mapping[str, Any]
    then: Then


class Api(threading.Thread):
    """Calls as `host`, with its `token`."""

    def __init__(self, web: Web, host: str, token: bytes) -> None:
        super().__init__(name="kiosk-api", daemon=True)
        self._web = web
        self._host = host
        self._token = token
        self.trouble = "no answer"
        """Why the last call that got no answer got none."""
        self._sequence = int(time.time() * 1000)
        self._calls: queue.Queue[_Call] = queue.Queue(QUEUED)

    def post(self, path: str, fields: Mapping[str, Any], then: Then) -> None:
        """Queues a call; answered with None at once where too many wait."""
        try:
            self._calls.put_nowait(_Call(path, fields, then))
        except queue.Full:
            then(None)

    def run(self) -> None:
        """Calls, for ever."""
        while True:
            call = self._calls.get()
            call.then(self._made(call))

    def _made(self, call: _Call) -> Answer | None:
        for _ in range(2):
            try:
                answer = self._send(call)
            except WebError as e:
                self.trouble = str(e)
                return None
            if answer.status != 409:
                break
            self._go_on(answer)
        return answer

    def _send(self, call: _Call) -> Answer:
        self._sequence += 1
        fields = {**call.fields, "host": self._host, "sequence": self._sequence}
        body = json.dumps(fields, separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Kiosk host={self._host},mac={mac(self._token, 'POST', call.path, body)}",
        }
        return self._web.call("POST", call.path, body=body, headers=headers)

    def _go_on(self, answer: Answer) -> None:
        number = read(answer).get("sequence")
        if isinstance(number, int) and self._sequence < number < (1 << 62):
            self._sequence = number


def read(answer: Answer) -> dict[str, Any]:
    """The JSON object of an answer; empty where it is none."""
    try:
        found = json.loads(answer.body[:LARGEST_ANSWER])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


TROUBLE = 30.0
"""Seconds before a kiosk is asked again that gave no proper answer."""


def lease(answer: Answer | None) -> dict[str, Any] | None:
    """A lease, its numbers within bounds; None where nobody gives leases: nobody answers, or nothing of that kind is
    there, or not for this host. A kiosk that is in trouble refuses."""
    if answer is None or answer.status in (401, 403, 404, 405, 501):
        return None
    refused: dict[str, Any] = {"granted": False, "seconds": 0.0, "retry": TROUBLE, "slot": 0, "fanout": 0}
    if answer.status == 429:
        after = answer.headers.get("retry-after", "")
        return {**refused, "retry": min(3600.0, float(after)) if after.isdecimal() else 5.0}
    found = read(answer)
    if answer.status != 200 or not isinstance(found.get("granted"), bool):
        return refused
    made: dict[str, Any] = {"granted": found["granted"]}
    for key, most in (("seconds", 3600), ("retry", 3600), ("slot", 1000), ("fanout", 1_000_000)):
        value = found.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            return refused
        made[key] = value if key in ("seconds", "retry") else int(value)
    return made
