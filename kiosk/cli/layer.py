"""`kiosk layer`: build, check and publish the layers of sites and experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kiosk.cli.common import DryRun, Json, app, emit, passphrase_source, say, settings, size, table
from kiosk.cli.publish import Rolled, show_offer, together

Recipe = Annotated[
    str, typer.Argument(metavar="DIR|NAME", help="A layer's folder, or its name in recipes/layers.")
]
Passphrase = Annotated[Path | None, typer.Option(help="File that holds the passphrase of the keys.")]


def lint(
    ctx: typer.Context,
    recipes: Annotated[
        list[str],
        typer.Argument(metavar="DIR|NAME...", help="Layers' folders, or their names in recipes/layers."),
    ],
    json: Json = False,
) -> None:
    """Check layers' recipes and files with the very rules that decide in the guest.

    Each is checked by itself and against the images that it is made for, as far as they are built or published here;
    several are also checked against each other, as layers of one machine. Exit code 10 when something is wrong.

    Example: `kiosk layer lint example-site example-experiment`
    """
    from kiosk.build import layer, layer_base, layer_recipe

    folders = [layer_recipe.find(recipe, settings(ctx)) for recipe in recipes]
    found, unknown = [], []
    for folder in folders:
        recipe = layer_recipe.read(folder)
        known = layer_base.known(settings(ctx), recipe.images)
        unknown += [name for name in known.unknown if name not in unknown]
        found.append((recipe.ref.base, folder, layer.lint(folder, known.found), known.unknown))
    conflicts = layer.together(folders) if len(folders) > 1 else []
    if json:
        emit(
            {
                "layers": [
                    {"layer": name, "folder": folder, "faults": faults, "not_checked_against": missing}
                    for name, folder, faults, missing in found
                ],
                "conflicts": conflicts,
            }
        )
    if len(folders) == 1 and found[0][2]:
        raise layer.refusal(found[0][2], str(folders[0]))
    faults = [f"{name}: {fault}" for name, _, some, _ in found for fault in some] + conflicts
    if faults:
        raise layer.refusal(faults, ", ".join(map(str, folders)))
    if json:
        return
    if unknown:
        say(f"not checked against {', '.join(unknown)}: neither built nor published here")
    say(f"{', '.join(name for name, *_ in found)}: nothing wrong")


def build(
    ctx: typer.Context,
    recipe: Recipe,
    version: Annotated[str | None, typer.Option(help="Default: today, as 20260301.1")] = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Build a layer: a read-only SquashFS image and its manifest. The same files give the same image.

    Example: `kiosk layer build example-experiment --version 1`
    """
    from kiosk.build import layer, layer_recipe
    from kiosk.model.names import Version

    folder = layer_recipe.find(recipe, settings(ctx))
    wanted = Version.parse(version) if version is not None else None
    if dry_run:
        faults = layer.lint(folder)
        if faults:
            raise layer.refusal(faults, str(folder))
        name = layer_recipe.read(folder).ref.base
        say(f"would build {name} from {folder} into {settings(ctx).images / name}")
        return
    built = layer.build(folder, wanted, settings(ctx).images)
    if json:
        emit({"layer": str(built.ref), "folder": built.folder, "size": built.size})
    else:
        say(f"{built.ref}: {size(built.size)} in {built.folder}")


def publish(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="KIND/OWNER/NAME[@V]", help="A built layer; the newest by default.")
    ],
    passphrase_file: Passphrase = None,
    rollout: Rolled = False,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Sign and publish a built layer with its owner's key, after checking the finished image.

    It is opened again and refused (exit code 10) when it would hide a base file or step outside the policy
    of an image that it is made for.

    Example: `kiosk layer publish site/example/base --passphrase-file /root/passphrase`
    """
    from kiosk.build import layer, layer_base
    from kiosk.errors import UsageError
    from kiosk.model.manifest import LayerManifest, Manifest
    from kiosk.model.names import LayerRef
    from kiosk.publish import built_folder
    from kiosk.publish import publish as put

    unknown: list[str] = []

    def checked(manifest: Manifest, folder: Path) -> None:
        if not isinstance(manifest, LayerManifest):
            raise UsageError(f"{manifest.ref} is an image", hint="kiosk publish IMAGE")
        known = layer_base.bases(settings(ctx), manifest.images)
        unknown.extend(known.unknown)
        layer.check(folder, known.found)

    folder = built_folder(settings(ctx), LayerRef.parse(name))
    begin = together(settings(ctx), dry_run=dry_run) if rollout else None
    ask = passphrase_source(passphrase_file)
    done = put(settings(ctx), folder, ask, checks=[checked], together=begin, dry_run=dry_run)
    show_offer(settings(ctx), done, asked=rollout, json=json, dry_run=dry_run)
    if json:
        emit(
            {
                "layer": str(done.ref),
                "role": done.role,
                "published": not dry_run,
                "already": done.already,
                "size": done.size,
                "new_bytes": done.new_bytes,
                "not_checked_against": unknown,
            }
        )
        return
    if unknown:
        say(
            f"not checked against {', '.join(unknown)}: neither built nor published here (the guest checks again)"
        )
    state = "published already" if done.already else "would be published" if dry_run else "published"
    say(f"{done.ref} {state}, signed by {done.role}: {size(done.size)}, {size(done.new_bytes)} new")


def show(ctx: typer.Context, json: Json = False) -> None:
    """List the layer recipes.

    Example: `kiosk layer list`
    """
    from kiosk.build import layer_recipe

    found = [
        (folder, layer_recipe.read(folder)) for _, folder in sorted(layer_recipe.known(settings(ctx)).items())
    ]
    if json:
        emit(
            [
                {"recipe": f.name, "layer": r.ref.base, "images": r.images, "description": r.description}
                for f, r in found
            ]
        )
    else:
        table(
            ["RECIPE", "LAYER", "PREFIX", "DESCRIPTION"],
            [
                (folder.name, recipe.ref.base, recipe.ref.prefix, recipe.description)
                for folder, recipe in found
            ],
        )


def register(root: typer.Typer) -> None:
    """Adds `kiosk layer`."""
    group = app("Build, check and publish the layers of sites and experiments.")
    group.command("list")(show)
    group.command("lint")(lint)
    group.command("build")(build)
    group.command("publish")(publish)
    root.add_typer(group, name="layer")
