"""`kiosk sync` and `kiosk host ...`: a hypervisor's verified images and layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kiosk.cli import common
from kiosk.cli.common import DryRun, Json, emit, say, settings, size, table
from kiosk.cli.publish import read_root
from kiosk.progress import bar


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("sync")(sync)
    group = common.app("What this hypervisor holds.")
    group.command("list")(list_host)
    group.command("verify")(verify)
    app.add_typer(group, name="host")


def sync(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME[@VERSION]]...", help="Images and layers (default: all that are offered)."
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="The kiosk (default: KIOSK_URL or the configuration).")
    ] = None,
    proxy: Annotated[str | None, typer.Option(help="An HTTP proxy, such as the site's Squid.")] = None,
    root: Annotated[
        Path | None, typer.Option(help="Root of trust, needed the first time; it is kept then.")
    ] = None,
    seed: Annotated[
        list[Path] | None,
        typer.Option(help="A local file, raw or qcow2, that may hold some of the bytes (may be repeated)."),
    ] = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Brings this hypervisor's images up to date, verified. `kiosk sync --url http://kiosk --root root.json`

    Only what is missing is fetched, by the way that moves the fewest bytes: packs of blocks, or a difference to
    a version that is here; `current` moves when all of a version is here and right. A name with
    @VERSION fetches that version, and leaves `current` alone where that is newer. Exit code 5: something did
    not verify (or has expired), and what was current still is.
    """
    from kiosk.model.names import parse_ref
    from kiosk.sync import sync as run

    s = settings(ctx)
    done = run(
        s,
        [parse_ref(n) for n in names or []],
        url=url,
        proxy=proxy,
        root=read_root(root or s.root),
        seeds=seed or (),
        dry_run=dry_run,
    )
    results = done.results
    moved, reused = sum(r.moved for r in results), sum(r.reused for r in results)
    requests = sum(r.requests for r in results)
    if json:
        emit(
            {
                "url": done.url,
                "results": [vars(r) for r in results],
                "moved": moved,
                "reused": reused,
                "requests": requests,
                "seconds": round(done.seconds, 3),
                "dry_run": dry_run,
            }
        )
    else:
        table(
            ["name", "version", "state", "size#", "moved#", "by", "reused#", "requests#", "seconds#"],
            [
                (
                    r.name,
                    r.version,
                    r.state,
                    size(r.size),
                    size(r.moved),
                    " and ".join(sorted(set(r.ways.values()))),
                    size(r.reused),
                    r.requests,
                    f"{r.seconds:.1f}",
                )
                for r in results
            ],
        )
        say(
            f"{size(moved)} moved in {requests} requests, {size(reused)} were here already, {done.seconds:.1f} s."
        )
    if done.failure is not None:
        raise done.failure


def list_host(ctx: typer.Context, json: Json = False) -> None:
    """Lists the versions that are on this host and which are current. `kiosk host list`"""
    from kiosk.sync import HostCache

    found = HostCache(settings(ctx).host).installed()
    rows = [
        {
            "name": i.ref.base,
            "version": str(i.ref.version),
            "current": i.current,
            "created": i.manifest.created.isoformat(),
            "folder": i.folder,
        }
        for i in found
    ]
    if json:
        emit(rows)
        return
    table(
        ["name", "version", "current", "created (UTC)"],
        [
            (r["name"], r["version"], "yes" if r["current"] else "", str(r["created"])[:16].replace("T", " "))
            for r in rows
        ],
    )


def verify(ctx: typer.Context, json: Json = False) -> None:
    """Reads every file of every version here and compares it with the signed manifest. `kiosk host verify`"""
    from kiosk.errors import CorruptError
    from kiosk.sync import HostCache

    cache = HostCache(settings(ctx).host)
    wrong: dict[str, CorruptError] = {}
    found = cache.installed()
    with bar("verify", len(found), unit="version") as progress:
        for installed in found:
            try:
                cache.check(installed)
            except CorruptError as e:
                wrong[str(installed.ref)] = e
            progress.update(1)
    names = [str(i.ref) for i in found]
    if json:
        emit([{"name": n, "good": n not in wrong} for n in names])
    else:
        table(["version", "files"], [(n, "WRONG" if n in wrong else "good") for n in names])
    for error in wrong.values():
        raise error
