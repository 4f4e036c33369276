"""`kiosk import`: an image from elsewhere becomes a version in `settings.images`, all of it or nothing.

Its disk is kept as it came, to the byte: it is published, synced and compared as any other, and has no verity, no
kernel beside the disk, and no agent of kiosk's inside. The file that is given is copied before it is looked at, so
that nobody changes it between a check and its use.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kiosk import clock
from kiosk.build.book import Book
from kiosk.build.version import Timing, artifact, next_version, put_in_place
from kiosk.config import Settings
from kiosk.errors import NotFoundError, PolicyError, UsageError
from kiosk.exchange import contents, convert, formats, ova, unpack
from kiosk.exchange.confined import NAMES, prepare
from kiosk.exchange.formats import Format
from kiosk.files import copy_sparse, locked, scratch, sha256, storage_errors
from kiosk.model.base import Digest
from kiosk.model.manifest import Artifact, ImageManifest, LayerPolicy, Source
from kiosk.model.names import Version
from kiosk.packages.sbom import Image, sbom
from kiosk.progress import bar
from kiosk.run import tool

GB = 1_000_000_000
MOST = 200 * GB
BUILD_TYPE = "https://kiosk.invalid/import/v1"
NEEDED = ("qemu-img", *NAMES)


@dataclass(frozen=True)
class Wanted:
    """What an import was asked for. Without a version, the next one of the day; `most` is the largest disk in bytes;
    `parameters` go into the provenance."""

    name: str
    version: Version | None = None
    format: Format | None = None
    description: str = ""
    most: int = MOST
    os: str | None = None
    release: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Imported:
    """A finished version, where it stands, what the file was, and what it took. `already`: it was there. `unread` says
    why the system on its disk could not be read; it is kept all the same."""

    manifest: ImageManifest
    folder: Path
    format: Format | None
    seconds: dict[str, float]
    already: bool = False
    unread: str | None = None


def import_file(settings: Settings, given: Path, wanted: Wanted) -> Imported:
    """Imports a file. UsageError, PolicyError or CorruptError when it isn't a disk image that can be taken."""
    refuse_what_is_no_file(given)
    needs()
    with alone(settings), scratch(settings.home / "scratch", prefix="import-") as folder:
        copy = folder / "copy"
        timing = Timing()
        with timing.step("copy"), storage_errors(settings.home):
            copy_sparse(given, copy)
        return make(settings, copy, given.name, sha256(copy), wanted, folder, timing)


def look(given: Path, stated: Format | None) -> tuple[Format, formats.Compression | None]:
    """The format and the compression of a file, by its bytes; nothing is written. (What is compressed is looked at
    when it is imported: of it only the format that was stated is known.)"""
    refuse_what_is_no_file(given)
    compression = formats.compression(given)
    if compression is not None:
        return stated or "raw", compression
    found = formats.detect(given, str(given), stated)
    formats.refuse_references(given, str(given), found)
    return found, None


def refuse_what_is_no_file(given: Path) -> None:
    """NotFoundError or UsageError where there is no regular file."""
    try:
        mode = given.stat().st_mode
    except OSError as e:
        raise NotFoundError(f"can't be read: {e.strerror}", where=str(given)) from None
    if not stat.S_ISREG(mode):
        raise UsageError("is not a file", where=str(given))


def needs() -> None:
    """MissingToolError where a program is not there."""
    for program in NEEDED:
        tool(program)


def alone(settings: Settings) -> AbstractContextManager[None]:
    """The lock of imports: one at a time; BusyError."""
    return locked(settings.home / "import.lock", what="an import")


def make(
    settings: Settings, copy: Path, shown: str, digest: Digest, wanted: Wanted, folder: Path, timing: Timing
) -> Imported:
    """Makes a version of a private copy, which is used up, in the private `folder`. `shown` is the file's name and
    `digest` that of its bytes. To be called under the lock of imports."""
    refuse_name(settings, wanted.name)
    there = _there(settings, wanted, digest)
    if there is not None:
        return there
    created = clock.now()
    version = wanted.version or next_version(settings.images / wanted.name, int(created.timestamp()))
    target = settings.images / wanted.name / str(version)
    job = folder / "job"
    prepare(job)
    with bar(f"import {wanted.name}", None) as progress, storage_errors(settings.home):
        with timing.step("unpack"):
            format = disk_of(copy, job / convert.GIVEN, wanted, shown, progress.update)
        with timing.step("convert"):
            disk = convert.to_raw(job, format, wanted.most, shown)
        with timing.step("look"):
            staged = folder / "version"
            staged.mkdir(mode=0o755)
            partitions = contents.partitions(disk, shown)
            inside = contents.look_inside(disk, staged, folder)
        disk.rename(staged / convert.DISK)
    system = inside.os or wanted.os or contents.UNKNOWN
    release = inside.release or wanted.release or contents.UNKNOWN
    with timing.step("digest"):
        artifacts = {"disk": artifact(staged / convert.DISK)}
        artifacts |= {key: artifact(staged / file) for key, file in inside.lists.items()}
    if inside.packages:
        date = int(created.timestamp())
        image = Image(wanted.name, str(version), wanted.description, system, release, date, artifacts)
        (staged / "sbom.json").write_bytes(sbom(image, inside.packages))
        artifacts["sbom"] = artifact(staged / "sbom.json")
    source = Source(
        kind="import", name=shown, digest=digest, tree=artifacts["disk"].digest, date=int(created.timestamp())
    )
    (staged / "provenance.json").write_bytes(_statement(wanted, version, source, artifacts["disk"], format))
    artifacts["provenance"] = artifact(staged / "provenance.json")
    manifest = ImageManifest(
        name=wanted.name,
        version=str(version),
        description=wanted.description,
        architecture="x86_64",
        os=system,
        release=release,
        created=datetime.fromtimestamp(source.date, UTC),
        source=source,
        partitions=partitions,
        policy=LayerPolicy(users=False, services=False, environment=False),
        artifacts=artifacts,
    )
    (staged / "manifest.json").write_bytes(manifest.to_json())
    with timing.step("store"):
        put_in_place(staged, target)
    return Imported(manifest, target, format, timing.steps, unread=inside.unread)


def refuse_name(settings: Settings, name: str) -> None:
    """PolicyError where images of that name are made here from a recipe or a golden node: an import would follow
    them as a newer version, without a verified root."""
    book = Book.of(settings)
    own = any((f / kind / f"{name}.toml").is_file() for f in book.folders for kind in ("images", "golden"))
    for file in (settings.images / name).glob("*/manifest.json"):
        own |= ImageManifest.from_json(file.read_bytes(), where=str(file)).source.kind != "import"
    if own:
        raise PolicyError(
            f"{name} is an image that is made here from a recipe or a golden node",
            hint="Import it under another name (--name).",
        )


def _there(settings: Settings, wanted: Wanted, digest: Digest) -> Imported | None:
    """The version that was asked for, where it is there and of the same file. UsageError where it is of another."""
    if wanted.version is None:
        return None
    target = settings.images / wanted.name / str(wanted.version)
    if not target.exists():
        return None
    try:
        data = (target / "manifest.json").read_bytes()
        manifest = ImageManifest.from_json(data, where=str(target / "manifest.json"))
    except FileNotFoundError:
        manifest = None
    if manifest is None or manifest.source.kind != "import" or manifest.source.digest != digest:
        raise UsageError(
            f"{wanted.name}@{wanted.version} is there already, made of something else",
            where=str(target),
            hint="A version never changes: choose a higher --version.",
        )
    return Imported(manifest, target, None, {}, already=True)


def disk_of(copy: Path, given: Path, wanted: Wanted, shown: str, progress: Callable[[int], object]) -> Format:
    """Gets the disk image out of what it is wrapped in (gzip or bzip2, then OVA) and says its format."""
    how = formats.compression(copy)
    if how is not None:
        unpacked = copy.with_name("unpacked")
        unpack.unpack(copy, how, unpacked, wanted.most, shown, progress)
        copy.unlink()
        copy = unpacked
    format = formats.detect(copy, shown, wanted.format)
    if format == "ova":
        disk = ova.take_disk(copy, given, wanted.most, shown, progress)
        copy.unlink()
        format = formats.detect(given, f"{shown}: {disk.name}")
        if format == "ova":
            raise UsageError("is an OVA in an OVA", where=shown)
        return format
    copy.rename(given)
    return format


def _statement(wanted: Wanted, version: Version, source: Source, disk: Artifact, format: Format) -> bytes:
    """Where the image came from, as an in-toto statement (v1) with a SLSA provenance predicate (v1)."""
    value = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": disk.file, "digest": {"sha256": disk.digest.removeprefix("sha256:")}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {**wanted.parameters, "format": format, "version": str(version)},
                "internalParameters": {"sourceDate": source.date},
                "resolvedDependencies": [
                    {"name": source.name, "digest": {"sha256": source.digest.removeprefix("sha256:")}}
                ],
            },
            "runDetails": {"builder": {"id": "https://kiosk.invalid/build/local"}},
        },
    }
    return (json.dumps(value, sort_keys=True, indent=1) + "\n").encode()
