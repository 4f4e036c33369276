"""`kiosk serve`: the repository over plain HTTP."""

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
    """Serve the repository over plain HTTP until Ctrl-C.

    Clients need no more: everything that they fetch is verified against signatures. A large site puts
    nginx in its place, with the same headers.

    Example: `kiosk serve --listen 0.0.0.0:8080`
    """
    from kiosk.serve import static

    root = settings(ctx).repository
    if not root.is_dir():
        raise NotFoundError("there is no repository", where=str(root), hint="Make one with: kiosk init")
    host, port = address(listen)
    try:
        server = static.serve(root, host, port)
    except OSError as e:
        raise NetworkError(f"can't listen: {e.strerror}", where=listen) from None
    with server:
        say(f"Serving {root} on http://{host if ':' not in host else f'[{host}]'}:{server.server_port}/")
        server.serve_forever()


def address(text: str) -> tuple[str, int]:
    """Reads HOST:PORT (an IPv6 address in brackets)."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"{text!r} is not HOST:PORT", hint="For example 127.0.0.1:8080")
    return host, int(port)
