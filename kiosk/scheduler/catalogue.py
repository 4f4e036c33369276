"""Which versions of images and layers may be launched here: those in the host cache that the signed metadata still
offers and no floor revokes, up to the one that is current on this host.

What can't be verified now is not offered, and of a name whose floor is not known nothing is launched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from kiosk import files
from kiosk.cloud.hostcache import HostCache
from kiosk.errors import KioskError, NotFoundError
from kiosk.log import logger
from kiosk.model.floor import Floor
from kiosk.model.names import (
    VERSION,
    Ref,
    Version,
    floor_path,
    manifest_path,
    parse_ref,
    with_version,
)
from kiosk.order import targets_of
from kiosk.scheduler.breaker import Images
from kiosk.trust.bundle import export

log = logger(__name__)
MOST = 5
"""So many versions of a name are looked at, the newest first."""


def offered(cache: HostCache, metadata: Path, names: Iterable[str], work: Path) -> Images:
    """What may be launched of these images and layers; `work` is a folder for what is read meanwhile."""
    versions: dict[str, tuple[str, ...]] = {}
    floors: dict[str, Version | None] = {}
    for name in names:
        found: list[str] = []
        for ref in _here(cache, parse_ref(name)):
            try:
                floors[name] = _floor(ref, metadata, work)
            except NotFoundError as e:
                log.info("%s is not offered: %s", ref, e.what)
                continue
            except KioskError as e:
                log.warning("%s can't be verified now: %s", ref, e)
                continue
            found.append(str(ref))
        versions[name] = tuple(found)
    return Images(versions, floors)


def _here(cache: HostCache, name: Ref) -> list[Ref]:
    """The versions in the cache, the current one first, and then those before it."""
    try:
        current = cache.resolve(name)
    except KioskError as e:
        log.warning("%s is not on this host: %s", name, e.what)
        return []
    folders = [p.name for p in cache.folder(current).parent.iterdir() if _is_version(p)]
    all_of_it = sorted((Version.parse(text) for text in folders), reverse=True)
    assert current.version is not None
    return [with_version(name, v) for v in all_of_it if v <= current.version][:MOST]


def _is_version(path: Path) -> bool:
    return re.fullmatch(VERSION, path.name) is not None and (path / "manifest.json").is_file()


def _floor(ref: Ref, metadata: Path, work: Path) -> Version | None:
    """Below which version this name is revoked. NotFoundError where the version is not offered any more."""
    with files.scratch(work, prefix="signed-") as folder:
        export(metadata, [manifest_path(ref)], folder)
        floor = targets_of(folder).get(floor_path(ref))
        return None if floor is None else Version.parse(Floor.of(ref, floor.read_bytes()).below)
