"""`kiosk build`: from a recipe to a version of an image."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from kiosk.cli import common


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("build")(build)


def build(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The recipe's name (see `kiosk recipe list`).")],
    version: Annotated[
        str | None, typer.Option(help="Version to make; by default the day's next one, YYYYMMDD.N.")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="TUF root that the image will trust; by default the newest of the repository."),
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Make the base tree and the tree anew.")
    ] = False,
    as_json: common.Json = False,
    dry_run: common.DryRun = False,
) -> None:
    """Builds a version of an image from its recipe: a bootable disk with a verified, read-only root.

    Example: `sudo kiosk build debian-12-minimal`
    """
    from kiosk.build import image
    from kiosk.model.names import Version

    settings = common.settings(ctx)
    wanted = Version.parse(version) if version else None
    request = image.Request(name=name, version=wanted, root=root, fresh=no_cache)
    if dry_run:
        plan = image.plan(settings, request)
        if as_json:
            common.emit(vars(plan))
            return
        common.say(f"would build {name} from {plan.file} into {plan.target}")
        common.say(f"  base      {plan.base}")
        common.say(f"  elements  {' '.join(plan.elements)}")
        common.say(f"  packages  {' '.join(plan.packages)}")
        common.say(f"  trusts    {plan.root or 'nobody: there is no repository yet'}")
        return
    start = time.monotonic()
    built = image.build(settings, request)
    seconds = time.monotonic() - start
    if as_json:
        common.emit(
            {
                "image": str(built.manifest.ref),
                "folder": built.folder,
                "tree_reused": built.reused_tree,
                "seconds": built.seconds,
                "manifest": built.manifest,
            }
        )
        return
    disk = built.manifest.artifacts["disk"]
    tree = "kept tree" if built.reused_tree else "new tree"
    common.say(f"{built.manifest.ref}  {common.size(disk.size)}  {seconds:.0f} s ({tree})")
    common.say(f"  disk      {disk.digest}")
    if built.manifest.verity is not None:
        common.say(f"  verity    {built.manifest.verity.root_hash}")
    common.say(f"  folder    {built.folder}")
    if not built.trusted:
        common.say("  trusts    nobody: run `kiosk init` or give --root, and build again to contextualize it")
