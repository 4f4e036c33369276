"""`kiosk store prune`: gives up old versions, and removes what nothing needs any more.

* Needed is what the signed metadata lists, verified from the root of trust beside the keys, and every object
  of those versions. If any of it can't be read, nothing is signed and nothing removed.
* A version that is given up goes on in the history of its name: what it was made from, its files' digests, and
  the objects of its papers (see kiosk.model.history) stay for ever.
* The newest version of a name is never given up, nor is one that a roll-out names. Roles whose keys are not here
  are left as they are.
* A file is removed after it has been unneeded for the grace period (see `journal`): readers that hold older
  metadata, and what an interrupted publish has stored, are safe for that long.
* It holds the repository's lock, so no publish runs beside it. Killed anywhere, the repository is whole, and
  the next call goes on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from kiosk import clock
from kiosk.config import Settings
from kiosk.errors import CorruptError, NotFoundError
from kiosk.model.history import History, Withdrawn, remembered
from kiosk.model.manifest import Manifest
from kiosk.model.names import Ref, Version, history_path
from kiosk.publish import journal, signed
from kiosk.publish.retention import Rule
from kiosk.publish.signed import Target
from kiosk.store import usage, wire
from kiosk.store.api import DirectoryStore
from kiosk.store.known import KnownBlocks
from kiosk.store.needs import lists, needs
from kiosk.store.objects import MissingObject, path_of
from kiosk.store.repack import Share, dead_bytes, to_forget
from kiosk.trust.names import published_time
from kiosk.trust.signing.keys import Ask, Keys
from kiosk.trust.signing.repository import Repository, Signature

LEFTOVER = re.compile(r"\..+\.[0-9a-f]{12}\.new")
"""What a killed writer leaves (see files.replacing)."""
OBJECT = re.compile(r"[0-9a-f]{64}")
TARGET = re.compile(r"[0-9a-f]{64}\..+")
METADATA = re.compile(r"(\d{1,9})\.([a-z0-9-]+)\.json")


@dataclass(frozen=True)
class Left:
    """Versions that the rule does not keep and that were not withdrawn, and why."""

    role: str
    versions: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Pruned:
    """What was withdrawn and removed (or would be); files and bytes that wait for the end of their grace, and
    when the first of them may go; packs' bytes in all, and those that no kept version uses; how many packs
    later versions will not use, so that these bytes go."""

    withdrawn: tuple[str, ...]
    left: tuple[Left, ...]
    signatures: tuple[Signature, ...]
    removed: int
    removed_bytes: int
    waiting: int
    waiting_bytes: int
    next: datetime | None
    pack_bytes: int
    dead_bytes: int
    avoided_packs: int


@dataclass
class _Choice:
    """Versions to keep and to give up, by role."""

    kept: list[tuple[Target, Manifest]] = field(default_factory=list)
    given_up: dict[str, list[tuple[Target, Manifest]]] = field(default_factory=dict)
    left: list[Left] = field(default_factory=list)


def prune(
    settings: Settings,
    ask: Ask,
    rule: Rule,
    names: Sequence[Ref] = (),
    *,
    grace: timedelta,
    dry_run: bool = False,
    wait: float = 0,
    now: clock.Clock = clock.now,
) -> Pruned:
    """Withdraws what `rule` does not keep of these names (all when none are given), and removes what has been
    unneeded for `grace`. NotFoundError for a name that has no version. Another kiosk that has the repository is
    waited for up to `wait` seconds."""
    repository = Repository(settings.repository, Keys(settings.keys), ask, now, wait=wait)
    diary = settings.repository.with_name("unneeded.json")
    with repository.locked():
        choice = _choose(repository, rule, names, now(), dry_run=dry_run)
        past = signed.histories(repository)
        going = [one for some in choice.given_up.values() for one in some]
        papers = [w.manifest for _, history in past for w in history.withdrawn]
        papers += [remembered(m) for _, m in going]
        packs, needed = _needed(settings.repository, choice.kept, papers)
        rolled_out = {t.file for t, _ in (*signed.rollouts(repository), *signed.floors(repository))}
        until_now = needed | _needed(settings.repository, going)[1] | {t.file for t, _ in past} | rolled_out
        signatures: Sequence[Signature] = ()
        if choice.given_up and not dry_run:
            changes: dict[str, dict[str, bytes | None]] = {
                role: {t.path: None for t, _ in some} for role, some in choice.given_up.items()
            }
            for role, some_histories in _histories(repository, choice.given_up, now()).items():
                changes[role] |= some_histories
            signatures = repository.publish(changes)
            past = signed.histories(repository)
        needed |= {t.file for t, _ in past} | rolled_out
        sizes = {p: s for p, s in _files(repository) if p not in needed}
        # what a version that goes now has needed until now begins its grace now
        unneeded_before = [p for p in sizes if p not in until_now]
        book = journal.read(diary).updated(unneeded_before, now()).updated(sizes, now())
        due = book.due(grace, now())
        avoided = to_forget(packs)
        if not dry_run:
            journal.write(diary, book)
            forgotten = {f"sha256:{Path(p).name}" for p in due if p.startswith("objects/")}
            _forget(settings, forgotten | avoided)
            for path in sorted(due, key=lambda p: p.startswith("objects/")):  # what names others goes first
                (settings.repository / path).unlink(missing_ok=True)
    waiting = book.since.keys() - set(due)
    return Pruned(
        withdrawn=tuple(str(m.ref) for some in choice.given_up.values() for _, m in some),
        left=tuple(choice.left),
        signatures=tuple(signatures),
        removed=len(due),
        removed_bytes=sum(sizes[p] for p in due),
        waiting=len(waiting),
        waiting_bytes=sum(sizes[p] for p in waiting),
        next=min((book.since[p] + grace for p in waiting), default=None),
        pack_bytes=sum(s.size for s in packs.values()),
        dead_bytes=dead_bytes(packs.values()),
        avoided_packs=len(avoided),
    )


def _choose(
    repository: Repository, rule: Rule, names: Sequence[Ref], now: datetime, *, dry_run: bool
) -> _Choice:
    """Divides the signed versions. The keys that will be needed are opened here, before any work is done."""
    found = signed.manifests(repository)
    for name in names:
        if not any(m.ref.base == name.base for _, m in found):
            raise NotFoundError(f"{name} has no version in the repository", where=str(repository.folder))
    bases = {name.base for name in names}
    within = [m for _, m in found if not bases or m.ref.base in bases]
    old = {str(m.ref) for m in rule.given_up(within, now)} - _in_rollouts(repository)
    choice = _Choice()
    for role in dict.fromkeys(target.role for target, _ in found):
        mine = [(t, m) for t, m in found if t.role == role]
        some = [(t, m) for t, m in mine if str(m.ref) in old and m.ref.role == role]
        if some:
            try:
                for signer in (role, "snapshot", "timestamp"):
                    repository.can_sign(signer)
            except NotFoundError as e:
                choice.left.append(Left(role, tuple(str(m.ref) for _, m in some), e.what))
                some = []
        if some:
            choice.given_up[role] = some
        choice.kept += [one for one in mine if one not in some]
    if choice.given_up and not dry_run:
        repository.open_keys(*choice.given_up, "snapshot", "timestamp")
    return choice


def _in_rollouts(repository: Repository) -> set[str]:
    """The versions, NAME@VERSION, that hosts are offered or would be after an abort."""
    found = [rollout for _, rollout in signed.rollouts(repository)]
    return {f"{r.name}@{v}" for r in found for v in (r.version, r.before) if v is not None}


def _histories(
    repository: Repository, given_up: Mapping[str, Sequence[tuple[Target, Manifest]]], now: datetime
) -> dict[str, dict[str, bytes]]:
    """The histories of the names that lose versions, by role and path."""
    known = {t.path: history for t, history in signed.histories(repository)}
    made: dict[str, dict[str, bytes]] = {}
    for role, some in given_up.items():
        listed = repository.role(role).signed.targets
        by_name: dict[str, list[tuple[Target, Manifest]]] = {}
        for target, manifest in some:
            by_name.setdefault(history_path(manifest.ref), []).append((target, manifest))
        for path, mine in by_name.items():
            mine.sort(key=lambda one: Version.parse(one[1].version))
            more = [
                Withdrawn(
                    published=published_time(listed[target.path]),
                    withdrawn=now,
                    signed=f"sha256:{target.hexdigest}",
                    manifest=remembered(manifest),
                )
                for target, manifest in mine
            ]
            history = known.get(path, History(name=mine[0][1].ref.base)).with_more(more)
            made.setdefault(role, {})[path] = history.to_json()
    return made


def _needed(
    folder: Path, kept: Sequence[tuple[Target, Manifest]], papers: Sequence[Manifest] = ()
) -> tuple[dict[str, Share], set[str]]:
    """The packs of these versions with what is used of each, and every file that the versions and the papers of
    others need."""
    store = DirectoryStore(folder)
    needed = {target.file for target, _ in kept}
    manifests = [*(manifest for _, manifest in kept), *papers]
    try:
        packs = usage.shares(store, usage.indexes(manifests))
        found = {one.digest for manifest in manifests for one in needs(store, manifest)}
        unread = {one.digest for manifest in manifests for one in lists(manifest)} - found
        if unread:  # which groups it names is not known: all stay until it is mended or its version is gone
            found |= unread | {o.digest for o in store.objects() if _is_group(folder / path_of(o.digest))}
        needed |= {path_of(digest) for digest in found}
    except (MissingObject, CorruptError) as e:
        hint = "What this version needs is not known, so nothing was removed. `kiosk store repair` mends it."
        raise CorruptError(e.what, where=e.where, hint=hint) from None
    return packs, needed


def _is_group(path: Path) -> bool:
    with path.open("rb") as f:
        return f.read(wire.HEADER_SIZE).endswith(wire.GROUP)


def _files(repository: Repository) -> Iterator[tuple[str, int]]:
    """Everything of the repository that can become unneeded, with its size: objects, target files, what killed
    writers left, and numbered metadata older than what is signed now. Every root is needed for ever; a number
    above the signed one was used by an interrupted run, and stays so that it is not used again."""
    for path, size in _below(repository.folder, "objects"):
        if OBJECT.fullmatch(Path(path).name) or LEFTOVER.fullmatch(Path(path).name):
            yield path, size
    for path, size in _below(repository.folder, "targets"):
        if TARGET.fullmatch(Path(path).name) or LEFTOVER.fullmatch(Path(path).name):
            yield path, size
    state = repository.state
    current = {file.removesuffix(".json"): meta.version for file, meta in state.snapshot.signed.meta.items()}
    current["snapshot"] = state.snapshot.signed.version
    for path, size in _below(repository.folder, "metadata"):
        name = METADATA.fullmatch(Path(path).name)
        older = name is not None and name[2] != "root" and int(name[1]) < current.get(name[2], 0)
        if older or LEFTOVER.fullmatch(Path(path).name):
            yield path, size


def _below(folder: Path, part: str) -> Iterator[tuple[str, int]]:
    """The files below a part of the repository, links not followed."""
    for place, _, names in os.walk(folder / part):
        for name in names:
            path = Path(place, name)
            if not path.is_symlink():
                yield str(path.relative_to(folder)), path.stat().st_size


def _forget(settings: Settings, packs: set[str]) -> None:
    """Has later versions store anew what is in these packs."""
    memory = settings.repository.with_name("known-blocks.sqlite")
    if packs and memory.exists():
        with KnownBlocks(memory) as known:
            known.forget_objects(packs)
            known.commit()
