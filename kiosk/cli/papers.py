"""The small files of published versions: lists, bills of materials, provenance. Verified; lists are kept by digest,
so that reading a hundred versions again reads nothing from the repository.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from kiosk import files
from kiosk.cli.publish import read_artifact
from kiosk.errors import CorruptError, NotFoundError
from kiosk.progress import bar

if TYPE_CHECKING:
    from kiosk.config import Settings
    from kiosk.model.census import Package
    from kiosk.model.manifest import Artifact, Manifest

KEPT = 4096
"""Lists that are kept; the oldest go first."""
READERS = 8


def paper(s: Settings, manifest: Manifest, name: str) -> bytes:
    """An artifact of a version that is a document; NotFoundError where the version has none of that name."""
    from kiosk.model.census import LARGEST

    artifact = manifest.artifacts.get(name)
    if artifact is None or artifact.index is None:
        there = ", ".join(n for n, a in manifest.artifacts.items() if a.index is not None)
        raise NotFoundError(f"{manifest.ref} was published without {name}", hint=f"It has {there}.")
    if artifact.size > LARGEST:
        raise CorruptError(
            f"has {artifact.size} bytes, more than such a file may have",
            where=f"{manifest.ref} {artifact.file}",
        )
    return read_artifact(s, artifact)


def packages(s: Settings, manifest: Manifest) -> tuple[Package, ...] | None:
    """The packages of a version; None where it has no list of them."""
    from kiosk.model.census import read_packages

    artifact = manifest.artifacts.get("packages")
    if artifact is None or artifact.index is None:
        return None
    data = _kept(s, artifact)
    if data is None:
        data = paper(s, manifest, "packages")
        files.write(_place(s, artifact), data)
    return read_packages(data, where=f"{manifest.ref} {artifact.file}")


def all_packages(s: Settings, manifests: Sequence[Manifest]) -> dict[str, tuple[Package, ...] | None]:
    """The packages of many versions of one name, by version."""
    with bar("lists of packages", len(manifests), unit="version") as progress:

        def read(manifest: Manifest) -> tuple[Package, ...] | None:
            found = packages(s, manifest)
            progress.update(1)
            return found

        with ThreadPoolExecutor(READERS, thread_name_prefix="kiosk-lists") as pool:
            found = dict(zip((m.version for m in manifests), pool.map(read, manifests), strict=True))
    _forget(s)
    return found


def _place(s: Settings, artifact: Artifact) -> Path:
    return s.home / "client" / "lists" / artifact.digest.removeprefix("sha256:")


def _kept(s: Settings, artifact: Artifact) -> bytes | None:
    """What is kept, if it is right."""
    try:
        with _place(s, artifact).open("rb") as f:
            data = f.read(artifact.size + 1)
    except FileNotFoundError:
        return None
    return data if "sha256:" + hashlib.sha256(data).hexdigest() == artifact.digest else None


def _forget(s: Settings) -> None:
    """Removes what was kept first, where it has become much."""
    there = list((s.home / "client" / "lists").glob("[0-9a-f]*"))
    if len(there) > KEPT:
        there.sort(key=lambda p: p.stat().st_mtime)
        for path in there[:-KEPT]:
            path.unlink(missing_ok=True)
