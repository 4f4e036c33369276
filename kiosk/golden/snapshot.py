"""`kiosk snapshot`: from a golden node that goes on running to a version of an image, all of it or nothing.

Ready? → capture → tree → sanitise → fit → assemble. Each step works on a private copy; the node is only read, and
frozen for as long as a point-in-time copy takes to begin. A node that isn't ready gives no image.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiosk.build import clean, sandbox, uki
from kiosk.build.book import Book
from kiosk.build.image import NEEDED, full_disk, root_of_trust
from kiosk.build.trees import DAY, Forest
from kiosk.build.version import Making, Origin, Subject, Timing, next_version, put_in_place
from kiosk.clock import now, source_date_epoch
from kiosk.config import Settings
from kiosk.disk.disk import check, recover, root_volume
from kiosk.disk.extract import extract
from kiosk.errors import BuildError, UsageError
from kiosk.files import discard, locked, scratch, storage_errors, waiting
from kiosk.golden import fit
from kiosk.golden.definition import Definition, Golden, golden
from kiosk.golden.ready import ask
from kiosk.golden.source import Capture, open_source
from kiosk.golden.workshop import Workshop
from kiosk.model.accounts import AccountPolicy
from kiosk.model.manifest import ImageManifest
from kiosk.model.names import Version
from kiosk.progress import bar
from kiosk.run import tool
from kiosk.sanitise.engine import Done, sanitise
from kiosk.sanitise.rules import load

BUILD_TIME = 3600.0
"""How long a snapshot waits for a build on the same host, in seconds."""
LEFT_OUT = (
    "/proc/*",
    "/sys/*",
    "/dev/*",
    "/run/*",
    "/tmp/*",  # noqa: S108  in the node
    "/var/tmp/*",  # noqa: S108
    "/scratch/*",
    "/mnt/*",
    "/media/*",
    "/lost+found",
    "/swapfile",
    "/var/cache/apt/archives/*",
    "/var/lib/cvmfs/*",
    "/var/cache/cvmfs2/*",
)
"""Scratch, temporary and virtual file systems, and caches: never read at all."""


@dataclass(frozen=True)
class Request:
    """What a snapshot was asked for."""

    name: str
    version: Version | None
    root: Path | None


@dataclass(frozen=True)
class Snapshot:
    """A finished version, what was taken out of it, and what its making took."""

    manifest: ImageManifest
    folder: Path
    capture: Capture
    removed: tuple[Done, ...]
    trusted: bool
    dropped: tuple[Version, ...]
    seconds: dict[str, float]


def snapshot(settings: Settings, request: Request) -> Snapshot:
    """Makes a version of an image from its golden node as the node is now."""
    sandbox.require_root("kiosk snapshot")
    for program in NEEDED:
        tool(program)
    uki.stub()
    found = golden(settings, request.name)
    trust = root_of_trust(settings, request.root)
    source = open_source(found.definition.source)
    timing = Timing()
    with (
        locked(settings.home / "golden" / f"{request.name}.lock", what=f"a snapshot of {request.name}"),
        scratch(settings.home / "scratch", prefix="snapshot-") as folder,
        storage_errors(settings.home),
        full_disk(settings.home),
    ):
        with timing.step("ready"):
            ask(source, found.definition.ready)
        with timing.step("capture"):
            (folder / "capture").mkdir()
            capture = source.capture(folder / "capture")
        root = folder / "root"
        with timing.step("extract"):
            take_tree(capture, root, found.definition)
        work = Work(settings, found, root, folder, timing)
        date = source_date_epoch() or int(now().timestamp()) // DAY * DAY
        removed = work.clean(date)
        name = found.definition.name
        version = request.version or next_version(settings.images / name, date)
        target = settings.images / name / str(version)
        if target.exists():
            raise UsageError(f"{name}@{version} is there already", where=str(target))
        origin = Origin("golden-node", name, found.digest, parameters(found.definition, capture))
        making = Making(subject(found.definition), version, origin, date, trust, timing)
        manifest = making.version(root, work.staged, folder)
        with timing.step("store"):
            put_in_place(work.staged, target)
        dropped = drop_old(settings.images / name, found.definition.keep, version)
    return Snapshot(manifest, target, capture, removed, trust is not None, dropped, timing.steps)


def parameters(definition: Definition, capture: Capture) -> dict[str, Any]:
    """What the provenance says was asked for. Where the node is, how it is reached, and what it answered are the
    site's own: they are not published; the definition's digest covers them."""
    ready = definition.ready
    return {
        "golden": definition.model_dump(mode="json", exclude={"source", "ready"}),
        "capture": {"source": definition.source.kind, "method": capture.method},
        "ready": None if ready is None else ready.ask or "a command of the site's own",
    }


def take_tree(capture: Capture, root: Path, definition: Definition) -> None:
    """The node's files, but for what is left out, as a tree of our own; the captured disk is dropped."""
    skip = left_out(definition.leave_out)
    if capture.tree is not None:
        capture.tree.rename(root)
        drop_left_out(root, skip)
        return
    assert capture.disk is not None
    recover(capture.disk)
    check(capture.disk)
    with (
        root_volume(capture.disk, allow_mount=True) as volume,
        bar(f"{definition.name}: files", None, unit="B") as progress,
    ):
        extract(volume, root, skip=skip, progress=progress.update)
    capture.disk.unlink()


def drop_left_out(root: Path, skip: left_out) -> None:
    """Takes out of a tree what is left out: a source that reads files leaves out what it knows of by itself."""
    for path in list(clean.walk(root)):
        if path.is_symlink() or path.exists():  # else gone with its folder
            name = b"/" + os.fsencode(path.relative_to(root))
            if skip(name):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


class left_out:
    """Whether a path is left out: by kiosk's list or the definition's."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [p.encode() for p in (*LEFT_OUT, *patterns)]

    def __call__(self, path: bytes) -> bool:
        return any(fnmatch.fnmatchcase(path, p) for p in self._patterns)


@dataclass(frozen=True)
class Work:
    """The steps between a captured tree and one that can be assembled."""

    settings: Settings
    golden: Golden
    root: Path
    folder: Path
    timing: Timing

    @property
    def staged(self) -> Path:
        """Where the version's files are made."""
        return self.folder / "version"

    def clean(self, date: int) -> tuple[Done, ...]:
        """Takes kernel and identity out of the tree, and makes it fit to boot; returns what was taken out."""
        self.staged.mkdir(mode=0o755)
        definition = self.golden.definition
        self.check()
        kernel = fit.newest_kernel(self.root)
        with self.timing.step("base"):
            workshop = make_workshop(self.settings, self.golden, self.folder)
        with self.timing.step("boot files"):
            shutil.copyfile(kernel.file, self.staged / "vmlinuz")
            workshop.initrd(kernel.modules, self.staged / "initrd")
        with self.timing.step("sanitise"):
            book = Book.of(self.settings)
            removed = sanitise(self.root, load(book.folders), AccountPolicy(keep=definition.accounts))
            clean.clean(self.root, date, table=())
            clean.drop_attributes(self.root)
        with self.timing.step("fit"):
            workshop.python(self.root)
            fit.fit(self.root, network=definition.network, mask=definition.mask)
        return removed

    def check(self) -> None:
        """BuildError where the tree is not one of the definition's release, or can't become an image."""
        definition = self.golden.definition
        fit.check_shape(self.root)
        release = fit.release_of(self.root)
        if (release.id, release.release) != (definition.os, definition.release):
            raise BuildError(
                f"the node runs {release.pretty} ({release.id} {release.release}), and its definition says "
                f"{definition.os} {definition.release}",
                where=str(self.golden.file),
            )
        fit.check_python(self.root, definition.release)


def make_workshop(settings: Settings, golden: Golden, folder: Path) -> Workshop:
    """A workshop with the base tree of the node's release, which is made first where it is not kept."""
    definition = golden.definition
    with waiting(settings.build_cache / "lock", what="a build", seconds=BUILD_TIME):
        made = folder / "base"
        made.mkdir()
        forest = Forest(Book.of(settings), settings.build_cache, made, settings.home / "logs")
        base = forest.base(definition.base, golden.base, fresh=False)
    return Workshop(base, definition.release, settings.build_cache, folder / "workshop")


def subject(definition: Definition) -> Subject:
    """What the definition says about the image."""
    return Subject(
        name=definition.name,
        description=definition.description,
        architecture=definition.architecture,
        os=definition.os,
        release=definition.release,
        policy=definition.policy,
        accounts=definition.accounts,
        exceptions=definition.exceptions,
        size=definition.size,
    )


def drop_old(folder: Path, keep: int, made: Version) -> tuple[Version, ...]:
    """Removes all but the newest `keep` built versions of an image, and never the one that was just `made`; what is
    published stays published. What can't be removed is a warning: the new version is there."""
    for gone in folder.glob(".gone-*"):  # a killed run's
        discard(gone)
    versions = []
    for path in folder.iterdir():
        try:
            versions.append(Version.parse(path.name))
        except UsageError:
            continue
    old = [v for v in sorted(versions)[:-keep] if v != made]
    for version in old:
        gone = folder / f".gone-{version}"  # renamed first: a version is there whole or not at all
        (folder / str(version)).rename(gone)
        discard(gone)
    return tuple(old)
