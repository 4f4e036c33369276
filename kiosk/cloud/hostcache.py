"""Reading the host cache: verified images and layers that `kiosk sync` put there.

images/NAME/VERSION/          manifest.json disk.raw vmlinuz initrd
layers/KIND/OWNER/NAME/VERSION/   manifest.json layer.squashfs
.../current -> VERSION
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kiosk.errors import CorruptError, NotFoundError
from kiosk.model.manifest import ImageManifest, LayerManifest, Manifest, read_manifest
from kiosk.model.names import VERSION, ImageRef, LayerRef, Ref, Version, with_version

SYNC = "Run `kiosk sync` to fetch what is published."


@dataclass(frozen=True)
class HostCache:
    """The host cache below one folder. Only reads."""

    root: Path

    def _base(self, ref: Ref) -> Path:
        return self.root / ("images" if isinstance(ref, ImageRef) else "layers") / ref.base

    def folder(self, ref: Ref) -> Path:
        """Where a version's files are; the reference must have a version."""
        assert ref.version is not None
        return self._base(ref) / str(ref.version)

    def resolve(self, ref: Ref) -> Ref:
        """The reference with a version that is in the cache: its own, or the current one. NotFoundError."""
        kind = "image" if isinstance(ref, ImageRef) else "layer"
        if ref.version is None:
            try:
                current = (self._base(ref) / "current").readlink().name
            except OSError:
                raise NotFoundError(f"the {kind} {ref} is not on this host", hint=SYNC) from None
            if not re.fullmatch(VERSION, current):
                raise CorruptError(f"current points at {current!r}", where=str(self._base(ref)), hint=SYNC)
            ref = with_version(ref, Version.parse(current))
        if not (self.folder(ref) / "manifest.json").is_file():
            raise NotFoundError(
                f"the {kind} {ref} is not on this host", where=str(self.folder(ref)), hint=SYNC
            )
        return ref

    def manifest(self, ref: Ref) -> Manifest:
        """The manifest of a version in the cache; it must be of that very version."""
        path = self.folder(ref) / "manifest.json"
        try:
            manifest = read_manifest(path.read_bytes(), where=str(path))
        except OSError as e:
            raise NotFoundError(
                f"can't read the manifest: {e.strerror}", where=str(path), hint=SYNC
            ) from None
        if manifest.ref != ref:
            raise CorruptError(f"the manifest is of {manifest.ref}, not of {ref}", where=str(path), hint=SYNC)
        return manifest

    def image(self, ref: ImageRef) -> ImageManifest:
        """The manifest of an image."""
        manifest = self.manifest(ref)
        assert isinstance(manifest, ImageManifest)
        return manifest

    def layer(self, ref: LayerRef) -> LayerManifest:
        """The manifest of a layer."""
        manifest = self.manifest(ref)
        assert isinstance(manifest, LayerManifest)
        return manifest

    def file(self, manifest: Manifest, artifact: str) -> Path:
        """The file of an artifact: there, and of the size that the manifest says (its digest was verified
        when it came, and the guest verifies it again)."""
        folder = self.folder(manifest.ref)
        if artifact not in manifest.artifacts:
            raise CorruptError(f"the manifest has no artifact {artifact}", where=str(folder), hint=SYNC)
        found = manifest.artifacts[artifact]
        path = folder / found.file
        if not path.is_file():
            raise NotFoundError(f"{found.file} is missing", where=str(folder), hint=SYNC)
        if path.stat().st_size != found.size:
            raise CorruptError(
                f"has {path.stat().st_size} bytes, its manifest says {found.size}", where=str(path), hint=SYNC
            )
        return path
