"""What a build left: the folder of a version, its manifest, and whether the files are the ones it names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kiosk.config import Settings
from kiosk.errors import CorruptError, NotFoundError, UsageError
from kiosk.files import sha256
from kiosk.model.manifest import Artifact, ImageManifest, Manifest, read_manifest
from kiosk.model.names import Ref, Version

LARGEST_MANIFEST = 4 << 20
REQUIRED = {"kiosk.image/1": ("disk", "kernel", "initrd"), "kiosk.layer/1": ("layer",)}
REQUIRED_IMPORTED = ("disk",)


def built_folder(settings: Settings, ref: Ref) -> Path:
    """The folder of a built version, the newest when the reference names none."""
    parent = settings.images / ref.base
    if ref.version is not None:
        folder = parent / str(ref.version)
        if not (folder / "manifest.json").exists():
            raise NotFoundError(f"{ref} has not been built here", where=str(folder), hint=hint(parent))
        return folder
    found = versions(parent)
    if not found:
        raise NotFoundError(f"{ref} has not been built here", where=str(parent), hint=hint(parent))
    return parent / str(found[-1])


def versions(parent: Path) -> list[Version]:
    """The finished versions below a folder, oldest first."""
    found = []
    for folder in parent.iterdir() if parent.is_dir() else []:
        try:
            version = Version.parse(folder.name)
        except UsageError:
            continue
        if (folder / "manifest.json").exists():
            found.append(version)
    return sorted(found)


def hint(parent: Path) -> str:
    """What there is instead."""
    found = versions(parent)
    return f"Built versions: {', '.join(map(str, found))}" if found else "`kiosk build` makes one."


def read_built(folder: Path) -> Manifest:
    """The manifest of a built version; its artifacts are there and have their sizes (digests come later)."""
    path = folder / "manifest.json"
    try:
        with path.open("rb") as f:
            data = f.read(LARGEST_MANIFEST + 1)
    except FileNotFoundError:
        raise NotFoundError("there is no built version here", where=str(path)) from None
    if len(data) > LARGEST_MANIFEST:
        raise CorruptError(f"is larger than {LARGEST_MANIFEST} bytes", where=str(path))
    manifest = read_manifest(data, where=str(path))
    imported = isinstance(manifest, ImageManifest) and manifest.imported
    required = REQUIRED_IMPORTED if imported else REQUIRED[manifest.schema_]
    missing = [n for n in required if n not in manifest.artifacts]
    if missing:
        raise CorruptError(f"names no {', '.join(missing)}", where=str(path))
    for artifact in manifest.artifacts.values():
        check_size(folder, artifact)
    return manifest


def check_size(folder: Path, artifact: Artifact) -> None:
    """CorruptError when an artifact's file is missing or has another size."""
    path = folder / artifact.file
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise CorruptError("the manifest names this file, and it is missing", where=str(path)) from None
    if found != artifact.size:
        raise CorruptError(
            f"has {found} bytes, the manifest says {artifact.size}",
            where=str(path),
            hint="The built files were changed; build the version again.",
        )


def check_digests(folder: Path, manifest: Manifest, progress: Callable[[int], object]) -> None:
    """CorruptError when an artifact's bytes are not the ones that the manifest names."""
    for artifact in manifest.artifacts.values():
        found = sha256(folder / artifact.file)
        if found != artifact.digest:
            raise CorruptError(
                f"has the digest {found}, the manifest says {artifact.digest}",
                where=str(folder / artifact.file),
                hint="The built files were changed; build the version again.",
            )
        progress(artifact.size)
