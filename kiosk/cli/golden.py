"""`kiosk snapshot` and `kiosk golden`: from a node that goes on running to a version of an image."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kiosk.cli import common

if TYPE_CHECKING:
    from kiosk.golden.snapshot import Request, Snapshot


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("snapshot")(snapshot)
    golden = common.app("Golden nodes: managed nodes that run no jobs, and of which images are made.")
    golden.command("list")(golden_list)
    golden.command("show")(golden_show)
    golden.command("rules")(golden_rules)
    app.add_typer(golden, name="golden")


Name = Annotated[
    str, typer.Argument(metavar="GOLDEN", help="The golden node's name (see `kiosk golden list`).")
]


def snapshot(
    ctx: typer.Context,
    name: Name,
    version: Annotated[
        str | None, typer.Option(help="Version to make; by default the day's next one, YYYYMMDD.N.")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="TUF root that the image will trust; by default the newest of the repository."),
    ] = None,
    as_json: common.Json = False,
    dry_run: common.DryRun = False,
) -> None:
    """Makes a version of an image from a golden node, which goes on running.

    The node is asked whether it is up to date, frozen for a moment, and copied; the copy loses its identity and
    secrets and becomes a bootable disk. `kiosk publish GOLDEN` audits and signs it. Nothing is kept of a node that
    isn't ready, or of a copy that failed. With --dry-run the node is only asked.

    Example: `sudo kiosk snapshot batch-golden`
    """
    from kiosk.golden.snapshot import Request
    from kiosk.golden.snapshot import snapshot as make
    from kiosk.model.names import Version

    settings = common.settings(ctx)
    request = Request(name, Version.parse(version) if version else None, root)
    if dry_run:
        _plan(ctx, request, as_json=as_json)
        return
    start = time.monotonic()
    made = make(settings, request)
    if as_json:
        common.emit(
            {
                "image": str(made.manifest.ref),
                "folder": made.folder,
                "method": made.capture.method,
                "frozen_seconds": made.capture.frozen_seconds,
                "warnings": made.capture.warnings,
                "removed": [vars(d) for d in made.removed],
                "dropped": made.dropped,
                "seconds": made.seconds,
                "manifest": made.manifest,
            }
        )
        return
    _show(made, time.monotonic() - start)


def _show(made: Snapshot, seconds: float) -> None:
    disk = made.manifest.artifacts["disk"]
    frozen = made.capture.frozen_seconds
    common.say(f"{made.manifest.ref}  {common.size(disk.size)}  {seconds:.0f} s")
    common.say(
        f"  captured  {made.capture.method}" + (f", frozen for {frozen:.2f} s" if frozen is not None else "")
    )
    for warning in made.capture.warnings:
        common.say(f"  warning   {warning}")
    counts: dict[str, int] = {}
    for done in made.removed:
        counts[done.rule] = counts.get(done.rule, 0) + 1
    common.say(f"  sanitised {len(made.removed)} paths by {len(counts)} rules (--json lists them)")
    common.say(f"  disk      {disk.digest}")
    common.say(f"  folder    {made.folder}")
    if made.dropped:
        common.say(f"  removed   built versions {', '.join(map(str, made.dropped))}")
    if not made.trusted:
        common.say(
            "  trusts    nobody: run `kiosk init` or give --root, and make it again to contextualize it"
        )


def _plan(ctx: typer.Context, request: Request, *, as_json: bool) -> None:
    """Asks the node, and says what a snapshot would do."""
    from kiosk.build.image import root_of_trust
    from kiosk.golden.definition import golden
    from kiosk.golden.ready import ask
    from kiosk.golden.source import open_source

    settings = common.settings(ctx)
    found = golden(settings, request.name)
    source = open_source(found.definition.source)
    answer = ask(source, found.definition.ready)
    target = settings.images / request.name / str(request.version or "VERSION")
    trust = root_of_trust(settings, request.root)
    if as_json:
        common.emit({"source": source.describe(), "ready": answer, "target": target, "trusts": trust})
        return
    common.say(f"would make {request.name} from {source.describe()} into {target}")
    common.say(f"  ready     {answer or 'not asked'}")
    common.say(f"  trusts    {trust or 'nobody: there is no repository yet'}")


def golden_list(ctx: typer.Context, as_json: common.Json = False) -> None:
    """Lists the golden nodes that are defined here.

    Example: `kiosk golden list`
    """
    from kiosk.build.book import Book
    from kiosk.golden.definition import golden, names
    from kiosk.golden.source import open_source

    settings = common.settings(ctx)
    found = [golden(settings, name) for name in names(Book.of(settings))]
    if as_json:
        common.emit([{"file": g.file, **g.definition.model_dump(mode="json")} for g in found])
        return
    common.table(
        ["golden node", "system", "source", "description"],
        [
            (
                g.definition.name,
                f"{g.definition.os} {g.definition.release}",
                open_source(g.definition.source).describe(),
                g.definition.description,
            )
            for g in found
        ],
    )


def golden_show(ctx: typer.Context, name: Name, as_json: common.Json = False) -> None:
    """Shows a golden node's definition, and the versions made of it that are here.

    Example: `kiosk golden show batch-golden`
    """
    from kiosk.golden.definition import golden
    from kiosk.golden.source import open_source
    from kiosk.publish.built import versions

    settings = common.settings(ctx)
    found = golden(settings, name)
    definition = found.definition
    built = [str(v) for v in versions(settings.images / name)]
    if as_json:
        common.emit({"file": found.file, "digest": found.digest, "versions": built, "definition": definition})
        return
    ready = definition.ready
    common.table(
        ["", definition.name],
        [
            ["description", definition.description],
            ["file", found.file],
            ["system", f"{definition.os} {definition.release} {definition.architecture}"],
            ["source", open_source(definition.source).describe()],
            ["ready when", ready.ask or shlex.join(ready.run or ()) if ready else "always"],
            ["accounts kept", " ".join(definition.accounts) or "the system's alone"],
            ["left out", " ".join(definition.leave_out) or "scratch and temporary space"],
            ["network", definition.network],
            ["layers may add", " ".join(definition.policy.etc) or "nothing below /etc"],
            ["exceptions", len(definition.exceptions)],
            ["built versions", f"{', '.join(built) or 'none'} (the last {definition.keep} are kept)"],
        ],
    )


def golden_rules(ctx: typer.Context, as_json: common.Json = False) -> None:
    """Lists the rules by which a copy of a golden node loses its identity and secrets.

    Example: `kiosk golden rules`
    """
    from kiosk.build.book import Book
    from kiosk.sanitise.rules import load

    rules = load(Book.of(common.settings(ctx)).folders)
    if as_json:
        common.emit(list(rules))
        return
    common.table(
        ["rule", "does", "to", "because"], [(r.name, r.action, " ".join(r.paths), r.reason) for r in rules]
    )
