"""The verifying reader of a repository. What it returns was signed by those who may, and is not older than
what this host has seen before; everything else is an error that says which file and why.

The rules are python-tuf's, as `verified` has them. This module adds: a list of all that the delegated roles offer, what
manifests, histories, floors and roll-outs say, and a *checkpoint*: after each successful read, a consistent copy of the
verified files is kept aside, so that a later read which fails half-way never takes the last good state from the
machines that are started with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from tuf.api.metadata import TargetFile

from kiosk.errors import KioskError, NotFoundError, PolicyError, VerificationError
from kiosk.log import logger
from kiosk.model.floor import LARGEST as LARGEST_FLOOR
from kiosk.model.floor import Floor
from kiosk.model.history import LARGEST as LARGEST_HISTORY
from kiosk.model.history import History
from kiosk.model.manifest import Manifest, read_manifest
from kiosk.model.names import (
    Ref,
    floor_path,
    history_path,
    is_floor_path,
    is_history_path,
    manifest_path,
    parse_floor_path,
    parse_manifest_path,
    parse_ref,
)
from kiosk.model.rollout import Rollout, is_rollout_path, rollout_path
from kiosk.trust import checkpoint
from kiosk.trust.names import ROLLOUTS, published_time
from kiosk.trust.verified import Verified

log = logger(__name__)

LARGEST_ROLLOUT = 1 << 18
MOST_FLOORS = 1000
"""Floors that one role may have: one for each of its names at the most."""


class TrustedRepository(Verified):
    """A repository read from `url` (see kiosk.place), with what is verified kept in `metadata_dir`.

    `root` is the root of trust, needed the first time and kept then. One process at a time may use a
    `metadata_dir`; the caller holds a lock. `problems` and `floors` (the signed bytes, by target path) are those of
    the roles that were loaded.
    """

    def load(self, roles: Iterable[str] | None = None) -> None:
        """Verifies delegated roles (all when None), and fetches the floors that they list: a machine that is started
        from the checkpoint with which this ends can be told what was revoked. A role that does not verify is left
        out and named in `problems`: one site's mistake must not keep others from their images."""
        delegations = self._targets().delegations
        known = dict((delegations.roles if delegations else None) or {})
        for name in known if roles is None else [r for r in dict.fromkeys(roles) if r in known]:
            if name in self._roles or name in self.problems:
                continue
            if f"{name}.json" not in self._named():
                continue  # delegated, and nothing published yet
            for pattern in known[name].paths or []:
                try:
                    self._load_role(name, pattern.replace("*", "-"))
                except KioskError as e:
                    self.problems[name] = e
            if name in self._roles:
                self._fetch_floors(name)
        versions = {role.name: role.version for role in self.roles()}
        lacking = sorted(r for r in known if r not in self._roles and f"{r}.json" in self._named())
        checkpoint.keep(self.metadata_dir, versions, self.floors, lacking)

    def manifests(self, role: str | None = None) -> list[Ref]:
        """All versions of all images and layers that are offered, or those of one role."""
        self.load(None if role is None else [role])
        if role is not None and role in self.problems:
            raise self.problems[role]
        updater = self._ready()
        found: list[Ref] = []
        for name in self._roles if role is None else [r for r in self._roles if r == role]:
            for path, listed in self._roles[name].signed.targets.items():
                if (
                    is_history_path(path)
                    or is_floor_path(path)
                    or (name == ROLLOUTS and is_rollout_path(path))
                ):
                    continue
                ref = parse_manifest_path(path)
                if ref is None or ref.role != name or updater.get_targetinfo(path) != listed:
                    log.warning("%s lists %s, which it may not sign; left out", name, path)
                    continue
                found.append(ref)
        return sorted(found, key=lambda r: (r.folder, r.version))

    def versions(self, ref: Ref) -> list[Ref]:
        """The versions of one image or layer, oldest first."""
        return [r for r in self.manifests(ref.role) if r.base == ref.base]

    def newest(self, ref: Ref) -> Ref:
        """The newest version of an image or layer; NotFoundError when there is none."""
        offered = self.versions(ref)
        if not offered:
            raise self._absent(ref)
        return offered[-1]

    def manifest(self, ref: Ref) -> Manifest:
        """A version's manifest (the newest when the reference has no version), verified."""
        return self.signed_manifest(ref)[0]

    def signed_manifest(self, ref: Ref) -> tuple[Manifest, bytes]:
        """The same, with the very bytes that were signed."""
        exact = ref if ref.version is not None else self.newest(ref)
        path = manifest_path(exact)
        data = self._target_bytes(path, self._target(exact))
        manifest = read_manifest(data, where=path)
        if manifest.ref != exact:
            raise VerificationError(f"is the manifest of {manifest.ref}, not of {exact}", where=path)
        return manifest, data

    def published(self, ref: Ref) -> datetime | None:
        """When a version was published, as its role has signed it; None where it did not say."""
        return published_time(self._target(ref))

    def history(self, ref: Ref) -> History:
        """What is remembered of a name's withdrawn versions."""
        return self.signed_history(ref)[0]

    def signed_history(self, ref: Ref) -> tuple[History, bytes | None]:
        """The same, with the very bytes that were signed; None where no version was withdrawn yet."""
        self.load([ref.role])
        if ref.role in self.problems:
            raise self.problems[ref.role]
        path, updater = history_path(ref), self._ready()
        found = self._verified(lambda: updater.get_targetinfo(path)) if ref.role in self._roles else None
        if found is None:
            return History(name=ref.base), None
        data = self._target_bytes(path, found, LARGEST_HISTORY)
        history = History.from_json(data, where=path)
        if history.name != ref.base:
            raise VerificationError(f"is the history of {history.name}, not of {ref.base}", where=path)
        return history, data

    def floor(self, ref: Ref) -> Floor | None:
        """Below which version an image or layer was revoked; None where nothing of it was."""
        self.load([ref.role])
        if ref.role in self.problems:
            raise self.problems[ref.role]
        path = floor_path(ref)
        if path not in self.floors:
            return None
        return Floor.of(ref, self.floors[path])

    def refuse_revoked(self, ref: Ref) -> None:
        """PolicyError when a version was revoked."""
        floor = self.floor(ref)
        if floor is not None and (fault := floor.fault(ref)) is not None:
            raise PolicyError(fault, where=self._base)

    def rollout(self, ref: Ref) -> Rollout | None:
        """The roll-out of an image or layer; None where hosts go by the newest version."""
        return self.signed_rollout(ref)[0]

    def signed_rollout(self, ref: Ref) -> tuple[Rollout | None, bytes | None]:
        """The same, with the very bytes that were signed.

        It chooses among versions that the name's own role offers, or it is a VerificationError. On an error (also
        an expired role) it is not known what a host is to run: the caller leaves current what is current, since
        the newest version may be the very one that a roll-out keeps from most hosts.
        """
        self.load([ROLLOUTS])
        if ROLLOUTS in self.problems:
            raise self.problems[ROLLOUTS]
        path, updater = rollout_path(ref), self._ready()
        found = self._verified(lambda: updater.get_targetinfo(path)) if ROLLOUTS in self._roles else None
        if found is None:
            return None, None
        data = self._target_bytes(path, found, LARGEST_ROLLOUT)
        rollout = Rollout.from_json(data, where=path)
        offered = [str(r.version) for r in self.versions(ref)]
        if (fault := rollout.fault(ref, offered)) is not None:
            raise VerificationError(fault, where=path, hint="Nothing of it was used; what is current stays.")
        return rollout, data

    # -- what is inside -------------------------------------------------------------------------------

    def _fetch_floors(self, name: str) -> None:
        """Has the floors at hand that a role lists and may sign, or leaves the role out."""
        updater, listed, fetched = self._ready(), self._roles[name].signed.targets, {}
        found = [ref for path in listed if (ref := parse_floor_path(path)) is not None and ref.role == name]
        try:
            if len(found) > MOST_FLOORS:
                raise VerificationError(f"lists more than {MOST_FLOORS} floors", where=name)
            for path in map(floor_path, found):
                if self._verified(lambda path=path: updater.get_targetinfo(path)) == listed[path]:  # type: ignore[misc]
                    fetched[path] = self._target_bytes(path, listed[path], LARGEST_FLOOR)
            self.floors |= fetched
        except KioskError as e:
            del self._roles[name]
            self.problems[name] = e

    def _target(self, ref: Ref) -> TargetFile:
        self.load([ref.role])
        if ref.role in self.problems:
            raise self.problems[ref.role]
        if f"{ref.role}.json" not in self._named():
            raise self._absent(ref)
        updater = self._ready()
        found = self._verified(lambda: updater.get_targetinfo(manifest_path(ref)))
        if found is None:
            raise self._absent(ref)
        return found

    def _absent(self, ref: Ref) -> KioskError:
        """Why an image or layer is not offered: nobody lists it, or one who may not."""
        self.load()
        for name, listed in self._roles.items():
            if name != ref.role and any(p.startswith(ref.folder) for p in listed.signed.targets):
                return VerificationError(
                    f"{ref} is listed by {name}, which may not sign it",
                    where=self._base,
                    hint=f"Only {ref.role} may. Nothing of it was used; tell those who hold the key {name}.",
                )
        offered = [str(r.version) for r in self.versions(parse_ref(ref.base))] if ref.version else []
        return NotFoundError(
            f"{ref} is not in the repository",
            where=self._base,
            hint=f"Versions: {', '.join(offered)}" if offered else "`kiosk list` shows what is.",
        )
