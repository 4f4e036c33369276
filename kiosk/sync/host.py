"""A hypervisor's cache: complete, verified versions, and for each name which one is current.

    images/NAME/VERSION/{manifest.json,disk.raw,vmlinuz,initrd}     images/NAME/current -> VERSION
    layers/KIND/OWNER/NAME/VERSION/{manifest.json,layer.squashfs}   .../current -> VERSION
    metadata/   what the verifying client has seen     partial/   versions on their way     lock

A version's folder appears by one rename, when all of it is there and right; `current` is replaced by one
rename, too. Whoever reads here meets complete versions only, without a lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kiosk.errors import CorruptError, KioskError, NotFoundError, UsageError
from kiosk.files import fsync_dir, locked, point, remove_tree, sha256, storage_errors
from kiosk.model.manifest import Artifact, Manifest, read_manifest
from kiosk.model.names import Ref, Version, parse_ref, with_version

KEPT = {"kiosk.image/1": ("disk", "kernel", "initrd"), "kiosk.layer/1": ("layer",)}
"""The artifacts that a hypervisor needs."""


@dataclass(frozen=True)
class Installed:
    """A version in the cache."""

    ref: Ref
    manifest: Manifest
    folder: Path
    current: bool


def kept_artifacts(manifest: Manifest) -> list[Artifact]:
    """The artifacts of a version that the cache holds."""
    return [manifest.artifacts[n] for n in KEPT[manifest.schema_] if n in manifest.artifacts]


class HostCache:
    """The cache in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadata = folder / "metadata"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the cache's lock; BusyError when another kiosk is syncing."""
        with locked(self.folder / "lock", what="this host's images"):
            yield

    def names(self) -> list[Ref]:
        """The images and layers of which a version is here, without versions."""
        found = []
        for pattern, parts in (("images/*", 1), ("layers/*/*/*", 3)):
            for path in self.folder.glob(pattern):
                with contextlib.suppress(UsageError):
                    found.append(parse_ref("/".join(path.parts[-parts:])))
        return sorted(found, key=lambda r: r.folder)

    def versions(self, ref: Ref) -> list[Version]:
        """The complete versions of one name, oldest first."""
        parent = self.folder / ref.folder
        found = []
        for folder in parent.iterdir() if parent.is_dir() else []:
            if not folder.is_symlink() and (folder / "manifest.json").is_file():
                with contextlib.suppress(UsageError):
                    found.append(Version.parse(folder.name))
        return sorted(found)

    def current(self, ref: Ref) -> Version | None:
        """The version that new VMs start from."""
        try:
            version = Version.parse((self.folder / ref.folder / "current").readlink().name)
        except (OSError, UsageError):
            return None
        return version if version in self.versions(ref) else None

    def version_folder(self, ref: Ref) -> Path:
        """Where a version stands."""
        assert ref.version is not None
        return self.folder / ref.folder / str(ref.version)

    def partial_folder(self, ref: Ref) -> Path:
        """Where a version is put together; what an interrupted sync left there is used."""
        return self.folder / "partial" / str(ref).replace("/", "_")

    def read(self, ref: Ref) -> Manifest:
        """The manifest of a version in the cache."""
        path = self.version_folder(ref) / "manifest.json"
        try:
            return read_manifest(path.read_bytes(), where=str(path))
        except FileNotFoundError:
            raise NotFoundError(
                f"{ref} is not on this host", where=str(path), hint=f"kiosk sync {ref}"
            ) from None

    def holds(self, manifest: Manifest, signed: bytes) -> bool:
        """Whether this very version is here, with all its files at their sizes (`check` reads them)."""
        folder = self.version_folder(manifest.ref)
        try:
            return (folder / "manifest.json").read_bytes() == signed and all(
                (folder / a.file).stat().st_size == a.size for a in kept_artifacts(manifest)
            )
        except FileNotFoundError:
            return False

    def install(self, ref: Ref, partial: Path) -> None:
        """Gives a complete version its place. One that stands there already was damaged and makes way."""
        target = self.version_folder(ref)
        with storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                aside = self.folder / "partial" / f".{partial.name}.old"
                remove_tree(aside)
                target.rename(aside)
                partial.rename(target)
                remove_tree(aside)
            else:
                partial.rename(target)
            fsync_dir(target.parent)

    def make_current(self, ref: Ref) -> None:
        """Points `current` at a version that is here."""
        point(self.folder / ref.folder / "current", str(ref.version))

    def installed(self) -> list[Installed]:
        """Every version here. VerificationError where a manifest is damaged."""
        found, damaged = self.readable()
        for error in damaged.values():
            raise error
        return found

    def readable(self) -> tuple[list[Installed], dict[Ref, KioskError]]:
        """Every version here whose manifest can be read, and why the others' can't."""
        found: list[Installed] = []
        damaged: dict[Ref, KioskError] = {}
        for name in self.names():
            current = self.current(name)
            for version in self.versions(name):
                ref = with_version(name, version)
                try:
                    with storage_errors(self.version_folder(ref)):
                        manifest = self.read(ref)
                except KioskError as e:
                    damaged[ref] = e
                    continue
                found.append(Installed(ref, manifest, self.version_folder(ref), version == current))
        return found, damaged

    def check(self, installed: Installed) -> None:
        """CorruptError when a file of a version is not what its manifest says."""
        for artifact in kept_artifacts(installed.manifest):
            path = installed.folder / artifact.file
            if not path.exists() or path.stat().st_size != artifact.size or sha256(path) != artifact.digest:
                raise CorruptError(
                    f"is not the file of {installed.ref} that was signed",
                    where=str(path),
                    hint=f"Stop what uses it, remove {installed.folder}, and run `kiosk sync {installed.ref}`.",
                )
