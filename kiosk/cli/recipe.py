"""`kiosk recipe`: what images are made from; the user's own recipes beside kiosk's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kiosk.cli import common
from kiosk.errors import UsageError

if TYPE_CHECKING:
    from kiosk.build.fault import Fault
    from kiosk.build.recipe_book import Row


def register(app: typer.Typer) -> None:
    """Adds the group `recipe`."""
    recipe = common.app("Recipes: what images are made from.")
    recipe.command("list")(list_)
    recipe.command("show")(show)
    recipe.command("new")(new)
    recipe.command("lint")(lint)
    app.add_typer(recipe, name="recipe")


def list_(ctx: typer.Context, as_json: common.Json = False) -> None:
    """Lists the recipes: kiosk's and those of your own folder (KIOSK_RECIPES), which stand before kiosk's.

    A recipe says nothing of cores, memory or scratch space: any image starts in any flavour (`kiosk vm flavours`).

    Example: `kiosk recipe list`
    """
    from kiosk.build.recipe_book import rows

    found = rows(common.settings(ctx))
    if as_json:
        common.emit(found)
        return
    common.table(
        ["recipe", "system", "from", "built#", "last build", "description"],
        [
            [
                r.name,
                f"{r.os} {r.release}".strip() or "–",
                origin(r),
                r.built or "–",
                f"{r.newest}, {r.last_build:%Y-%m-%d %H:%M}" if r.last_build else "–",
                r.description if r.fault is None else f"faulty: {r.fault}",
            ]
            for r in found
        ],
    )
    for folder in sorted({r.origin for r in found if r.origin != "kiosk"}):
        common.say(f"own: {folder}")


def origin(row: Row) -> str:
    """Where a recipe comes from, and whether it stands before another one."""
    place = "kiosk" if row.origin == "kiosk" else "own"
    return f"{place}, hides kiosk's" if row.hides else place


def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The recipe's name.")],
    as_json: common.Json = False,
) -> None:
    """Shows a recipe with its base, and the digest that decides whether its tree is made again.

    Example: `kiosk recipe show debian-12-worker`
    """
    from kiosk.build.book import Book
    from kiosk.build.trees import recipe_digest

    book = Book.of(common.settings(ctx))
    entry = book.entry(name)
    digest = recipe_digest(book, entry)
    if as_json:
        common.emit({"recipe": entry.recipe, "base": entry.base, "file": entry.file, "digest": digest})
        return
    recipe, base = entry.recipe, entry.base
    common.table(
        ["", recipe.name],
        [
            ["description", recipe.description],
            ["file", entry.file],
            ["system", f"{recipe.os} {recipe.release} {recipe.architecture}"],
            ["base", f"{recipe.base} ({entry.base_file})"],
            ["elements", " ".join((*base.elements, *recipe.elements))],
            ["packages", " ".join((*base.packages, *recipe.packages)) or "none of its own"],
            ["root partition", f"{recipe.size} MiB" if recipe.size else "as large as the tree"],
            ["layers may add", " ".join(recipe.policy.etc) or "nothing below /etc"],
            ["exceptions", "; ".join(f"{e.path}: {e.reason}" for e in recipe.exceptions) or "none"],
            ["digest", digest],
        ],
    )


def new(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The new recipe's name: small letters, digits, dashes.")],
    parent: Annotated[
        str, typer.Option("--from", metavar="RECIPE", help="The recipe that it starts as a copy of.")
    ] = "debian-12-minimal",
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Your folder of recipes; by default the settings' (KIOSK_RECIPES)."
        ),
    ] = None,
    as_json: common.Json = False,
    dry_run: common.DryRun = False,
) -> None:
    """Makes a recipe of your own, with an element to fill. Nothing that is there is overwritten.

    Example: `kiosk recipe new my-worker --from debian-13-worker --into ~/recipes`
    """
    from kiosk.build import recipe_new
    from kiosk.build.book import Book

    settings = common.settings(ctx)
    folder = into or settings.recipes
    if folder is None:
        raise UsageError(
            "there is no folder for recipes of your own",
            hint="Name one: --into FOLDER (it is made), or set KIOSK_RECIPES.",
        )
    folder = folder.expanduser().absolute()
    known = settings.recipes is not None and settings.recipes.absolute() == folder
    made = recipe_new.plan(Book((folder, *Book.of(settings).folders)), name, parent, folder)
    if not dry_run:
        recipe_new.write(made)
    if as_json:
        common.emit({"recipe": name, "from": parent, "folder": folder, "files": [f.path for f in made]})
        return
    for file in made:
        common.say(f"{'would write' if dry_run else 'wrote'} {file.path}")
    if dry_run:
        return
    common.say("Next:")
    if not known:
        common.say(f'  export KIOSK_RECIPES={folder}   # or recipes = "{folder}" in /etc/kiosk/kiosk.toml')
    common.say(f"  edit {made[-1].path} and what is in {folder / 'elements' / name}")
    common.say(f"  kiosk recipe lint {name}")
    common.say(f"  sudo -E kiosk build {name}")


def lint(
    ctx: typer.Context,
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME|FILE|FOLDER", help="What to look at; all recipes by default."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Don't ask the archive whether packages exist.")
    ] = False,
    as_json: common.Json = False,
) -> None:
    """Says all that is wrong with recipes, bases and elements. Ends with 2 when there are errors.

    Example: `kiosk recipe lint my-worker`
    """
    from kiosk.build import archive, recipe_book

    settings = common.settings(ctx)
    found = recipe_book.targets(settings, what or [])
    faults = recipe_book.lint(settings, found, packages=None if offline else archive.keep_folder(settings))
    errors = sum(f.severity == "error" for f in faults)
    if as_json:
        common.emit(
            {
                "faults": [vars(f) for f in faults],
                "errors": errors,
                "warnings": len(faults) - errors,
                "packages_checked": not offline,
            }
        )
    else:
        for fault in faults:
            common.say(line(fault))
    looked = [
        number(len(group), word)
        for group, word in ((found.recipes, "recipe"), (found.bases, "base"), (found.elements, "element"))
        if group
    ]
    summary = f"{', '.join(looked)}: {number(errors, 'error')}, {number(len(faults) - errors, 'warning')}"
    if errors:
        raise UsageError(summary)
    if not as_json:
        common.say(summary)


def line(fault: Fault) -> str:
    """A fault as one line, with a second one for what to do."""
    file = fault.file.relative_to(Path.cwd()) if fault.file.is_relative_to(Path.cwd()) else fault.file
    where = f"{file}:{fault.key}" if fault.key else str(file)
    text = f"{fault.severity}: {where}: {fault.what}"
    return f"{text}\n  {fault.hint}" if fault.hint else text


def number(count: int, word: str) -> str:
    """A count with its word: 1 error, 2 errors, no errors."""
    return f"{count or 'no'} {word}{'' if count == 1 else 's'}"
