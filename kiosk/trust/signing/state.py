"""The repository as it was last signed, verified before anything is signed on top of it.

Whoever may write to the served folder must not get a signature for what they put there. So everything is
checked as a client would, from the root of trust that is kept beside the keys, except for dates: an expired
repository can be renewed. `floors`, also kept beside the keys, refuses a folder that was put back to an
older state.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from kiosk.errors import NotFoundError, VerificationError
from kiosk.files import write

LARGEST = 16 << 20
T = TypeVar("T", Root, Snapshot, Targets, Timestamp)


@dataclass
class State:
    """The four top roles, as the published timestamp names them."""

    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]


class Floors:
    """The highest version of each role that was ever published with the keys of this folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, int]:
        """Role to version; empty before the first publication."""
        try:
            found = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError:
            raise VerificationError("is not valid JSON", where=str(self.path)) from None
        if not isinstance(found, dict):
            raise VerificationError("is not an object", where=str(self.path))
        return {str(role): int(version) for role, version in found.items()}

    def check(self, role: str, version: int) -> None:
        """VerificationError when the folder's version is older than one that was published."""
        floor = self.read().get(role, 0)
        if version < floor:
            raise VerificationError(
                f"the repository has version {version} of {role}, but version {floor} was published before",
                where=str(self.path),
                hint="The folder was put back to an older state. Restore the newest one before signing.",
            )

    def raise_to(self, versions: dict[str, int]) -> None:
        """Remembers published versions."""
        known = self.read()
        merged = {role: max(known.get(role, 0), versions.get(role, 0)) for role in {*known, *versions}}
        write(self.path, json.dumps(merged, sort_keys=True).encode() + b"\n")


def load(metadata: Path, anchor: bytes, floors: Floors) -> State:
    """The published state of the folder `metadata`, verified from the root of trust `anchor`."""
    try:
        root = newest_root(metadata, anchor)
        timestamp = parse(read(metadata / "timestamp.json"), Timestamp)
        check(root, "timestamp", timestamp)
        snapshot = member(metadata, "snapshot", timestamp.signed.snapshot_meta, root, Snapshot)
        targets = member(metadata, "targets", snapshot.signed.meta["targets.json"], root, Targets)
    except (RepositoryError, KeyError, ValueError) as e:
        raise damaged(metadata, e) from e
    floors.check("timestamp", timestamp.signed.version)
    floors.check("snapshot", snapshot.signed.version)
    for file, meta in snapshot.signed.meta.items():
        floors.check(file.removesuffix(".json"), meta.version)
    return State(root, timestamp, snapshot, targets)


def role(metadata: Path, state: State, name: str) -> Metadata[Targets] | None:
    """A delegated role's metadata, verified; None when it has not been published yet."""
    meta = state.snapshot.signed.meta.get(f"{name}.json")
    if meta is None:
        return None
    try:
        return member(metadata, name, meta, state.targets, Targets)
    except (RepositoryError, ValueError) as e:
        raise damaged(metadata / f"{meta.version}.{name}.json", e) from e


def newest_root(metadata: Path, anchor: bytes) -> Metadata[Root]:
    """Walks from a trusted root to the newest one, each signed by the keys of the one before and its own."""
    root = parse(anchor, Root)
    check(root, "root", root)
    while (path := metadata / f"{root.signed.version + 1}.root.json").exists():
        newer = parse(read(path), Root)
        check(root, "root", newer)
        check(newer, "root", newer)
        if newer.signed.version != root.signed.version + 1:
            raise VerificationError("has the wrong version number inside", where=str(path))
        root = newer
    return root


def member(
    metadata: Path, name: str, meta: MetaFile, signer: Metadata[Root] | Metadata[Targets], kind: type[T]
) -> Metadata[T]:
    """A file that other metadata names: its bytes, signature and version checked."""
    data = read(metadata / f"{meta.version}.{name}.json")
    meta.verify_length_and_hashes(data)
    found = parse(data, kind)
    check(signer, name, found)
    if found.signed.version != meta.version:
        raise RepositoryError(f"{name} has version {found.signed.version}, expected {meta.version}")
    return found


def check(signer: Metadata[Root] | Metadata[Targets], name: str, signed: Metadata[T]) -> None:
    """Raises unless enough of the keys that `signer` names for the role have signed."""
    signer.signed.verify_delegate(name, signed.signed_bytes, signed.signatures)


def parse(data: bytes, kind: type[T]) -> Metadata[T]:
    """Metadata of one kind from its bytes."""
    found: Metadata[T] = Metadata.from_bytes(data)
    if not isinstance(found.signed, kind):
        raise RepositoryError(f"expected {kind.type}, found {found.signed.type}")
    return found


def read(path: Path) -> bytes:
    """A metadata file, of bounded size."""
    try:
        with path.open("rb") as f:
            data = f.read(LARGEST + 1)
    except FileNotFoundError:
        raise NotFoundError(
            "this file of the repository is missing", where=str(path), hint="`kiosk init` makes a repository."
        ) from None
    if len(data) > LARGEST:
        raise VerificationError(f"is larger than {LARGEST} bytes", where=str(path))
    return data


def damaged(where: Path, error: Exception) -> VerificationError:
    """What is said when the served folder does not hold what was signed."""
    return VerificationError(
        f"the repository does not verify: {error}",
        where=str(where),
        hint="Nothing was signed. Restore the repository's metadata from a backup or a mirror.",
    )
