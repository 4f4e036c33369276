"""An ASGI application on a port. uvicorn does the work; this module adds what it leaves open:

* who says nothing is dropped: no request within `SILENCE` seconds, or nothing taken of an answer for as long;
* a request's head is at most `HEAD` bytes;
* connections beyond what the process may open are answered with 503 instead of failing inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import threading
from collections.abc import Iterator
from typing import Any, Literal

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SILENCE = 60.0
HEAD = 64 << 10
BACKLOG = 4096
RESERVE = 256
"""Open files that are not connections: the files served, the database, the log."""
ROOM = 1 << 20
logging.getLogger("uvicorn").setLevel(logging.ERROR)


class Connection(HttpToolsProtocol):
    """One connection. In a request's `scope["state"]`, `gone` says whether the client has left; an answer without
    an end puts there, as `leave`, what is called when the server ends."""

    _watch: asyncio.TimerHandle | None = None
    _head = 0
    _asked = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the client."""
        self._rest()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes part of a request; a head without an end ends the connection."""
        if not self._asked:
            self._head += len(data)
            if self._watch is None:
                self._wait()
            if self._head > HEAD + 65536:
                self.transport.abort()
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["state"]["gone"] = self.transport.is_closing

    def on_headers_complete(self) -> None:
        """A request's head is here."""
        self._rest()
        self._asked, self._head = True, 0
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """The next request may come; until then uvicorn's own limit for idle connections counts."""
        self._asked = False
        super().on_response_complete()

    def shutdown(self) -> None:
        """The server ends: an answer without an end is asked to leave."""
        leave = self.scope["state"].get("leave") if self.scope else None
        if leave is not None:
            leave()
        super().shutdown()

    def pause_writing(self) -> None:
        """The client is slower than we are: it has some time to take something."""
        super().pause_writing()
        self._wait()

    def resume_writing(self) -> None:
        """The client took what there was."""
        self._rest()
        super().resume_writing()

    def _wait(self) -> None:
        self._rest()
        self._watch = self.loop.call_later(SILENCE, self.transport.abort)

    def _rest(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None


class Server:
    """Listens on (host, port) from the start; port 0 takes a free one. OSError where it can't."""

    def __init__(
        self, app: Any, address: tuple[str, int], *, connections: int | None = None, lifespan: bool = False
    ) -> None:
        self.app = app
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.create_server(address, family=family, backlog=BACKLOG)
        # a client that vanished without a word is noticed by what it does not acknowledge
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENCE * 1000))
        self.server_port = int(self._socket.getsockname()[1])
        state: Literal["on", "off"] = "on" if lifespan else "off"
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=Connection,
                loop="uvloop",
                ws="none",
                lifespan=state,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=int(SILENCE),
                timeout_graceful_shutdown=1,
                limit_concurrency=connections or open_files() - RESERVE,
                backlog=BACKLOG,
                forwarded_allow_ips="127.0.0.1,::1",
            )
        )

    def serve_forever(self) -> None:
        """Serves until `shutdown`, Ctrl-C or SIGTERM."""
        self._server.run(sockets=[self._socket])

    def shutdown(self) -> None:
        """Ends `serve_forever`, from another thread."""
        self._server.should_exit = True

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return len(self._server.server_state.connections)

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Serves in a thread while the block lasts; gives the URL."""
        thread = threading.Thread(target=self.serve_forever, name="kiosk-serve", daemon=True)
        host = self._socket.getsockname()[0]
        thread.start()
        try:
            yield f"http://{host if ':' not in host else f'[{host}]'}:{self.server_port}"
        finally:
            self.shutdown()
            thread.join()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def open_files() -> int:
    """Lets this process open as many files as it may, and says how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ROOM if hard == resource.RLIM_INFINITY else min(hard, ROOM)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(wanted, soft)
