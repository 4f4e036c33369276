"""One whole, verified state of a repository: all of it but the objects, byte for byte as it was signed.

It is read and checked as every hypervisor does, from a root of trust, and never goes back to an older one.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

from kiosk.config import Settings
from kiosk.errors import CorruptError, KioskError, NetworkError, UsageError, VerificationError
from kiosk.files import locked
from kiosk.log import logger
from kiosk.model.manifest import Manifest
from kiosk.model.names import Ref, history_path, manifest_path
from kiosk.model.rollout import Rollout, rollout_path
from kiosk.place import Folder, Place
from kiosk.trust import checkpoint
from kiosk.trust.client import TrustedRepository
from kiosk.trust.names import served_target

log = logger(__name__)


@dataclass(frozen=True)
class State:
    """`manifests`, those of withdrawn versions as they are remembered (`past`), and the files to serve, (path,
    bytes), in the order in which they may appear: a reader follows the timestamp, which is the last. `problems`
    are roles that are not well signed (or have expired); they are left out, and the others do not suffer."""

    version: int
    manifests: tuple[Manifest, ...]
    targets: tuple[tuple[str, bytes], ...]
    metadata: tuple[tuple[str, bytes], ...]
    problems: dict[str, KioskError]
    past: tuple[Manifest, ...] = ()


@contextlib.contextmanager
def kept(settings: Settings, target: Place) -> Iterator[Path]:
    """Where a mirror keeps what it has verified for a target, locked: BusyError when another is at work on it."""
    name = hashlib.sha256(str(target).encode()).hexdigest()[:16]
    folder = settings.home / "mirrors" / name
    with locked(folder / "lock", what=f"the mirror {target}"):
        yield folder


def repository(
    settings: Settings, folder: Path, url: Place, root: bytes | None, proxy: str | None
) -> TrustedRepository:
    """The verifying reader. The kiosk host's own repository brings its root of trust with it."""
    if url == Folder(settings.repository.absolute()) and root is None:
        own = settings.repository / "metadata" / "1.root.json"
        root = own.read_bytes() if own.is_file() else None
    known = folder / "metadata" / "trusted-root.json"
    if root is None and not known.exists():
        raise UsageError(
            "this mirror has not been given a root of trust yet",
            where=str(url),
            hint="Use --root ROOT.json once (the kiosk host's metadata/1.root.json, brought by a way you trust).",
        )
    return TrustedRepository(folder / "metadata", str(url), root, proxy, settings.s3)


def read(trusted: TrustedRepository, newest: int | None = None) -> State:
    """The state that the repository offers now: all versions, or the `newest` ones of each name."""
    trusted.refresh()
    offered: dict[str, list[Ref]] = {}
    for ref in trusted.manifests():
        offered.setdefault(ref.folder, []).append(ref)
    manifests, targets, past = [], [], []
    for refs in offered.values():
        history, remembered = trusted.signed_history(refs[-1])
        if remembered is not None:
            past += [w.manifest for w in history.withdrawn]
            path = served_target(history_path(refs[-1]), hashlib.sha256(remembered).hexdigest())
            targets.append((f"targets/{path}", remembered))
        rollout, rolled = _rollout(trusted, refs[-1])
        if rollout is not None and rolled is not None:
            path = served_target(rollout_path(refs[-1]), hashlib.sha256(rolled).hexdigest())
            targets.append((f"targets/{path}", rolled))
        in_use = {rollout.version, rollout.before} if rollout is not None else set()
        for ref in [r for r in refs if not newest or r in refs[-newest:] or str(r.version) in in_use]:
            manifest, data = trusted.signed_manifest(ref)
            manifests.append(manifest)
            path = served_target(manifest_path(ref), hashlib.sha256(data).hexdigest())
            targets.append((f"targets/{path}", data))
    for path, floor in trusted.floors.items():
        targets.append((f"targets/{served_target(path, hashlib.sha256(floor).hexdigest())}", floor))
    for problem in trusted.problems.values():
        if isinstance(problem, CorruptError | NetworkError):
            raise problem  # the source's trouble: a mirror that has the role must not lose it
    good = checkpoint.last_good(trusted.metadata_dir)
    assert good is not None  # listing the manifests has made one
    files = _metadata(good)
    version = Metadata[Timestamp].from_bytes(files[-1][1]).signed.version
    return State(version, tuple(manifests), tuple(targets), tuple(files), dict(trusted.problems), tuple(past))


def _rollout(trusted: TrustedRepository, ref: Ref) -> tuple[Rollout | None, bytes | None]:
    """A name's roll-out. One that does not hold is no mirror's trouble: readers refuse it there as they do here."""
    try:
        return trusted.signed_rollout(ref)
    except CorruptError:
        raise
    except VerificationError as e:
        log.warning("%s", e)
        return None, None


def _metadata(good: Path) -> list[tuple[str, bytes]]:
    """Delegated roles, targets, snapshot, then the roots (a new one may replace the timestamp's key, so it
    comes as late as it can), and the timestamp."""
    stamp = (good / "timestamp.json").read_bytes()
    snapshot_meta = Metadata[Timestamp].from_bytes(stamp).signed.snapshot_meta
    snapshot = _named(good, "snapshot", snapshot_meta)
    named = Metadata[Snapshot].from_bytes(snapshot[1]).signed.meta
    roles = sorted((file.removesuffix(".json") for file in named), key=lambda r: (r == "targets", r))
    files = [_named(good, role, named[f"{role}.json"]) for role in roles if (good / f"{role}.json").exists()]
    roots = sorted((good / "root_history").glob("*.root.json"), key=lambda p: int(p.name.split(".")[0]))
    files += [snapshot, *((f"metadata/{p.name}", p.read_bytes()) for p in roots)]
    return [*files, ("metadata/timestamp.json", stamp)]


def _named(good: Path, role: str, meta: MetaFile) -> tuple[str, bytes]:
    """A role's file under its number; it must be the one that is named above it."""
    data = (good / f"{role}.json").read_bytes()
    try:
        meta.verify_length_and_hashes(data)
    except RepositoryError as e:
        raise VerificationError(f"{role}.json changed since it was verified: {e}", where=str(good)) from None
    return f"metadata/{meta.version}.{role}.json", data
