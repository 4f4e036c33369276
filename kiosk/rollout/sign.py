"""Signs roll-outs: what people order, and the start of one together with the version that it rolls out.

The record is written first and the document signed after it. Killed in between, the record is of a roll-out that
never began, and the next start replaces it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kiosk.config import Settings
from kiosk.errors import NotFoundError, UsageError
from kiosk.model.names import Ref, with_version
from kiosk.model.rollout import Rollout, rollout_path
from kiosk.publish import Together, signed
from kiosk.rollout import orders, record
from kiosk.rollout.plan import Plan
from kiosk.rollout.record import Entry, Record
from kiosk.trust.names import ROLLOUTS
from kiosk.trust.signing.repository import Repository, Signature

Order = Callable[[Rollout], Rollout]


def change(rollout: Rollout | None, ref: Ref) -> Mapping[str, Mapping[str, bytes | None]]:
    """A roll-out (None: its end) as what Repository.publish signs."""
    return {ROLLOUTS: {rollout_path(ref): None if rollout is None else rollout.to_json()}}


def start(
    settings: Settings,
    repository: Repository,
    ref: Ref,
    plan: Plan,
    *,
    recall: bool = False,
    dry_run: bool = False,
) -> tuple[Rollout, list[Signature]]:
    """Begins the roll-out of a published version. Call it inside `repository.locked()`."""
    offered = signed.versions(repository, ref)
    if ref.version is None:
        if not offered:
            raise NotFoundError(f"{ref} has no version in the repository", where=str(repository.folder))
        ref = with_version(ref, offered[-1])
    if ref.version not in offered:
        raise NotFoundError(
            f"{ref} is not published",
            where=str(repository.folder),
            hint=f"`kiosk publish {ref.base} --rollout` publishes a version and begins its roll-out at once.",
        )
    repository.role(ROLLOUTS)
    begun = orders.begin(ref, offered, signed.rollout(repository, ref), plan, recall=recall)
    if dry_run:
        return begun, []
    repository.open_keys(ROLLOUTS, "snapshot", "timestamp")
    _remember(settings, repository, ref, begun, plan)
    return begun, repository.publish(change(begun, ref))


def together(settings: Settings, plan: Callable[[Ref], Plan], *, dry_run: bool = False) -> Together:
    """For `publish`: begins a version's roll-out in the change that publishes it, so that there is no moment in
    which all hosts are offered it."""

    def begin(repository: Repository, ref: Ref) -> Mapping[str, Mapping[str, bytes | None]]:
        repository.role(ROLLOUTS)
        made, there = plan(ref), signed.rollout(repository, ref)
        begun = orders.begin(ref, signed.versions(repository, ref), there, made)
        if not dry_run:
            _remember(settings, repository, ref, begun, made)
        return change(begun, ref)

    return begin


def _remember(settings: Settings, repository: Repository, ref: Ref, begun: Rollout, plan: Plan) -> None:
    now = repository.now()
    first = Entry(at=now, share=begun.share, state=begun.state, said="started")
    made = Record(name=ref.base, version=begun.version, plan=plan, started=now, history=(first,))
    record.write(record.path_of(settings, ref), made)


def order(
    settings: Settings, repository: Repository, ref: Ref, give: Order, *, dry_run: bool = False
) -> tuple[Rollout, list[Signature]]:
    """Signs what `give` makes of a name's roll-out. Call it inside `repository.locked()`."""
    there = orders.existing(signed.rollout(repository, ref), ref)
    made = give(there)
    if dry_run:
        return made, []
    _unwatched(settings, ref)
    done = repository.publish(change(made, ref))
    note(settings, ref, made, repository, made.reason or made.state)
    return made, done


def end(
    settings: Settings, repository: Repository, ref: Ref, *, force: bool = False, dry_run: bool = False
) -> tuple[Rollout, list[Signature]]:
    """Takes a name's roll-out away: hosts go by the newest version again. Call it inside `repository.locked()`."""
    there = orders.existing(signed.rollout(repository, ref), ref)
    offered = signed.versions(repository, ref)
    if offered:
        orders.refuse_end(there, offered[-1], force=force)
    if dry_run:
        return there, []
    done = repository.publish(change(None, ref))
    record.path_of(settings, ref).unlink(missing_ok=True)
    return there, done


def _unwatched(settings: Settings, ref: Ref) -> None:
    """The time from the last look to the next does not count as well: in between a person has stepped in."""
    path = record.path_of(settings, ref)
    there = record.read(path)
    if there is not None and there.progress is not None:
        progress = there.progress.model_copy(update={"well": None})
        record.write(path, there.model_copy(update={"progress": progress}))


def note(settings: Settings, ref: Ref, made: Rollout, repository: Repository, said: str) -> None:
    """Puts an order into the record's history."""
    path = record.path_of(settings, ref)
    there = record.read(path)
    if there is not None and there.version == made.version:
        entry = Entry(at=repository.now(), share=made.share, state=made.state, said=said)
        if there.looked is not None:
            counts = there.looked.model_dump(include={"done", "failed", "working", "silent"})
            entry = entry.model_copy(update=counts)
        record.write(path, there.with_entry(entry))


def unversioned(ref: Ref) -> Ref:
    """UsageError when one version was named where the name alone is meant."""
    if ref.version is not None:
        raise UsageError(f"{ref} is one version", hint=f"Name the image or layer: {ref.base}")
    return ref
