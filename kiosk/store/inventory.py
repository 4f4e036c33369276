"""What a repository's store holds: counted, and re-read to the last byte.

Which versions there are the caller says, who knows what is signed; else they are taken from the manifests
below `targets/`, as they stand there. This counts and checks bytes for the keeper of the repository, and
readers don't rely on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kiosk.errors import CorruptError, VerificationError
from kiosk.model.base import Document
from kiosk.model.manifest import Manifest, Object, read_manifest
from kiosk.store import usage, wire
from kiosk.store.directory import DirectoryStore
from kiosk.store.index import BLOCK, PACK_BLOCKS
from kiosk.store.known import KnownBlocks, rebuild
from kiosk.store.needs import needs
from kiosk.store.objects import MissingObject, ObjectSource, Progress, path_of, quiet
from kiosk.store.repack import dead_bytes

MANIFEST_LIMIT = 1 << 22


class Stats(Document):
    """`versions`, their files and those files' bytes; the objects in the store; those that no version names
    (a publish that was interrupted, or a version that was withdrawn). `dead_bytes` of the packs belong to
    blocks that no version uses, in packs that are needed for others. `helpers` are what readers can do without: groups
    and lists of differences, sums, and torrents."""

    versions: int
    files: int
    file_bytes: int
    objects: int
    object_bytes: int
    indexes: int
    index_bytes: int
    packs: int
    pack_bytes: int
    dead_bytes: int
    helpers: int
    helper_bytes: int
    unnamed: int
    unnamed_bytes: int


class Damage(Document):
    """One object that is wrong: where it stands and what is the matter; the versions that need it."""

    object: str
    path: str
    what: str
    versions: tuple[str, ...]


class Check(Document):
    """What a verification read, and what was wrong."""

    objects: int
    object_bytes: int
    damaged: tuple[Damage, ...]


def manifests(repository: Path) -> Iterator[Manifest]:
    """Every version's manifest below `targets/`, each once."""
    seen: set[str] = set()
    for path in sorted((repository / "targets").rglob("*.json")):
        with path.open("rb") as f:
            data = f.read(MANIFEST_LIMIT)
        try:
            found = read_manifest(data, where=str(path))
        except VerificationError:
            continue  # a target of another kind
        if str(found.ref) not in seen:
            seen.add(str(found.ref))
            yield found


def stats(
    repository: Path, versions: Sequence[Manifest] | None = None, past: Sequence[Manifest] = ()
) -> Stats:
    """Counts everything, without reading packs. `past` are withdrawn versions of which papers are kept."""
    store = DirectoryStore(repository)
    sizes = {o.digest: o.size for o in store.objects()}
    versions = list(manifests(repository)) if versions is None else versions
    files = [a for m in versions for a in m.artifacts.values()]
    known = [*versions, *past]
    named_indexes = {i.digest for i in usage.indexes(known)}
    faults: list[tuple[str, str]] = []
    named = set(users(store, known, faults))
    readable = [i for i in usage.indexes(known) if i.digest not in dict(faults) and store.has(i)]
    shares = usage.shares(store, readable)
    packs = set(shares)
    helpers = named - named_indexes - packs
    unnamed = set(sizes) - named

    def total(digests: set[str]) -> int:
        return sum(sizes.get(d, 0) for d in digests)

    return Stats(
        versions=len(versions),
        files=len(files),
        file_bytes=sum(a.size for a in files),
        objects=len(sizes),
        object_bytes=sum(sizes.values()),
        indexes=len(named_indexes & set(sizes)),
        index_bytes=total(named_indexes),
        packs=len(packs & set(sizes)),
        pack_bytes=total(packs),
        dead_bytes=dead_bytes(shares.values()),
        helpers=len(helpers & set(sizes)),
        helper_bytes=total(helpers),
        unnamed=len(unnamed),
        unnamed_bytes=total(unnamed),
    )


def verify(repository: Path, progress: Progress = quiet, versions: Sequence[Manifest] | None = None) -> Check:
    """Re-reads every object, and finds those that a version needs and that are not there."""
    store = DirectoryStore(repository)
    objects = list(store.objects())
    damage: dict[str, str] = {}

    def look(one: Object) -> tuple[str, str | None]:
        try:
            data = store.read(one)
            if data[: wire.HEADER_SIZE].endswith(wire.PACK):
                wire.unseal(wire.PACK, data, limit=PACK_BLOCKS * BLOCK, where=one.digest)
        except (CorruptError, MissingObject) as e:
            return one.digest, e.what
        return one.digest, None

    with ThreadPoolExecutor(thread_name_prefix="kiosk-verify") as pool:
        for one, (digest, fault) in zip(objects, pool.map(look, objects), strict=True):
            if fault:
                damage[digest] = fault
            progress(one.size)
    faults: list[tuple[str, str]] = list(damage.items())
    versions = list(manifests(repository)) if versions is None else versions
    needed = users(store, versions, faults)
    there = {o.digest for o in objects}
    faults += [(d, "is not in the store") for d in needed if d not in there]
    return Check(
        objects=len(objects),
        object_bytes=sum(o.size for o in objects),
        damaged=tuple(
            Damage(
                object=d,
                path=str(repository / path_of(d)),
                what=what,
                versions=tuple(sorted(needed.get(d, ()))),
            )
            for d, what in dict(faults).items()
        ),
    )


def users(
    store: ObjectSource, versions: Iterable[Manifest], faults: list[tuple[str, str]]
) -> dict[str, set[str]]:
    """Which versions need each object; an index that can't be read is added to `faults`."""
    found: dict[str, set[str]] = {}
    for manifest in versions:
        for name, artifact in manifest.artifacts.items():
            if artifact.index is None:
                continue
            for one in (artifact.index, *(d.groups for d in artifact.differences)):
                found.setdefault(one.digest, set()).add(str(manifest.ref))
            alone = manifest.model_copy(update={"artifacts": {name: artifact}})
            try:
                for needed in needs(store, alone):
                    found.setdefault(needed.digest, set()).add(str(manifest.ref))
            except MissingObject:
                continue
            except CorruptError as e:
                faults.append((artifact.index.digest, e.what))
    return found


def ready(known: KnownBlocks, repository: Path, progress: Progress = quiet) -> int:
    """Makes the known blocks anew where they are lost and the repository has versions. Returns packs read."""
    return (
        rebuild(known, DirectoryStore(repository), usage.indexes(manifests(repository)), progress)
        if known.empty
        else 0
    )
