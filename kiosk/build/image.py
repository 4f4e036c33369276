"""`kiosk build`: from a recipe to a version of an image in `settings.images`, all of it or nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiosk.build import assemble, clean, sandbox, uki
from kiosk.build.book import Book, Entry
from kiosk.build.trees import Forest, recipe_digest
from kiosk.build.version import Making, Origin, Subject, Timing, next_version, put_in_place
from kiosk.config import Settings
from kiosk.errors import NotFoundError, StorageError, UsageError
from kiosk.files import locked, scratch, storage_errors
from kiosk.model.base import Digest
from kiosk.model.manifest import ImageManifest
from kiosk.model.names import Version
from kiosk.model.recipe import Recipe
from kiosk.run import CommandError, run, tool
from kiosk.sanitise import rules

NEEDED = (
    "debootstrap",
    "unshare",
    "tar",
    "mkfs.ext4",
    "veritysetup",
    "objcopy",
    "mkfs.vfat",
    "mcopy",
    "sfdisk",
)
FULL = re.compile(r"[Nn]o space left on device|[Dd]isk full|[Dd]isk quota exceeded")


@dataclass(frozen=True)
class Request:
    """What a build was asked for. Without a version, the next one of the tree's day."""

    name: str
    version: Version | None
    root: Path | None
    fresh: bool


@dataclass(frozen=True)
class Built:
    """A finished version, where it stands, and what its making took."""

    manifest: ImageManifest
    folder: Path
    reused_tree: bool
    trusted: bool
    seconds: dict[str, float]


@dataclass(frozen=True)
class Plan:
    """What a build would do: for --dry-run."""

    recipe: str
    file: Path
    base: str
    elements: tuple[str, ...]
    packages: tuple[str, ...]
    digest: Digest
    target: Path
    root: Path | None


def plan(settings: Settings, request: Request) -> Plan:
    """Checks all that can be checked without building."""
    book = Book.of(settings)
    entry = book.entry(request.name)
    return Plan(
        recipe=entry.recipe.name,
        file=entry.file,
        base=entry.recipe.base,
        elements=(*entry.base.elements, *entry.recipe.elements),
        packages=(*entry.base.packages, *entry.recipe.packages),
        digest=recipe_digest(book, entry),
        target=settings.images / entry.recipe.name / str(request.version or "VERSION"),
        root=root_of_trust(settings, request.root),
    )


def build(settings: Settings, request: Request) -> Built:
    """Builds a version of an image."""
    book = Book.of(settings)
    entry = book.entry(request.name)
    sandbox.require_root("kiosk build")
    for program in NEEDED:
        tool(program)
    uki.stub()
    trust = root_of_trust(settings, request.root)
    timing = Timing()
    with (
        locked(settings.build_cache / "lock", what="a build"),
        scratch(settings.home / "scratch", prefix="build-") as folder,
        storage_errors(settings.home),
        full_disk(settings.home),
    ):
        forest = Forest(book, settings.build_cache, folder, settings.home / "logs")
        with timing.step("tree"):
            tree = forest.image(entry, fresh=request.fresh)
        version = request.version or next_version(settings.images / entry.recipe.name, tree.date)
        target = settings.images / entry.recipe.name / str(version)
        if target.exists():
            raise UsageError(f"{entry.recipe.name}@{version} is there already", where=str(target))
        with timing.step("unpack"):
            root = folder / "root"
            unpack(tree.tar, root)
        staged = folder / "version"
        staged.mkdir(mode=0o755)
        with timing.step("clean"):
            take_boot_files(root, staged)
            clean.clean(root, tree.date, rules.load(book.folders))
        origin = Origin("recipe", entry.recipe.name, recipe_digest(book, entry), parameters(entry))
        making = Making(subject(entry.recipe), version, origin, tree.date, trust, timing)
        manifest = making.version(root, staged, folder)
        with timing.step("store"):
            put_in_place(staged, target)
    return Built(manifest, target, tree.reused, trust is not None, timing.steps)


def take_boot_files(root: Path, staged: Path) -> None:
    """Copies the tree's kernel and initrd out of it: an image has them beside its root, not in it."""
    found = assemble.boot_files(root)
    shutil.copyfile(found.kernel, staged / "vmlinuz")
    shutil.copyfile(found.initrd, staged / "initrd")


def subject(recipe: Recipe) -> Subject:
    """What the recipe says about the image."""
    return Subject(
        name=recipe.name,
        description=recipe.description,
        architecture=recipe.architecture,
        os=recipe.os,
        release=recipe.release,
        policy=recipe.policy,
        exceptions=recipe.exceptions,
        size=recipe.size,
    )


def parameters(entry: Entry) -> dict[str, Any]:
    """What was asked for, as the provenance says it."""
    return {"recipe": entry.recipe.model_dump(mode="json"), "base": entry.base.model_dump(mode="json")}


@contextmanager
def full_disk(where: Path) -> Iterator[None]:
    """A program that failed because the disk is full becomes the StorageError that it is."""
    try:
        yield
    except CommandError as e:
        if FULL.search(e.output):
            raise StorageError(
                "no space left on device",
                where=str(where),
                hint="Free some space and run the command again; nothing was left half-written.",
            ) from None
        raise


def unpack(tar: Path, root: Path) -> None:
    """Unpacks a tree with its owners and attributes."""
    root.mkdir(mode=0o755)
    argv: list[str | Path] = ["tar", "--extract", "--numeric-owner", "--preserve-permissions", "--same-owner"]
    argv += ["--xattrs", "--xattrs-include=*", "--exclude=./dev/*", "--file", tar, "--directory", root]
    run(argv, timeout=1800)
    root.chmod(0o755)


def root_of_trust(settings: Settings, given: Path | None) -> Path | None:
    """The TUF root that the image will trust: what was given, else the newest of the repository."""
    named = given or settings.root
    if named is not None:
        if not named.is_file():
            raise NotFoundError("there is no root of trust", where=str(named))
        return named
    roots = (settings.repository / "metadata").glob("*.root.json")
    numbered = {int(p.name.split(".")[0]): p for p in roots if p.name.split(".")[0].isdecimal()}
    return numbered[max(numbered)] if numbered else None
