"""The look at timestamp.json alone: has it another version than the one that was verified last?

The answer only decides whether a run starts; what is true, the run verifies.
"""

from __future__ import annotations

import json
from pathlib import Path

from kiosk.agent.web import Web, WebError

LARGEST = 1 << 16
PATH = "/metadata/timestamp.json"


class Poll:
    """Polls one kiosk: a web server or a folder. A bucket has no cheap look: every poll asks for a run."""

    def __init__(self, url: str, proxy: str | None, ca: str | None = None) -> None:
        self._web = Web(url, proxy, ca) if url.startswith(("http://", "https://")) else None
        self._folder = Path(url.removeprefix("file://")) if url.startswith("file://") else None
        self._etag: str | None = None
        self._version: int | None = None

    def version(self) -> int | None:
        """The version that timestamp.json claims; None where that can't be told from it. WebError when it can't
        be read."""
        if self._folder is not None:
            try:
                return claimed((self._folder / PATH[1:]).read_bytes()[:LARGEST])
            except OSError as e:
                raise WebError(str(e)) from None
        if self._web is None:
            return None
        headers = {"Cache-Control": "no-cache"}
        if self._etag is not None:
            headers["If-None-Match"] = self._etag
        answer = self._web.call("GET", PATH, headers=headers)
        if answer.status == 304 and self._etag is not None:
            return self._version
        if answer.status != 200:
            raise WebError(f"the server answered {answer.status}")
        self._version = claimed(answer.body)
        etag = answer.headers.get("etag")
        self._etag = etag if etag and self._version is not None and len(etag) < 200 else None
        return self._version


def claimed(data: bytes) -> int | None:
    """The version in a timestamp.json, unverified."""
    try:
        found = json.loads(data[:LARGEST])["signed"]["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, int) and not isinstance(found, bool) else None
