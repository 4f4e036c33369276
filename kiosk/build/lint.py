"""What is wrong with recipes, bases and elements: all of it at once, by file and key, without building anything.

An *error* would fail the build, make an image that is not what the recipe says, or open what a layer must never
have; a *warning* is worth a look. Nothing that a recipe brings is run: hooks are parsed, lists are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kiosk import config
from kiosk.build import lint_element, lint_policy
from kiosk.build.book import Book, nearest
from kiosk.build.fault import Fault
from kiosk.build.guest import PYTHONS
from kiosk.build.lint_packages import Checker
from kiosk.errors import UsageError
from kiosk.model.base import Document
from kiosk.model.census import FileEntry
from kiosk.model.manifest import ImageManifest
from kiosk.model.recipe import Base, ElementName, PackageName, Recipe

AGENT = "kiosk-contextualize"
ROOTS = ("kiosk-debian", "kiosk-unpack")
PLACEHOLDERS = ("todo", "fixme", "xxx")
FULL = 1.02
"""A root partition needs this much of what its files take, for inodes and the like."""
NewestBuilt = Callable[[str], tuple[ImageManifest, Sequence[FileEntry]] | None]
"""The newest built version of an image, and its files."""


@dataclass(frozen=True)
class Linter:
    """Looks at files of a book. `packages` is None where the archive is left out."""

    book: Book
    packages: Checker | None
    newest: NewestBuilt
    bases: list[Path] = field(default_factory=list)
    """The files of the bases that the recipes looked at so far start from."""
    _elements: dict[Path, list[Fault]] = field(default_factory=dict)

    def recipe(self, file: Path) -> list[Fault]:
        """All that is wrong with a recipe's file and with its elements."""
        raw, found = _read(file, Recipe)
        if raw is None:
            return found
        found += self._names(file, raw) + self._base(file, raw)
        elements = _texts(raw, "elements", ElementName)
        found += self._elements_of(file, elements, root=False)
        if AGENT not in elements:
            said = (
                f"{AGENT} is missing: the image can't check its context, take layers, or say that it is ready"
            )
            found.append(Fault("warning", file, "elements", said))
        policy, exceptions = raw.get("policy"), raw.get("exceptions")
        if isinstance(policy, dict):
            found += [Fault(s, file, f"policy.{k}", w) for s, k, w in lint_policy.faults(policy.get("etc"))]
        found += self._exceptions(file, raw.get("name"), exceptions if isinstance(exceptions, list) else [])
        found += self._size(file, raw.get("name"), raw.get("size"))
        found += self._packages(file, raw, ("kiosk-unpack", *elements))
        return found

    def base(self, file: Path) -> list[Fault]:
        """All that is wrong with a base's file and with its elements."""
        raw, found = _read(file, Base)
        if raw is None:
            return found
        elements = _texts(raw, "elements", ElementName)
        found += self._elements_of(file, elements, root=True)
        release = raw.get("release")
        if isinstance(release, str) and release not in PYTHONS:
            said = f"kiosk doesn't know the release {release!r} (it knows {', '.join(PYTHONS)})"
            found.append(Fault("error", file, "release", said))
        return found + self._packages(file, raw, elements)

    def element(self, folder: Path) -> list[Fault]:
        """All that is wrong with an element's folder."""
        if folder not in self._elements:
            self._elements[folder] = list(lint_element.faults(folder, self.book))
        return self._elements[folder]

    def _names(self, file: Path, raw: dict[str, Any]) -> list[Fault]:
        name = raw.get("name")
        if isinstance(name, str) and name != file.stem:
            return [Fault("error", file, "name", f"is {name!r}, but the file is called {file.stem!r}")]
        return []

    def _base(self, file: Path, raw: dict[str, Any]) -> list[Fault]:
        name = raw.get("base")
        if not isinstance(name, str):
            return []
        base_file = self.book.base_file(name)
        if base_file is None:
            hint = nearest("Bases", name, self.book.bases())
            return [Fault("error", file, "base", f"there is no base {name!r}", hint)]
        self.bases.append(base_file)
        theirs, _ = _read(base_file, Base)
        found = []
        for key in ("os", "release", "architecture") if theirs else ():
            mine, base = raw.get(key), (theirs or {}).get(key)
            if isinstance(mine, str) and mine != base:
                found.append(Fault("error", file, key, f"is {mine!r}, but the base {name} has {base!r}"))
        return found

    def _elements_of(self, file: Path, names: Sequence[str], *, root: bool) -> list[Fault]:
        found = [Fault("warning", file, "elements", f"{n} is named twice") for n in _twice(names)]
        for name in names:
            if self.book.element(name) is None:
                hint = nearest("Elements", name, self.book.own_elements())
                found.append(Fault("error", file, "elements", f"there is no element {name!r}", hint))
        folders = self.book.expand(names)
        roots = [f.name for f in folders if "operating-system" in _words(f / "element-provides")]
        if root and len(roots) != 1:
            said = f"a base has one root element, and this one has {', '.join(roots) or 'none'}"
            found.append(Fault("error", file, "elements", said, f"Such as {ROOTS[0]}."))
        if not root and roots:
            said = f"{', '.join(roots)} makes a root tree, and a recipe starts from its base's"
            found.append(Fault("error", file, "elements", said))
        for folder in folders:
            if self.book.is_ours(folder):
                found += self.element(folder)
        return found

    def _exceptions(self, file: Path, name: object, raw: Sequence[object]) -> Iterator[Fault]:
        rows = [r for r in raw if isinstance(r, dict)]
        built = self.newest(name) if isinstance(name, str) else None
        seen = set()
        for i, row in enumerate(rows):
            key, reason, path = f"exceptions.{i}", row.get("reason"), row.get("path")
            if not reason:
                yield Fault("error", file, f"{key}.reason", "an exception is published with its reason")
            elif isinstance(reason, str) and reason.lower().strip(" .:-").startswith(PLACEHOLDERS):
                yield Fault("error", file, f"{key}.reason", f"{reason!r} is no reason")
            if (row.get("check"), path) in seen:
                yield Fault("warning", file, key, "the same check and path as an exception above it")
            seen.add((row.get("check"), path))
            if built is not None and isinstance(path, str):
                manifest, files = built
                if not any(fnmatchcase("/" + f.path.strip("/"), path) for f in files):
                    said = f"is not used: no file of {manifest.ref} is called {path!r}"
                    yield Fault("warning", file, f"{key}.path", said)

    def _size(self, file: Path, name: object, size: object) -> Iterator[Fault]:
        if not isinstance(size, int) or not isinstance(name, str):
            return
        built = self.newest(name)
        if built is None:
            return
        manifest, files = built
        needed = int(sum(-(-(f.size or 0) // 4096) * 4096 for f in files) * FULL) >> 20
        if size < needed:
            said = f"{size} MiB is too small: the files of {manifest.ref} need {needed} MiB"
            yield Fault("error", file, "size", said, "Leave it out: the partition is as large as its tree.")

    def _packages(self, file: Path, raw: dict[str, Any], elements: Sequence[str]) -> list[Fault]:
        own = _texts(raw, "packages", PackageName)
        found = [Fault("warning", file, "packages", f"{n} is named twice") for n in _twice(own)]
        release = raw.get("release")
        if self.packages is not None and isinstance(release, str) and release in PYTHONS:
            found += self.packages.faults(file, own, elements, release)
        return found


def _read(file: Path, model: type[Document]) -> tuple[dict[str, Any] | None, list[Fault]]:
    """A file's tables, also where they don't fit, and what of them doesn't."""
    try:
        raw = config.parse_toml(file)
    except UsageError as e:
        return None, [Fault("error", file, "", e.what)]
    try:
        model.model_validate(raw)
    except ValidationError as e:
        known = f"Keys of this file: {config.known_keys(model)}"
        return raw, [
            Fault("error", file, key, what, known if what.startswith("unknown") and "." not in key else "")
            for key, what in config.faults(e)
        ]
    return raw, []


def _texts(raw: dict[str, Any], key: str, kind: Any) -> list[str]:
    """The texts of a list that are of a kind; others were told of already."""
    values = raw.get(key)
    adapter = TypeAdapter(kind)
    found = []
    for value in values if isinstance(values, list) else []:
        try:
            found.append(str(adapter.validate_python(value)))
        except ValidationError:
            continue
    return found


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _words(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").split() if file.is_file() else []
