"""What the signed metadata lists, verified from the root of trust beside the keys; not what lies in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from kiosk.config import Settings
from kiosk.errors import CorruptError, NotFoundError, UsageError
from kiosk.model.floor import Floor
from kiosk.model.history import History
from kiosk.model.manifest import Manifest, Object, read_manifest
from kiosk.model.names import (
    Ref,
    Version,
    floor_path,
    is_floor_path,
    is_history_path,
    manifest_path,
    parse_manifest_path,
    with_version,
)
from kiosk.model.rollout import Rollout, rollout_path
from kiosk.store import inventory
from kiosk.trust.names import ROLLOUTS, served_target
from kiosk.trust.signing.keys import Keys
from kiosk.trust.signing.repository import Repository


@dataclass(frozen=True)
class Target:
    """A target file that a role has signed: its path, its SHA-256 in hexadecimal, and where it is served."""

    role: str
    path: str
    hexdigest: str

    @property
    def file(self) -> str:
        """Its place below the repository."""
        return f"targets/{served_target(self.path, self.hexdigest)}"


def targets(repository: Repository) -> Iterator[Target]:
    """All target files that any role lists."""
    listed = {role: repository.role(role) for role in repository.roles()}
    for role, found in {"targets": repository.state.targets, **listed}.items():
        for path, target in found.signed.targets.items():
            yield Target(role, path, target.hashes["sha256"])


def manifests(repository: Repository) -> list[tuple[Target, Manifest]]:
    """All manifests that are signed. NotFoundError or CorruptError when one can't be read: then nobody knows
    what is needed."""
    listed = (t for t in targets(repository) if t.role != ROLLOUTS and not is_history_path(t.path))
    return [(t, read_published(repository, t.path, t.hexdigest)) for t in listed if not is_floor_path(t.path)]


def floors(repository: Repository) -> list[tuple[Target, Floor]]:
    """All floors that are signed. Errors as for manifests."""
    listed = (t for t in targets(repository) if is_floor_path(t.path))
    return [(t, Floor.from_json(read_target(repository, t.path, t.hexdigest), where=t.path)) for t in listed]


def signed_floor(repository: Repository, ref: Ref) -> Floor | None:
    """The floor that a name's own role has signed; None where nothing of it was revoked. No other party's is read."""
    path = floor_path(ref)
    target = repository.role(ref.role).signed.targets.get(path)
    if target is None:
        return None
    return Floor.of(ref, read_target(repository, path, target.hashes["sha256"]))


def histories(repository: Repository) -> list[tuple[Target, History]]:
    """All histories that are signed. Errors as for manifests."""
    listed = (t for t in targets(repository) if is_history_path(t.path))
    return [(t, read_history(repository, t)) for t in listed]


def read_history(repository: Repository, target: Target) -> History:
    """A history from the repository's folder, checked against its signed digest."""
    return History.from_json(read_target(repository, target.path, target.hexdigest), where=target.path)


def rollouts(repository: Repository) -> list[tuple[Target, Rollout]]:
    """All roll-outs that are signed. Errors as for manifests."""
    listed = (t for t in targets(repository) if t.role == ROLLOUTS)
    return [
        (t, Rollout.from_json(read_target(repository, t.path, t.hexdigest), where=t.path)) for t in listed
    ]


def rollout(repository: Repository, ref: Ref) -> Rollout | None:
    """The roll-out of an image or layer; None where hosts go by the newest version."""
    path = rollout_path(ref)
    return next((found for target, found in rollouts(repository) if target.path == path), None)


@dataclass(frozen=True)
class Listed:
    """The manifests that can be read, those of withdrawn versions as they are remembered, and what is wrong with
    the others."""

    versions: list[Manifest]
    past: list[Manifest]
    wrong: list[inventory.Damage]


def listed(settings: Settings) -> Listed:
    """What the repository lists. Where the keys' root of trust is not on this machine (a mirror), the manifests are
    those that lie below `targets/`."""

    def never(key: str) -> bytes:
        raise UsageError(f"the key {key} is not needed for reading")

    keys = Keys(settings.keys)
    if not (keys.folder / "root.json").exists():
        return Listed(list(inventory.manifests(settings.repository)), [], [])
    repository = Repository(settings.repository, keys, never)
    found = Listed([], [], [])
    for target in targets(repository):
        try:
            if target.role == ROLLOUTS or is_floor_path(target.path):
                read_target(repository, target.path, target.hexdigest)
            elif is_history_path(target.path):
                found.past.extend(w.manifest for w in read_history(repository, target).withdrawn)
            else:
                found.versions.append(read_published(repository, target.path, target.hexdigest))
        except (NotFoundError, CorruptError) as e:
            path = str(settings.repository / target.file)
            found.wrong.append(
                inventory.Damage(object=target.file, path=path, what=e.what, versions=(target.path,))
            )
    return found


def last_versions(repository: Repository, ref: Ref, count: int) -> list[Manifest]:
    """The newest versions of a name that are published, newest first."""
    listed = repository.role(ref.role).signed.targets
    newest = versions(repository, ref)[::-1][:count]
    paths = [manifest_path(with_version(ref, version)) for version in newest]
    return [read_published(repository, path, listed[path].hashes["sha256"]) for path in paths]


def versions(repository: Repository, ref: Ref) -> list[Version]:
    """The versions of a name that are signed, oldest first; none where its role has signed nothing yet."""
    found = map(parse_manifest_path, repository.role(ref.role).signed.targets)
    return sorted(r.version for r in found if r is not None and r.base == ref.base and r.version is not None)


def published_indexes(repository: Repository) -> Iterator[Object]:
    """The indexes of all that is published, for a lost memory of known blocks."""
    for role in [r for r in repository.roles() if r != ROLLOUTS]:
        for path, target in repository.role(role).signed.targets.items():
            if is_history_path(path) or is_floor_path(path):
                continue
            manifest = read_published(repository, path, target.hashes["sha256"])
            yield from (a.index for a in manifest.artifacts.values() if a.index is not None)


def read_published(repository: Repository, path: str, hexdigest: str) -> Manifest:
    """A manifest from the repository's folder, checked against its signed digest."""
    return read_manifest(read_target(repository, path, hexdigest), where=path)


def read_target(repository: Repository, path: str, hexdigest: str) -> bytes:
    """A target file from the repository's folder, checked against its signed digest."""
    file = repository.folder / "targets" / served_target(path, hexdigest)
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise NotFoundError("this signed file is missing from the repository", where=str(file)) from None
    if hashlib.sha256(data).hexdigest() != hexdigest:
        raise CorruptError("differs from what was signed", where=str(file))
    return data
