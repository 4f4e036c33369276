"""Root trees as tar files, kept by the digest of what they are made from.

A base tree (debootstrap, kernel, initrd) serves every recipe that names it; an image's tree is a base tree with
the recipe's elements and packages on top. Both are made again when anything they are made from changes, and
after a day, so that a build always has the security updates of the day.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kiosk.build import dib, guest, mirrors
from kiosk.build.book import Book, Entry, digest_of
from kiosk.clock import now, source_date_epoch
from kiosk.files import storage_errors, write
from kiosk.model.recipe import Base

DAY = 86400
KEPT = 8
"""So many trees stay, those used last: the bases of three releases and five images' trees."""


@dataclass(frozen=True)
class Tree:
    """A root tree: its tar file, the date that its files are clamped to, and whether it was there already."""

    tar: Path
    date: int
    reused: bool


@dataclass(frozen=True)
class Forest:
    """Makes and keeps trees: `cache` holds them, `folder` is private to this build, `log` names the logs."""

    book: Book
    cache: Path
    folder: Path
    logs: Path

    def image(self, entry: Entry, *, fresh: bool) -> Tree:
        """The tree of a recipe; `fresh` makes it and its base anew."""
        target = self.cache / "trees" / f"{recipe_digest(self.book, entry).removeprefix('sha256:')[:40]}.tar"
        if not fresh and (kept := _kept(target)):
            return kept
        recipe = entry.recipe
        base = self.base(recipe.base, entry.base, fresh=fresh)
        python = self.folder / "guest-python"
        guest.stage(python, release=recipe.release, cache=self.cache)
        env = {"KIOSK_BASE_TREE": str(base.tar), "KIOSK_GUEST_PYTHON": str(python)}
        elements = ("kiosk-unpack", *recipe.elements)
        tar = self._make(recipe.name, recipe.release, elements, recipe.packages, env)
        return _keep(tar, target, base.date)

    def base(self, name: str, base: Base, *, fresh: bool) -> Tree:
        """The base tree called `name`."""
        key = base_digest(self.book, base).removeprefix("sha256:")[:40]
        target = self.cache / "trees" / f"base-{key}.tar"
        if not fresh and (kept := _kept(target)):
            return kept
        today = int(now().timestamp()) // DAY * DAY
        tar = self._make(name, base.release, base.elements, base.packages, {})
        return _keep(tar, target, source_date_epoch() or today)

    def _make(
        self, name: str, release: str, elements: Sequence[str], packages: Sequence[str], env: dict[str, str]
    ) -> Path:
        folder = self.folder / f"dib-{name}"
        folder.mkdir()
        extra = folder / "elements" / "kiosk-packages"
        extra.mkdir(parents=True)
        (extra / "package-installs.json").write_text(json.dumps(dict.fromkeys(packages, "")))
        found = mirrors.host_mirrors(release)
        mirrors.write_apt_folder(folder / "apt", found, release)
        proxy = {"http_proxy": found.http_proxy} if found.http_proxy else {}
        names = (*elements, "kiosk-packages") if packages else tuple(elements)
        job = dib.Job(
            what=name,
            elements=names,
            element_path=[folder / "elements", *self.book.element_folders],
            folder=folder,
            cache=self.cache / "dib",
            log=self.logs / f"build-{name}.log",
            env={
                **env,
                **proxy,
                "DIB_RELEASE": release,
                "KIOSK_APT": str(folder / "apt"),
                "KIOSK_KEYRING": str(mirrors.keyring()),
                "KIOSK_MIRROR": found.main,
            },
            hooks=dib.count_hooks(self.book.expand(names)),
        )
        return dib.make_tree(job)


def base_digest(book: Book, base: Base) -> str:
    """The digest of all that a base tree is made from."""
    content = digest_of(book.expand(base.elements))
    definition = base.model_dump(mode="json", exclude={"description"})
    return _digest([definition, content, source_date_epoch()])


def recipe_digest(book: Book, entry: Entry) -> str:
    """The digest of all that an image's tree is made from."""
    content = digest_of(book.expand(("kiosk-unpack", *entry.recipe.elements)))
    definition = entry.recipe.model_dump(mode="json", include={"name", "elements", "packages", "release"})
    release = entry.recipe.release
    return _digest([base_digest(book, entry.base), definition, content, guest.digest(release)])


def _digest(value: object) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _kept(tar: Path) -> Tree | None:
    """A tree that is there, complete, and not older than a day."""
    note = tar.with_suffix(".json")
    if not tar.is_file() or not note.is_file() or time.time() - note.stat().st_mtime > DAY:
        return None
    os.utime(tar)
    return Tree(tar, int(json.loads(note.read_bytes())["date"]), reused=True)


def _keep(tar: Path, target: Path, date: int) -> Tree:
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_suffix(".json").unlink(missing_ok=True)
        tar.replace(target)
    write(target.with_suffix(".json"), json.dumps({"date": date}).encode())
    old = sorted(target.parent.glob("*.tar"), key=lambda p: p.stat().st_mtime)[:-KEPT]
    for path in old:
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink()
    return Tree(target, date, reused=False)
