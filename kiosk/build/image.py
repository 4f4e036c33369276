"""`kiosk build`: from a recipe to a version of an image in `settings.images`, all of it or nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from kiosk.build import assemble, census, clean, provenance, sandbox, uki
from kiosk.build.book import Book, Entry
from kiosk.build.trees import Forest, Tree, recipe_digest
from kiosk.config import Settings
from kiosk.errors import BuildError, NotFoundError, StorageError, UsageError
from kiosk.files import fsync_dir, locked, scratch, storage_errors
from kiosk.model.base import Digest
from kiosk.model.census import write_files
from kiosk.model.manifest import Artifact, ImageManifest, Source
from kiosk.model.names import Version
from kiosk.progress import bar
from kiosk.run import CommandError, run, tool
from kiosk.store.regions import digests

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
MIB = 1 << 20
FULL = re.compile(r"[Nn]o space left on device|[Dd]isk full|[Dd]isk quota exceeded")


@dataclass(frozen=True)
class Request:
    """What a build was asked for. Without a version, the next one of the tree's day."""

    name: str
    version: Version | None
    root: Path | None
    fresh: bool


@dataclass
class Timing:
    """Seconds by step."""

    steps: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Counts the time of a block to a step."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.steps[name] = round(time.monotonic() - start, 2)


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
        making = Making(entry, version, tree, recipe_digest(book, entry), trust, timing)
        manifest = making.version(root, staged, folder)
        with timing.step("store"):
            publish(staged, target)
    return Built(manifest, target, tree.reused, trust is not None, timing.steps)


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


@dataclass(frozen=True)
class Making:
    """Makes all files of a version from its unpacked tree."""

    entry: Entry
    number: Version
    tree: Tree
    digest: Digest
    trust: Path | None
    timing: Timing

    def version(self, root: Path, staged: Path, folder: Path) -> ImageManifest:
        """Cleans the tree, assembles the disk, and writes the artifacts and the manifest to `staged`."""
        recipe = self.entry.recipe
        date = self.tree.date
        with self.timing.step("clean"):
            kernel, initrd = staged / "vmlinuz", staged / "initrd"
            found = assemble.boot_files(root)
            shutil.copyfile(found.kernel, kernel)
            shutil.copyfile(found.initrd, initrd)
            clean.clean(root, date)
            content = census.tree_digest(root)
            self._inject(root)
            clean.clamp(root, date)
        packages = census.packages(root)
        _json(staged / "packages.json", packages)
        (staged / "files.json").write_bytes(write_files(census.files(root)))
        with self.timing.step("assemble"), bar(f"{recipe.name}: assemble", None, unit="disk"):
            disk = assemble.assemble(
                root,
                assemble.Boot(kernel, initrd),
                staged / "disk.raw",
                name=recipe.name,
                date=date,
                size=recipe.size * MIB if recipe.size else None,
                folder=folder,
            )
        source = Source(kind="recipe", name=recipe.name, digest=self.digest, tree=content, date=date)
        with self.timing.step("digest"):
            artifacts = {
                key: _artifact(staged / file)
                for key, file in {
                    "disk": "disk.raw",
                    "kernel": "vmlinuz",
                    "initrd": "initrd",
                    "packages": "packages.json",
                    "files": "files.json",
                }.items()
            }
        statement = provenance.statement(
            recipe, self.entry.base, str(self.number), source, artifacts, packages
        )
        (staged / "provenance.json").write_bytes(statement)
        artifacts["provenance"] = _artifact(staged / "provenance.json")
        manifest = ImageManifest(
            name=recipe.name,
            version=str(self.number),
            description=recipe.description,
            architecture=recipe.architecture,
            os=recipe.os,
            release=recipe.release,
            created=datetime.fromtimestamp(date, UTC),
            source=source,
            partitions=disk.partitions,
            verity=disk.verity,
            cmdline=disk.cmdline,
            policy=recipe.policy,
            artifacts=artifacts,
        )
        (staged / "manifest.json").write_bytes(manifest.to_json())
        return manifest

    def _inject(self, root: Path) -> None:
        """What the guest must know about itself, kept out of the tree so that the tree can be shared."""
        recipe = self.entry.recipe
        folder = root / "usr/lib/kiosk"
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        identity = {"schema": "kiosk.image-identity/1", "name": recipe.name, "version": str(self.number)}
        _json(folder / "image.json", identity)
        (folder / "policy.json").write_bytes(recipe.policy.to_json())
        if self.trust is not None:
            shutil.copyfile(self.trust, folder / "root.json")
        for name in ("image.json", "policy.json", "root.json"):
            if (folder / name).exists():
                (folder / name).chmod(0o644)
        folder.chmod(0o755)


def unpack(tar: Path, root: Path) -> None:
    """Unpacks a tree with its owners and attributes."""
    root.mkdir(mode=0o755)
    argv: list[str | Path] = ["tar", "--extract", "--numeric-owner", "--preserve-permissions", "--same-owner"]
    argv += ["--xattrs", "--xattrs-include=*", "--exclude=./dev/*", "--file", tar, "--directory", root]
    run(argv, timeout=1800)
    root.chmod(0o755)


def publish(staged: Path, target: Path) -> None:
    """Moves a finished version to its place, all at once."""
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for path in staged.iterdir():
            path.chmod(0o644)
            with path.open("rb") as f:
                os.fsync(f.fileno())
        fsync_dir(staged)
        staged.rename(target)
        fsync_dir(target.parent)


def next_version(folder: Path, date: int) -> Version:
    """The next version of a day: YYYYMMDD.N, counting on from what is in `folder`."""
    day = int(datetime.fromtimestamp(date, UTC).strftime("%Y%m%d"))
    numbers = [0]
    for path in folder.glob(f"{day}.*"):
        if path.name.count(".") == 1 and path.name.split(".")[1].isdecimal():
            numbers.append(int(path.name.split(".")[1]))
    return Version((day, max(numbers) + 1))


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


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _artifact(path: Path) -> Artifact:
    if not path.is_file():
        raise BuildError("an artifact was not made", where=str(path))
    digest, regions = digests(path)
    return Artifact(file=path.name, size=path.stat().st_size, digest=digest, regions=regions)
