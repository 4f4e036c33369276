"""`kiosk serve`: the repository over plain HTTP, and what a fleet of hypervisors needs besides."""

from __future__ import annotations

from typing import Annotated

import typer

from kiosk.cli.common import say, settings
from kiosk.errors import NetworkError, NotFoundError, UsageError


def register(app: typer.Typer) -> None:
    """Adds `serve`."""
    app.command()(serve)


def serve(
    ctx: typer.Context,
    listen: Annotated[str, typer.Option("--listen", help="HOST:PORT to listen on.")] = "127.0.0.1:8080",
) -> None:
    """Serve the repository, the fleet's calls, change events and the swarm's tracker until Ctrl-C.

    Clients that only read need no more than the files: everything that they fetch is verified against
    signatures. A large site puts nginx in front (server/nginx/kiosk.conf). See docs/fleet.md.

    Example: `kiosk serve --listen 0.0.0.0:8080`
    """
    from kiosk.serve import app

    s = settings(ctx)
    if not s.repository.is_dir():
        raise NotFoundError(
            "there is no repository", where=str(s.repository), hint="Make one with: kiosk init"
        )
    host, port = address(listen)
    try:
        server = app.server(s, (host, port))
    except OSError as e:
        raise NetworkError(f"can't listen: {e.strerror}", where=listen) from None
    with server:
        shown = host if ":" not in host else f"[{host}]"
        say(f"Serving {s.repository} on http://{shown}:{server.server_port}/")
        server.serve_forever()


def address(text: str) -> tuple[str, int]:
    """Reads HOST:PORT (an IPv6 address in brackets)."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"{text!r} is not HOST:PORT", hint="For example 127.0.0.1:8080")
    return host, int(port)
