"""What `kiosk recipe list` and `kiosk recipe lint` look at: every recipe with where it comes from, whatever is
wrong with it, and the files that a name, a file or a folder stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from kiosk import data
from kiosk.build import built
from kiosk.build.book import Book, nearest
from kiosk.build.fault import Fault
from kiosk.build.lint import Linter
from kiosk.build.lint_packages import Checker
from kiosk.config import Settings
from kiosk.errors import KioskError, NotFoundError
from kiosk.model.base import Document


class Row(Document):
    """A recipe in the list. `origin` is *kiosk* or the user's folder; `hides` the recipes of the same name that
    it stands before; `fault` what keeps it from being built."""

    name: str
    file: Path
    origin: str
    hides: tuple[Path, ...] = ()
    os: str = ""
    release: str = ""
    base: str = ""
    description: str = ""
    built: int = 0
    newest: str | None = None
    last_build: datetime | None = None
    fault: str | None = None


def rows(settings: Settings) -> list[Row]:
    """All recipes by name; one that can't be built is among them."""
    book = Book.of(settings)
    return [_row(settings, book, name) for name in book.names()]


def _row(settings: Settings, book: Book, name: str) -> Row:
    file = book.recipe_file(name)
    assert file is not None
    home = file.parents[1]
    versions = built.versions(settings, name)
    last = settings.images / name / str(versions[-1]) / "manifest.json" if versions else None
    row = Row(
        name=name,
        file=file,
        origin="kiosk" if home == data.folder("recipes") else str(home),
        hides=tuple(book.hidden(name)),
        built=len(versions),
        newest=str(versions[-1]) if versions else None,
        last_build=datetime.fromtimestamp(int(last.stat().st_mtime)).astimezone() if last else None,
    )
    try:
        recipe = book.entry(name).recipe
    except KioskError as e:
        return row.model_copy(update={"fault": e.what})
    return row.model_copy(
        update={
            "os": recipe.os,
            "release": recipe.release,
            "base": recipe.base,
            "description": recipe.description,
        }
    )


@dataclass(frozen=True)
class Targets:
    """What is looked at: files of recipes and of bases, and folders of elements, with the book they are read in."""

    book: Book
    recipes: tuple[Path, ...]
    bases: tuple[Path, ...]
    elements: tuple[Path, ...]


def targets(settings: Settings, words: Sequence[str]) -> Targets:
    """What names, files and folders stand for; without any, all that is known. A file or folder that is in no
    folder of recipes that kiosk knows is read with its own folder before the others."""
    book = Book.of(settings)
    folders = list(book.folders)
    recipes: list[Path] = []
    bases: list[Path] = []
    elements: list[Path] = []
    for word in words or [str(f) for f in book.folders]:
        path = Path(word).absolute()
        file = book.recipe_file(word) or book.base_file(word)
        if path.is_file() and path.suffix == ".toml":
            (bases if path.parent.name == "bases" else recipes).append(path)
            home = path.parent.parent
        elif path.is_dir() and any((path / part).is_dir() for part in ("images", "bases", "elements")):
            recipes += sorted((path / "images").glob("*.toml"))
            bases += sorted((path / "bases").glob("*.toml"))
            elements += sorted(p for p in (path / "elements").glob("*") if p.is_dir())
            home = path
        elif path.is_dir() and path.parent.name == "elements":
            elements.append(path)
            home = path.parent.parent
        elif file is not None:
            (bases if file.parent.name == "bases" else recipes).append(file)
            continue
        else:
            names = [*book.names(), *book.bases()]
            raise NotFoundError(
                f"there is no recipe, base, file or folder of recipes {word!r}",
                hint=nearest("Recipes", word, names),
            )
        if home not in folders:
            folders.insert(0, home)
    return Targets(
        Book(tuple(folders)), *(tuple(dict.fromkeys(found)) for found in (recipes, bases, elements))
    )


def lint(settings: Settings, found: Targets, *, packages: Path | None) -> list[Fault]:
    """All faults of the targets, each once. `packages` is the folder for the archive's lists, None to leave the
    archive out."""
    checker = Checker(found.book, packages) if packages else None
    linter = Linter(found.book, checker, lambda name: built.contents(settings, name))
    faults: list[Fault] = []
    for file in found.recipes:
        faults += linter.recipe(file)
    for file in dict.fromkeys((*found.bases, *linter.bases)):
        faults += linter.base(file)
    for folder in found.elements:
        faults += linter.element(folder)
    return list(dict.fromkeys(faults))
