"""`revoke`: signs the floor of an image or layer. What is below it is not started and not booted any more.

The floor only ever goes up: a lower one would bring back what was revoked. The versions stay in the repository until
`kiosk prune` withdraws them, so that what still runs can be looked into.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from kiosk import clock
from kiosk.config import Settings
from kiosk.errors import NotFoundError, PolicyError, UsageError
from kiosk.model.base import explain
from kiosk.model.floor import Floor
from kiosk.model.names import Ref, Version, floor_path
from kiosk.publish.signed import signed_floor, versions
from kiosk.trust.signing.keys import Ask, Keys
from kiosk.trust.signing.repository import Repository, Signature


@dataclass(frozen=True)
class Revoked:
    """The floor, the published versions below it and those that are left, and what was signed (nothing when the floor
    was there already, and in a dry run)."""

    floor: Floor
    revoked: tuple[str, ...]
    left: tuple[str, ...]
    signatures: tuple[Signature, ...]
    already: bool = False


def revoke(
    settings: Settings,
    ref: Ref,
    below: Version,
    reason: str,
    ask: Ask,
    *,
    force: bool = False,
    dry_run: bool = False,
    wait: float = 0,
    now: clock.Clock = clock.now,
) -> Revoked:
    """Signs with the name's own role that nothing below a version may run. NotFoundError for a name of which nothing
    was ever published; PolicyError when the floor is higher already, or would leave no version and `force` is not set;
    UsageError for a reason of more than a line."""
    if ref.version is not None:
        raise UsageError(f"{ref} is one version", hint=f"Name the image or layer: {ref.base}")
    repository = Repository(settings.repository, Keys(settings.keys), ask, now, wait=wait)
    with repository.locked():
        offered = versions(repository, ref)
        there = signed_floor(repository, ref)
        if not offered and there is None:
            raise NotFoundError(f"{ref} has no version in the repository", where=str(settings.repository))
        try:
            floor = Floor(name=ref.base, below=str(below), reason=reason, date=now())
        except ValidationError as e:
            raise UsageError(
                f"can't be signed: {explain(e)}",
                hint="A reason is one line of up to 400 printable characters.",
            ) from e
        revoked = tuple(str(v) for v in offered if v < below)
        left = tuple(str(v) for v in offered if v >= below)
        if there is not None and Version.parse(there.below) > below:
            raise PolicyError(
                f"{ref} was revoked below {there.below} already ({there.reason}); a floor never goes down",
                where=str(settings.repository),
                hint="Publish what is good as a new version.",
            )
        if there is not None and Version.parse(there.below) == below:
            return Revoked(there, revoked, left, (), already=True)
        if not left and not force:
            raise PolicyError(
                f"a floor at {below} would leave no version of {ref.base}: "
                + (f"the newest is {offered[-1]}" if offered else "none is published"),
                where=str(settings.repository),
                hint="A floor never goes down. Publish what is good first, or say --force.",
            )
        if dry_run:
            repository.can_sign(ref.role)
            return Revoked(floor, revoked, left, ())
        done = repository.publish({ref.role: {floor_path(ref): floor.to_json()}})
    return Revoked(floor, revoked, left, tuple(done))
