"""`publish`: the only way a version gets into the repository, for images and layers alike.

Objects first, then the manifest as a signed target, then the metadata, timestamp.json last: a reader sees the
version complete or not at all. Interrupted anywhere, the same call completes it and stores nothing twice. A
version that is published never changes, and versions only go up.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kiosk import clock, files
from kiosk.config import Settings
from kiosk.errors import BusyError, CorruptError, PolicyError, StorageError
from kiosk.model.manifest import Artifact, ImageManifest, Manifest, Object, Torrent
from kiosk.model.names import Ref, manifest_path
from kiosk.progress import bar
from kiosk.publish.built import check_digests, read_built
from kiosk.publish.hash_tree import hash_tree
from kiosk.publish.older import before, differences
from kiosk.publish.signed import last_versions, published_indexes, read_published, signed_floor, versions
from kiosk.store.api import DirectoryStore
from kiosk.store.cut import publish_file
from kiosk.store.index import Tree
from kiosk.store.known import KnownBlocks, rebuild
from kiosk.store.needs import needs
from kiosk.store.objects import ObjectStore, named
from kiosk.store.older import Older
from kiosk.swarm.make import torrent
from kiosk.trust.signing.keys import Ask, Keys
from kiosk.trust.signing.repository import Repository, Signature

SUMS_FROM = 16 << 20
"""Files from so many bytes on have sums, by which a host finds their blocks in files without an index."""
Check = Callable[[Manifest, Path], Mapping[str, bytes] | None]
"""Looks at a built version before it is signed and raises what is wrong with it. May return files that are published
with the version: their names (`audit.json` becomes the artifact `audit`) and content."""
Together = Callable[[Repository, Ref], Mapping[str, Mapping[str, bytes | None]]]
"""What is signed in the same change as a version (see Repository.publish), or the error for which neither is."""
ADDED = frozenset({"audit"})
"""Artifacts that checks add. A version is the same version whatever they say of it."""


@dataclass(frozen=True)
class StoredArtifact:
    """One file of the version: its size, and what of it had to be added to the store. `differences` are their
    bytes, by the digest of the older file."""

    name: str
    size: int
    new_objects: int
    new_bytes: int
    differences: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """What a publication stored and signed. `already` when the version was there, the same to the byte."""

    ref: Ref
    role: str
    artifacts: tuple[StoredArtifact, ...]
    signatures: tuple[Signature, ...]
    seconds: float
    already: bool = False

    @property
    def size(self) -> int:
        """The bytes of all artifacts."""
        return sum(a.size for a in self.artifacts)

    @property
    def new_objects(self) -> int:
        """Objects that the store did not have."""
        return sum(a.new_objects for a in self.artifacts)

    @property
    def new_bytes(self) -> int:
        """What those take in the store."""
        return sum(a.new_bytes for a in self.artifacts)


def publish(
    settings: Settings,
    folder: Path,
    ask: Ask,
    *,
    checks: Sequence[Check] = (),
    together: Together | None = None,
    dry_run: bool = False,
    wait: float = 0,
    now: clock.Clock = clock.now,
) -> Published:
    """Publishes the built version in `folder`, after `checks` have seen it, and what `together` gives in the same
    change. With `dry_run` everything is read and checked, and nothing written; no passphrase is asked for. Another
    kiosk that has the repository is waited for up to `wait` seconds."""
    begin = time.monotonic()
    manifest = read_built(folder)
    ref = manifest.ref
    repository = Repository(settings.repository, Keys(settings.keys), ask, now, wait=wait)
    if ADDED & manifest.artifacts.keys():
        raise CorruptError("names an artifact that only publishing adds", where=str(folder / "manifest.json"))
    was_there = is_published(repository, manifest)
    added = {} if was_there else _checked(checks, manifest, folder)
    total = sum(a.size for a in manifest.artifacts.values())
    with repository.locked(), bar(f"publish {ref}", total) as progress:
        already = is_published(repository, manifest)
        if was_there and not already:
            raise BusyError(f"{ref} was withdrawn a moment ago", hint="Run the command again.")
        if not already:
            refuse_weaker(repository, manifest)
            refuse_revoked(repository, ref)
        more = {} if already or together is None else together(repository, ref)
        if already or dry_run:
            check_digests(folder, manifest, progress.update)
            unchanged = tuple(StoredArtifact(n, a.size, 0, 0) for n, a in manifest.artifacts.items())
            return Published(ref, ref.role, unchanged, (), time.monotonic() - begin, already)
        repository.open_keys(ref.role, *more, "snapshot", "timestamp")
        manifest = _with_files(manifest, folder, added)
        with KnownBlocks(settings.repository.with_name("known-blocks.sqlite")) as known:
            store = Counting(settings.repository)
            if known.empty:
                rebuild(known, store, published_indexes(repository))
            recent = last_versions(repository, ref, max(1, settings.differences))
            indexed, stored = {}, []
            for name, artifact in manifest.artifacts.items():
                older = before(store, recent, name)
                like = Older(older[0].index, older[0].built(settings)) if older else None
                tree = hash_tree(manifest, name, folder / artifact.file)
                made, one = store_artifact(folder, name, artifact, store, known, like, tree, progress.update)
                extra = differences(
                    settings, folder / artifact.file, made, older[: settings.differences], store
                )
                indexed[name] = made.model_copy(update={"differences": extra})
                stored.append(replace(one, differences={d.base: d.size for d in extra}))
            signed = manifest.model_copy(update={"artifacts": indexed})
            signed = signed.model_copy(update={"torrent": shared(settings, store, signed, known)})
        signatures = repository.publish({ref.role: {manifest_path(ref): signed.to_json()}, **more})
    return Published(ref, ref.role, tuple(stored), tuple(signatures), time.monotonic() - begin)


def shared(settings: Settings, store: ObjectStore, manifest: Manifest, known: KnownBlocks) -> Torrent:
    """Stores the torrent of a version's objects, which are in the store."""
    infohash, data = torrent(
        store,
        needs(store, manifest),
        known,
        trackers=settings.trackers,
        web_seeds=settings.web_seeds,
    )
    made = Torrent(infohash=infohash, file=store.write(data))
    known.commit()
    return made


def _checked(checks: Sequence[Check], manifest: Manifest, folder: Path) -> dict[str, bytes]:
    """The files that checks add, once all of them have passed."""
    added: dict[str, bytes] = {}
    for check in checks:
        added |= check(manifest, folder) or {}
    return added


def _with_files(manifest: Manifest, folder: Path, added: Mapping[str, bytes]) -> Manifest:
    """Writes added files beside the built ones and names them in the manifest that will be signed."""
    artifacts = dict(manifest.artifacts)
    for name, data in added.items():
        files.write(folder / name, data)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        artifacts[Path(name).stem] = Artifact(file=name, size=len(data), digest=digest)
    return manifest.model_copy(update={"artifacts": artifacts})


def is_published(repository: Repository, manifest: Manifest) -> bool:
    """Whether this very version is there. PolicyError when one of its number with other content is, or when
    a newer one is."""
    ref = manifest.ref
    listed = repository.role(ref.role).signed.targets
    if (target := listed.get(manifest_path(ref))) is not None:
        there = read_published(repository, manifest_path(ref), target.hashes["sha256"])
        if without_indexes(there) == without_indexes(manifest):
            return True
        raise PolicyError(
            f"{ref} is published already, with other content",
            where=str(repository.folder),
            hint="A published version never changes. Build it with a higher version.",
        )
    newest = max(versions(repository, ref), default=None)
    assert ref.version is not None
    if newest is not None and newest > ref.version:
        raise PolicyError(
            f"{ref} is older than version {newest}, which is published",
            where=str(repository.folder),
            hint="Versions only go up, so that nobody can be brought back to an old one. Build a higher version.",
        )
    return False


def refuse_weaker(repository: Repository, manifest: Manifest) -> None:
    """PolicyError where an image without a verified root would follow one that has it."""
    if not isinstance(manifest, ImageManifest) or manifest.verity is not None:
        return
    for last in last_versions(repository, manifest.ref, 1):
        if isinstance(last, ImageManifest) and last.verity is not None:
            raise PolicyError(
                f"{manifest.ref} has no verified root, and {last.ref}, which is published, has",
                where=str(repository.folder),
                hint="Publish it under another name.",
            )


def refuse_revoked(repository: Repository, ref: Ref) -> None:
    """PolicyError for a version below its name's floor, which nobody could start."""
    there = signed_floor(repository, ref)
    if there is not None and (fault := there.fault(ref)) is not None:
        raise PolicyError(fault, where=str(repository.folder), hint="Build it with a higher version.")


def store_artifact(
    folder: Path,
    name: str,
    artifact: Artifact,
    store: Counting,
    known: KnownBlocks,
    older: Older | None,
    tree: Tree | None,
    progress: Callable[[int], object],
) -> tuple[Artifact, StoredArtifact]:
    """Cuts one artifact into objects, making sure that it is the file which the manifest names."""
    objects, stored = store.new_objects, store.new_bytes
    try:
        index = publish_file(
            folder / artifact.file,
            store,
            known,
            progress,
            digest=artifact.digest,
            regions=artifact.regions,
            older=older,
            tree=tree,
            with_sums=artifact.size >= SUMS_FROM,
        )
    except CorruptError as e:
        raise CorruptError(
            e.what,
            where=e.where or str(folder / artifact.file),
            hint=e.hint or "The built files were changed; build the version again.",
        ) from None
    except sqlite3.OperationalError as e:  # the list of known blocks stands on the repository's disk
        raise StorageError(
            str(e), where=str(known.path), hint="Free some space and run the command again."
        ) from None
    one = StoredArtifact(name, artifact.size, store.new_objects - objects, store.new_bytes - stored)
    return artifact.model_copy(update={"index": index}), one


class Counting(DirectoryStore):
    """The repository's objects, counting those that were not there before."""

    def __init__(self, repository: Path) -> None:
        super().__init__(repository)
        self.new_objects = 0
        self.new_bytes = 0
        self._counting = threading.Lock()

    def write(self, data: bytes) -> Object:
        """Writes, and counts if the object was not there. Several threads write at a time."""
        there = self.has(named(data))
        made = super().write(data)
        if not there:
            with self._counting:
                self.new_objects += 1
                self.new_bytes += made.size
        return made


def without_indexes(manifest: Manifest) -> Manifest:
    """The manifest as a build wrote it."""
    built = {n: a for n, a in manifest.artifacts.items() if n not in ADDED}
    bare = {n: a.model_copy(update={"index": None, "differences": ()}) for n, a in built.items()}
    return manifest.model_copy(update={"artifacts": bare, "torrent": None})
