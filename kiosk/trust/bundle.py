"""A small repository for a guest, cut from what this host has verified.

The files are byte for byte those that were signed, so the guest checks them from its own root of trust and
need not trust this host. Only what the guest's targets need is in it; all roots are, so that a guest with any
older root can walk up. Dates are left to the guest. The last good state is used: a failed sync, or one that is
running now, does not disturb. A role that could not be had with the newest state is taken as it was when it could.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp

from kiosk.errors import NotFoundError, VerificationError
from kiosk.files import write
from kiosk.model.names import FLOOR
from kiosk.trust.checkpoint import holder, last_good
from kiosk.trust.names import served_target


def export(metadata_dir: Path, targets: Sequence[str], dest: Path) -> None:
    """Writes dest/metadata and dest/targets for the target paths `targets` (see kiosk.model.manifest_path), and the
    floors that stand beside them.

    NotFoundError when a target is not offered (any more) or its manifest was never fetched here.
    """
    good = last_good(metadata_dir)
    if good is None:
        raise NotFoundError(
            "this host has verified nothing yet", where=str(metadata_dir), hint="Run `kiosk sync` first."
        )
    good = _with_roles(good, targets)
    for file in sorted((good / "root_history").glob("*.root.json")):
        write(dest / "metadata" / file.name, file.read_bytes())
    data = (good / "timestamp.json").read_bytes()
    write(dest / "metadata" / "timestamp.json", data)
    snapshot_meta = Metadata[Timestamp].from_bytes(data).signed.snapshot_meta
    data = copy_named(good, "snapshot", snapshot_meta, dest)
    named = Metadata[Snapshot].from_bytes(data).signed.meta
    data = copy_named(good, "targets", named["targets.json"], dest)
    top = Metadata[Targets].from_bytes(data).signed
    roles: dict[str, Targets] = {}
    for path in targets:
        role = role_for(top, path)
        if role is None or not (good / f"{role}.json").exists():
            raise absent(path, metadata_dir)
        if role not in roles:
            data = copy_named(good, role, named[f"{role}.json"], dest)
            roles[role] = Metadata[Targets].from_bytes(data).signed
        copy_target(metadata_dir, roles[role], path, dest)
        floor = f"{path.rpartition('/')[0]}/{FLOOR}"
        if floor in roles[role].targets:
            # a state that an older kiosk kept has no floors of its own
            own = good if (good / "targets" / floor).exists() else metadata_dir
            copy_target(own, roles[role], floor, dest)


def _with_roles(good: Path, targets: Sequence[str]) -> Path:
    """The state to use: the last good one, or the last that has a role which it lacks."""
    top = Metadata[Targets].from_bytes((good / "targets.json").read_bytes()).signed
    for role in dict.fromkeys(role_for(top, path) for path in targets):
        if role is not None and not (good / f"{role}.json").exists():
            return holder(good, role) or good
    return good


def role_for(targets: Targets, path: str) -> str | None:
    """The delegated role that signs a path."""
    if targets.delegations is None:
        return None
    return next((name for name, _ in targets.delegations.get_roles_for_target(path)), None)


def copy_named(good: Path, role: str, meta: MetaFile, dest: Path) -> bytes:
    """Copies one metadata file under its numbered name; it must be the one that is named above it."""
    data = (good / f"{role}.json").read_bytes()
    try:
        meta.verify_length_and_hashes(data)
    except RepositoryError as e:
        raise VerificationError(
            f"{role}.json changed since it was verified: {e}", where=str(good), hint="Run `kiosk sync`."
        ) from None
    write(dest / "metadata" / f"{meta.version}.{role}.json", data)
    return data


def copy_target(metadata_dir: Path, role: Targets, path: str, dest: Path) -> None:
    """Copies one manifest under the name that carries its digest."""
    target = role.targets.get(path)
    kept = metadata_dir / "targets" / path
    if target is None or not kept.exists():
        raise absent(path, metadata_dir)
    data = kept.read_bytes()
    try:
        target.verify_length_and_hashes(data)
    except RepositoryError as e:
        raise VerificationError(
            f"changed since it was verified: {e}", where=str(kept), hint="Run `kiosk sync`."
        ) from None
    write(dest / "targets" / served_target(path, next(iter(target.hashes.values()))), data)


def absent(path: str, metadata_dir: Path) -> NotFoundError:
    """What is said when a target is not at hand."""
    return NotFoundError(
        f"{path} is not among what this host has verified",
        where=str(metadata_dir),
        hint="Run `kiosk sync` with its name; if that does not list it, it was withdrawn.",
    )
