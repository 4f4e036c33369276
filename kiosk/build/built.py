"""The versions of an image that were built here."""

from __future__ import annotations

from pathlib import Path

from kiosk.config import Settings
from kiosk.errors import CorruptError, KioskError, UsageError
from kiosk.files import sha256
from kiosk.model.census import LARGEST, FileEntry, read_files
from kiosk.model.manifest import ImageManifest
from kiosk.model.names import Version


def versions(settings: Settings, name: str) -> list[Version]:
    """The finished versions, oldest first."""
    home = settings.images / name
    found = []
    for folder in home.iterdir() if home.is_dir() else ():
        try:
            version = Version.parse(folder.name)
        except UsageError:
            continue
        if (folder / "manifest.json").is_file():
            found.append(version)
    return sorted(found)


def newest(settings: Settings, name: str) -> tuple[ImageManifest, Path] | None:
    """The manifest and the folder of the newest version, or None when there is none."""
    found = versions(settings, name)
    if not found:
        return None
    folder = settings.images / name / str(found[-1])
    file = folder / "manifest.json"
    return ImageManifest.from_json(file.read_bytes(), where=str(file)), folder


def files(manifest: ImageManifest, file: Path) -> tuple[FileEntry, ...]:
    """The list of an image's files, which must be the one that its manifest names."""
    artifact = manifest.artifacts["files"]
    if artifact.size > LARGEST or sha256(file) != artifact.digest:
        raise CorruptError("is not the list of files that the image's manifest names", where=str(file))
    return read_files(file.read_bytes(), where=str(file))


def contents(settings: Settings, name: str) -> tuple[ImageManifest, tuple[FileEntry, ...]] | None:
    """The newest version with its files, where it can be read."""
    try:
        found = newest(settings, name)
        if found is None:
            return None
        manifest, folder = found
        return manifest, files(manifest, folder / manifest.artifacts["files"].file)
    except (KioskError, OSError, KeyError):
        return None
