"""`kiosk mirror`: copies of a repository, and the mirror of a site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kiosk.cli.common import DryRun, Json, emit, say, settings, size
from kiosk.cli.publish import read_root
from kiosk.cli.serve import address
from kiosk.errors import UsageError


def register(app: typer.Typer) -> None:
    """Adds `mirror`."""
    app.command()(mirror)


def mirror(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="The repository: a URL (http, s3) or a folder.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A folder, or s3://BUCKET/PREFIX.")],
    newest: Annotated[
        int | None, typer.Option(min=1, help="Only the newest N versions of each name.")
    ] = None,
    serve: Annotated[
        str | None,
        typer.Option("--serve", metavar="HOST:PORT", help="Serve the folder, fetching what is asked for."),
    ] = None,
    proxy: Annotated[str | None, typer.Option(help="An HTTP proxy on the way to the URL.")] = None,
    root: Annotated[
        Path | None, typer.Option(help="Root of trust, needed the first time; it is kept then.")
    ] = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Copies a signed repository to a folder or a bucket, verified, without any key.

    Only what is missing is copied, and readers of the target see the old state or the new one. With --serve,
    the folder is a site's read-through mirror instead: it runs until Ctrl-C.

    Example: `kiosk mirror http://kiosk /srv/mirror --root root.json`, `kiosk mirror . s3://bucket/kiosk`
    """
    s = settings(ctx)
    given = read_root(root or s.root)
    if serve is not None:
        if newest is not None or dry_run or json:
            raise UsageError("--serve goes with none of --newest, --dry-run and --json")
        _serve(ctx, url, target, serve, proxy or s.proxy, given)
        return
    from kiosk.mirror import mirror as run

    done = run(s, url, target, newest=newest, proxy=proxy, root=given, dry_run=dry_run)
    if json:
        shown = {k: v for k, v in vars(done).items() if k != "failure"}
        emit({**shown, "error": done.failure.what if done.failure else None})
    else:
        say(
            f"{'Would copy' if dry_run else 'Copied'} {done.objects} objects ({size(done.bytes)}) and {done.files} "
            f"files of {len(done.versions)} versions to {done.target}; {done.objects_there} objects "
            f"({size(done.bytes_there)}) were there. State {done.state}, {done.seconds:.1f} s."
        )
    if done.failure is not None:
        raise done.failure


def _serve(
    ctx: typer.Context, url: str, target: str, listen: str, proxy: str | None, root: bytes | None
) -> None:
    from kiosk.mirror import site
    from kiosk.mirror.copy import target_place
    from kiosk.place import Folder, place

    folder = target_place(target)
    if not isinstance(folder, Folder):
        raise UsageError("--serve keeps what it serves in a folder", where=target)
    host, port = address(listen)
    upstream = place(url)
    with site.serving(settings(ctx), upstream, folder.path, (host, port), root=root, proxy=proxy) as server:
        shown = host if ":" not in host else f"[{host}]"
        say(f"Mirroring {upstream} in {folder.path} on http://{shown}:{server.server_port}/")
        server.serve_forever()
