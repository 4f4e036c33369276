"""The base images that a layer is checked against: what is published, and what was built here since.

A layer names the images that it is made for. Each is looked up at its newest version, in the repository and
among the built ones; at least one of them must be known here, or nothing could be checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kiosk.build import built
from kiosk.build.layer import Base
from kiosk.config import Settings
from kiosk.disk.disk import root_volume
from kiosk.disk.ext4 import Ext4Volume
from kiosk.errors import NotFoundError
from kiosk.files import scratch
from kiosk.model.manifest import ImageManifest
from kiosk.model.names import ImageRef
from kiosk.store.api import DirectoryStore
from kiosk.store.fetch import fetch
from kiosk.trust.client import TrustedRepository


@dataclass(frozen=True)
class Bases:
    """The base images that were found, and the names of those that are not known here."""

    found: tuple[Base, ...]
    unknown: tuple[str, ...]


def bases(settings: Settings, names: Sequence[str]) -> Bases:
    """The images of those names; NotFoundError when none of them is known here."""
    here = known(settings, names)
    if not here.found:
        raise NotFoundError(
            f"none of the images that the layer is made for is known here: {', '.join(names)}",
            where=str(settings.home),
            hint="Build or publish one of them first, so that the layer can be checked against it.",
        )
    return here


def known(settings: Settings, names: Sequence[str]) -> Bases:
    """The images of those names, as far as they are known here."""
    found: list[Base] = []
    unknown: list[str] = []
    for name in names:
        of_name = {
            base.name: base for base in [*newest_published(settings, name), *newest_built(settings, name)]
        }
        found += of_name.values()
        if not of_name:
            unknown.append(name)
    return Bases(tuple(found), tuple(unknown))


def newest_built(settings: Settings, name: str) -> Iterator[Base]:
    """The newest built version of an image, if there is one."""
    if found := built.newest(settings, name):
        manifest, folder = found
        base = _base(manifest, folder / manifest.artifacts["files"].file)
        disk = manifest.artifacts.get("disk")
        if disk is not None and (folder / disk.file).is_file():
            base = replace(base, accounts=_accounts(folder / disk.file))
        yield base


def _accounts(disk: Path) -> dict[str, str]:
    """Who is who on a disk: /etc/passwd and /etc/group, by path."""
    found: dict[str, str] = {}
    with root_volume(disk) as volume:
        for path in ("/etc/passwd", "/etc/group"):
            node = volume.find(path.encode()) if isinstance(volume, Ext4Volume) else None
            if node is not None:
                found[path] = b"".join(volume.read(node)).decode(errors="replace")
    return found


def newest_published(settings: Settings, name: str) -> Iterator[Base]:
    """The newest version of an image in this kiosk's repository, read as a hypervisor would, if there is one."""
    root = settings.repository / "metadata" / "1.root.json"
    if not root.exists():
        return
    with scratch(settings.home / "scratch", prefix="layer-") as work:
        reader = TrustedRepository(work / "metadata", settings.repository, root.read_bytes())
        try:
            manifest = reader.manifest(ImageRef(name))
        except NotFoundError:
            return
        assert isinstance(manifest, ImageManifest)
        target = work / "files.json"
        fetch(manifest.artifacts["files"], target, DirectoryStore(settings.repository))
        yield _base(manifest, target)


def _base(manifest: ImageManifest, files: Path) -> Base:
    """An image with its list of paths, which must be the one that its manifest names."""
    entries = built.files(manifest, files)
    return Base(str(manifest.ref), frozenset("/" + e.path.strip("/") for e in entries), manifest.policy)
