"""`kiosk sync` and `kiosk host ...`: a hypervisor's verified images and layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kiosk.cli import common
from kiosk.cli.common import DryRun, Json, emit, say, settings, size, table
from kiosk.cli.publish import read_root
from kiosk.errors import StorageError, UsageError
from kiosk.progress import bar

AgentFile = Annotated[
    Path | None,
    typer.Option(
        "--agent-config",
        metavar="FILE",
        help="The agent's file (default: /etc/kiosk/agent.toml, or [agent] of kiosk.toml).",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("sync")(sync)
    group = common.app("What this hypervisor holds.")
    group.command("list")(list_host)
    group.command("verify")(verify)
    group.command("prune")(prune)
    group.command("handover")(handover)
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
    agent_config: AgentFile = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Brings this hypervisor's images up to date, verified. `kiosk sync --url http://kiosk --root root.json`

    Only what is missing is fetched, by the way that moves the fewest bytes: packs of blocks, or a difference to
    a version that is here; `current` moves when all of a version is here and right. A name with
    @VERSION fetches that version, and leaves `current` alone where that is newer. In roll-outs this host has the name
    that its agent has (`host`, else the machine's). Exit code 5: something did
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
        agent_file=agent_config,
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


def list_host(ctx: typer.Context, agent_config: AgentFile = None, json: Json = False) -> None:
    """Lists the versions that are on this host, which are current, and how many VMs (or other programs) use each.
    `kiosk host list`

    A `?` says that not all could be looked into: be root.
    """
    from kiosk.handover import Handover
    from kiosk.handover.settings import read_tables
    from kiosk.sync import HostCache
    from kiosk.sync.usage import look

    s = settings(ctx)
    cache = HostCache(s.host)
    found = cache.installed()
    usage = look(cache, s.vms, Handover(cache, read_tables(s, agent_config)).disks())
    rows = [
        {
            "name": i.ref.base,
            "version": str(i.ref.version),
            "current": i.current,
            "created": i.manifest.created.isoformat(),
            "folder": i.folder,
            "used_by": usage.of(i.ref),
            "used_by_all": usage.unknown is None,
        }
        for i in found
    ]
    if json:
        emit(rows)
        return
    table(
        ["name", "version", "current", "created (UTC)", "used by#"],
        [
            (
                r["name"],
                r["version"],
                "yes" if r["current"] else "",
                str(r["created"])[:16].replace("T", " "),
                f"{len(usage.of(i.ref))}{'?' if usage.unknown else ''}",
            )
            for i, r in zip(found, rows, strict=True)
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


def prune(
    ctx: typer.Context,
    keep: Annotated[int, typer.Option(min=1, help="Keep the newest N versions of each name.")] = 2,
    free: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Remove only as much as it takes until so much is free: 20GB."),
    ] = None,
    agent_config: AgentFile = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Removes versions that this host does not need any more. `kiosk host prune --keep 2 --free 20GB --dry-run`

    Never the current version of a name, the one before it, or one that is in use: by a VM of kiosk's, by any other
    process or device, by the disk of a VM that was built on it where images were handed over. What can't be looked
    into counts as in use. With --free, shared objects go after the versions.
    """
    from kiosk.handover import Handover
    from kiosk.handover.settings import read_tables
    from kiosk.sync import HostCache
    from kiosk.sync.prune import prune as work

    s = settings(ctx)
    cache = HostCache(s.host)
    wanted = None if free is None else common.bytes_of(free)
    handed = Handover(cache, read_tables(s, agent_config))
    done = work(cache, s.vms, keep=keep, free=wanted, handed=handed, dry_run=dry_run)
    if json:
        emit(
            {
                "removed": [{"version": str(ref), "bytes": n} for ref, n in done.removed.items()],
                "kept": [{"version": str(ref), "why": why} for ref, why in done.kept.items()],
                "objects": done.objects,
                "object_bytes": done.object_bytes,
                "free": done.free,
                "dry_run": dry_run,
            }
        )
    else:
        verb = "would be removed" if dry_run else "removed"
        table(
            ["version", "", "size#"],
            [
                *((str(ref), verb, size(n)) for ref, n in done.removed.items()),
                *((str(ref), f"stays: {why}", "") for ref, why in done.kept.items()),
            ],
        )
        objects = (
            f"{done.objects} shared objects ({size(done.object_bytes)}) {verb}; " if done.objects else ""
        )
        say(f"{objects}{size(done.free)} {'would be' if dry_run else 'are'} free.")
    if done.failure is not None:
        raise done.failure
    if wanted is not None and done.free < wanted:
        raise StorageError(
            f"{size(done.free)} {'would be' if dry_run else 'are'} free, and {size(wanted)} were asked for",
            where=str(cache.folder),
            hint="What stays is needed or in use; end VMs that run old versions, or make the disk larger.",
        )


def handover(
    ctx: typer.Context, agent_config: AgentFile = None, json: Json = False, dry_run: DryRun = False
) -> None:
    """Hands what is current to what runs the VMs here: files, libvirt, LVM, OpenNebula, a program of your own.
    `kiosk host handover --dry-run`

    The agent does this by itself. What was handed over already and still stands is left alone; what failed is tried
    again. The places are the [[handover]] tables of the agent's configuration (docs/handover.md).
    """
    from kiosk.config import AGENT_FILE
    from kiosk.handover import Handover
    from kiosk.handover.settings import read_tables
    from kiosk.sync import HostCache

    s = settings(ctx)
    tables = read_tables(s, agent_config)
    if not tables:
        raise UsageError(
            "no place to hand images over to is configured",
            where=str(agent_config or AGENT_FILE),
            hint="Add a [[handover]] table: docs/handover.md.",
        )
    done = Handover(HostCache(s.host), tables).offer_current(dry_run=dry_run)
    if json:
        emit(
            [
                {
                    "version": o.ref,
                    "place": o.place,
                    "state": o.state,
                    "seconds": round(o.seconds, 3),
                    "error": o.error and o.error.what,
                }
                for o in done
            ]
        )
    else:
        table(
            ["version", "place", "state", "seconds#"],
            [(o.ref, o.place, o.state, f"{o.seconds:.1f}") for o in done],
        )
    for outcome in done:
        if outcome.error is not None:
            raise outcome.error
