"""The recipe book: recipes, base trees and elements by name, a user's own folder before kiosk's.

A recipe that is returned from here is complete: its base exists and fits, and every element that it or its
base names is a folder that diskimage-builder will find.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from kiosk import data
from kiosk.config import Settings, read_toml
from kiosk.errors import NotFoundError, UsageError
from kiosk.model.recipe import Base, Recipe


@dataclass(frozen=True)
class Entry:
    """A recipe with its base and the files that they stand in."""

    recipe: Recipe
    base: Base
    file: Path
    base_file: Path


@dataclass(frozen=True)
class Book:
    """`folders` hold `images/`, `bases/` and `elements/`; the first that has a name wins."""

    folders: tuple[Path, ...]

    @classmethod
    def of(cls, settings: Settings) -> Book:
        """The user's folder (settings.recipes), where there is one, and then kiosk's."""
        own = (settings.recipes,) if settings.recipes else ()
        return cls((*own, data.folder("recipes")))

    @property
    def element_folders(self) -> tuple[Path, ...]:
        """Where elements are looked for, diskimage-builder's own last."""
        ours = tuple(f / "elements" for f in self.folders if (f / "elements").is_dir())
        return (*ours, dib_elements())

    def names(self) -> list[str]:
        """The names of all recipes."""
        return sorted({p.stem for f in self.folders for p in (f / "images").glob("*.toml")})

    def bases(self) -> list[str]:
        """The names of all bases."""
        return sorted({p.stem for f in self.folders for p in (f / "bases").glob("*.toml")})

    def recipe_file(self, name: str) -> Path | None:
        """The file of a recipe, or None."""
        return self._file("images", name)

    def base_file(self, name: str) -> Path | None:
        """The file of a base, or None."""
        return self._file("bases", name)

    def hidden(self, name: str) -> list[Path]:
        """The files of recipes of this name that another one stands before."""
        candidates = [f / "images" / f"{name}.toml" for f in self.folders]
        return [c for c in candidates if c.is_file()][1:]

    def own_elements(self) -> list[str]:
        """The names of elements in the book's folders, without diskimage-builder's."""
        homes = [f / "elements" for f in self.folders if (f / "elements").is_dir()]
        return sorted({p.name for home in homes for p in home.iterdir() if p.is_dir()})

    def is_ours(self, folder: Path) -> bool:
        """Whether an element's folder is in one of the book's folders."""
        return any(folder.parent == f / "elements" for f in self.folders)

    def entry(self, name: str) -> Entry:
        """The recipe `name`; NotFoundError where there is none, UsageError where it does not hold together."""
        file = self._file("images", name)
        if file is None:
            raise NotFoundError(f"there is no recipe {name!r}", hint=nearest("Recipes", name, self.names()))
        recipe = read_toml(file, Recipe)
        if recipe.name != file.stem:
            raise UsageError(f"name: must be {file.stem!r}, as the file is called", where=str(file))
        base, base_file = self.base(recipe.base, named_in=file)
        for key in ("os", "release", "architecture"):
            mine, theirs = getattr(recipe, key), getattr(base, key)
            if mine != theirs:
                raise UsageError(
                    f"{key}: is {mine!r}, but the base {recipe.base} has {theirs!r}", where=str(file)
                )
        self._check_elements(file, recipe.elements)
        return Entry(recipe, base, file, base_file)

    def base(self, name: str, *, named_in: Path) -> tuple[Base, Path]:
        """The base `name` and its file; UsageError blaming the file that names it where there is none."""
        file = self._file("bases", name)
        if file is None:
            raise UsageError(
                f"base: there is no base {name!r}",
                where=str(named_in),
                hint=nearest("Bases", name, self.bases()),
            )
        base = read_toml(file, Base)
        self._check_elements(file, base.elements)
        return base, file

    def element(self, name: str) -> Path | None:
        """The folder of an element, or None."""
        return next((f / name for f in self.element_folders if (f / name).is_dir()), None)

    def expand(self, elements: Sequence[str]) -> list[Path]:
        """The folders of elements and of all that they depend on, sorted."""
        found: dict[str, Path] = {}
        todo = list(elements)
        while todo:
            name = todo.pop()
            folder = self.element(name)
            if name in found or folder is None:
                continue
            found[name] = folder
            deps = folder / "element-deps"
            if deps.is_file():
                todo += deps.read_text(encoding="utf-8", errors="replace").split()
        return [found[name] for name in sorted(found)]

    def _file(self, kind: str, name: str) -> Path | None:
        candidates = (f / kind / f"{name}.toml" for f in self.folders)
        return next((c for c in candidates if c.is_file()), None)

    def _check_elements(self, file: Path, elements: Sequence[str]) -> None:
        for name in elements:
            if self.element(name) is None:
                raise UsageError(
                    f"elements: there is no element {name!r}",
                    where=str(file),
                    hint=nearest("Elements", name, self.own_elements()),
                )


def dib_elements() -> Path:
    """The folder of diskimage-builder's own elements."""
    spec = find_spec("diskimage_builder")
    if spec is None or spec.origin is None:
        raise UsageError("diskimage-builder is not installed", hint="pip install diskimage-builder")
    return Path(spec.origin).parent / "elements"


def digest_of(folders: Sequence[Path]) -> str:
    """The digest of folders' content: names, whether a file can be executed, bytes. Not times, not owners."""
    digest = hashlib.sha256()
    for folder in folders:
        for path, content in _content(folder):
            executable = os.access(folder / path, os.X_OK)
            digest.update(f"{folder.name}/{path}\0{int(executable)}\0{len(content)}\0".encode())
            digest.update(content)
    return "sha256:" + digest.hexdigest()


def _content(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        yield path.relative_to(folder).as_posix(), path.read_bytes()


def nearest(what: str, wanted: str, names: Sequence[str]) -> str:
    """A hint: the name that was probably meant, or else all that there are."""
    near = difflib.get_close_matches(wanted, names, n=1)
    return f"Did you mean {near[0]}?" if near else f"{what}: {', '.join(names) or 'none'}"
