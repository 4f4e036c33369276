"""The repository's writer: the only code that signs.

Order of every change: target files, delegated roles, targets, snapshot, and timestamp.json last, each file
new under its own name and complete before it appears; a reader sees the old state until the timestamp is
replaced, and the new state from then on. A number that an interrupted run has used is never used again, so
files with a number in their name never change (caches may keep them for ever).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    TargetFile,
    Targets,
)
from tuf.api.serialization.json import JSONSerializer

from kiosk import clock
from kiosk.errors import NotFoundError, UsageError
from kiosk.files import waiting, write
from kiosk.trust.names import how_to_delegate, role_patterns, served_target
from kiosk.trust.signing.keys import Ask, Keys
from kiosk.trust.signing.periods import read_periods
from kiosk.trust.signing.state import Floors, State, T, load, newest_root, role


@dataclass(frozen=True)
class Signature:
    """One file that was signed: role, version, when it expires, and the names of the keys."""

    role: str
    version: int
    expires: datetime
    keys: tuple[str, ...]


class Repository:
    """A repository's folder together with the keys that sign it. Call its methods inside `locked()`, which waits for
    another kiosk up to `wait` seconds."""

    def __init__(
        self, folder: Path, keys: Keys, ask: Ask, now: clock.Clock = clock.now, *, wait: float = 0
    ) -> None:
        self.folder = folder
        self.metadata = folder / "metadata"
        self.keys = keys
        self.now = now
        self.periods = read_periods(keys.folder / "periods.json")
        self._ask = ask
        self._wait = wait
        self._floors = Floors(keys.folder / "published.json")
        self._anchor = keys.folder / "root.json"
        self._opened: dict[str, CryptoSigner] = {}
        self._state: State | None = None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the repository's lock; BusyError when another kiosk is still signing after `wait` seconds."""
        lock = self.folder.with_name(f".{self.folder.name}.lock")
        with waiting(lock, what=f"the repository {self.folder}", seconds=self._wait):
            self._state = None
            yield

    @property
    def state(self) -> State:
        """The published state, verified."""
        if self._state is None:
            if not self._anchor.exists() or not (self.metadata / "timestamp.json").exists():
                raise NotFoundError(
                    "there is no repository here", where=str(self.folder), hint="`kiosk init` makes one."
                )
            self._state = load(self.metadata, self._anchor.read_bytes(), self._floors)
        return self._state

    def role(self, name: str) -> Metadata[Targets]:
        """What a delegated role lists; an empty list before its first publication."""
        delegations = self.state.targets.signed.delegations
        if delegations is None or name not in (delegations.roles or {}):
            raise NotFoundError(
                f"nothing is delegated to {name}",
                where=str(self.folder),
                hint=how_to_delegate(name),
            )
        return role(self.metadata, self.state, name) or Metadata(Targets())

    def roles(self) -> list[str]:
        """The delegated roles that have published something."""
        delegations = self.state.targets.signed.delegations
        named = (delegations.roles if delegations else None) or {}
        return [r for r in named if f"{r}.json" in self.state.snapshot.signed.meta]

    def open_keys(self, *roles: str) -> None:
        """Asks for the passphrases that signing these roles will need, before any work is done."""
        for name in roles:
            self._signers(name)

    def publish(self, changes: Mapping[str, Mapping[str, bytes | None]]) -> list[Signature]:
        """Signs target files in delegated roles (role to path to content; None takes one off the list), together
        with the time of this. Readers see all of it at once. Files that are taken off stay where they are: readers
        that have older metadata still ask for them."""
        changed = {name: self.role(name) for name in changes}
        self.open_keys(*changed, "snapshot", "timestamp")
        for name, listed in changed.items():
            for path, data in changes[name].items():
                if data is None:
                    listed.signed.targets.pop(path, None)
                else:
                    target = self._put(listed, path, data)
                    target.unrecognized_fields["custom"] = {"published": self.now().isoformat()}
        return self._commit(changed)

    def _put(self, listed: Metadata[Targets], path: str, data: bytes) -> TargetFile:
        target = TargetFile.from_data(path, data, ["sha256"])
        write(self.folder / "targets" / served_target(path, target.hashes["sha256"]), data)
        listed.signed.targets[path] = target
        return target

    def delegate(
        self, role_name: str, keys: Sequence[Key], threshold: int, replace: bool = False
    ) -> list[Signature]:
        """Lets `keys` sign the role's paths, `threshold` of them together.

        With `replace` a role's keys are exchanged; what the old keys had signed stays only when the new
        keys sign it again, here and now.
        """
        old = self.check_delegation(role_name, replace=replace)
        changes = {} if old is None else {role_name: old}
        add_delegation(self.state.targets.signed, role_name, keys, threshold)
        self.open_keys(*changes, "targets", "snapshot", "timestamp")
        return self._commit({**changes, "targets": self.state.targets})

    def check_delegation(self, role_name: str, *, replace: bool) -> Metadata[Targets] | None:
        """What the role has signed under its earlier keys, if any; UsageError when it is delegated already."""
        delegations = self.state.targets.signed.delegations
        if delegations is None or role_name not in (delegations.roles or {}):
            return None
        if not replace:
            raise UsageError(f"{role_name} is delegated already", hint="--replace exchanges its keys.")
        return role(self.metadata, self.state, role_name)

    def signers(self) -> dict[str, list[str]]:
        """Key id to the roles that name it."""
        found: dict[str, list[str]] = {}
        delegations = self.state.targets.signed.delegations
        delegated = (delegations.roles if delegations else None) or {}
        for name, named in {**self.state.root.signed.roles, **delegated}.items():
            for keyid in named.keyids:
                found.setdefault(keyid, []).append(name)
        return found

    def resign(self) -> tuple[list[Signature], list[tuple[str, datetime, str]]]:
        """Renews the timestamp, and whatever else is near its end and whose keys are here.

        Returns what was signed, and (role, expiry, reason) of what is near its end and could not be.
        """
        state = self.state
        renew: dict[str, Metadata[Targets]] = {}
        left: list[tuple[str, datetime, str]] = []
        done: list[Signature] = []
        due = self.due()
        for name in [n for n in due if n not in ("snapshot", "timestamp")]:
            found = state.root if name == "root" else state.targets if name == "targets" else self.role(name)
            try:
                self._signers(name)
            except NotFoundError as e:
                left.append((name, found.signed.expires, e.what))
                continue
            if name == "root":
                done.append(self._renew_root())
            else:
                renew[name] = state.targets if name == "targets" else self.role(name)
        return done + self._commit(renew, snapshot="snapshot" in due or bool(renew)), left

    def due(self) -> list[str]:
        """What a `resign` would renew: the timestamp always, and what has less than a third of its time left."""
        state, now = self.state, self.now()
        ends = {"root": state.root.signed.expires, "targets": state.targets.signed.expires}
        ends |= {name: self.role(name).signed.expires for name in self.roles()}
        ends |= {"snapshot": state.snapshot.signed.expires}
        return [n for n, end in ends.items() if self.periods.is_near(n, end, now)] + ["timestamp"]

    def _renew_root(self) -> Signature:
        root = self.state.root
        signers = self._signers("root")
        root.signed.version += 1
        done = self._sign("root", root, signers)
        path = self.metadata / f"{root.signed.version}.root.json"
        write(path, to_bytes(root))
        write(self._anchor, path.read_bytes())
        return done

    def _commit(self, changed: Mapping[str, Metadata[Targets]], *, snapshot: bool = True) -> list[Signature]:
        """Signs and writes the changed roles, the snapshot that names them, and the timestamp."""
        state = self.state
        self.open_keys(*changed, *(["snapshot"] if snapshot else []), "timestamp")
        done = []
        for name in sorted(changed, key=lambda n: n == "targets"):
            done.append(self._write(name, changed[name]))
            state.snapshot.signed.meta[f"{name}.json"] = self._named(name, changed[name])
        if snapshot:
            done.append(self._write("snapshot", state.snapshot))
            state.timestamp.signed.snapshot_meta = self._named("snapshot", state.snapshot)
        state.timestamp.signed.version += 1
        done.append(self._sign("timestamp", state.timestamp, self._signers("timestamp")))
        write(self.metadata / "timestamp.json", to_bytes(state.timestamp))
        self._floors.raise_to({s.role: s.version for s in done})
        self._state = None
        return done

    def _write(self, name: str, signed: Metadata[T]) -> Signature:
        signers = self._signers(name)
        signed.signed.version = self._highest(name) + 1
        done = self._sign(name, signed, signers)
        write(self.metadata / f"{signed.signed.version}.{name}.json", to_bytes(signed))
        return done

    def _highest(self, name: str) -> int:
        """The highest number that any run has used for this role, published or not."""
        files = self.metadata.glob(f"*.{name}.json")
        return max((int(n) for f in files if (n := f.name.split(".")[0]).isdecimal()), default=0)

    def _named(self, name: str, signed: Metadata[T]) -> MetaFile:
        version = signed.signed.version
        data = (self.metadata / f"{version}.{name}.json").read_bytes()
        return MetaFile.from_data(version, data, ["sha256"])

    def _sign(
        self,
        name: str,
        signed: Metadata[T],
        signers: Mapping[str, CryptoSigner],
    ) -> Signature:
        signed.signed.expires = self.now() + self.periods.of(name)
        signed.signatures.clear()
        for signer in signers.values():
            signed.sign(signer, append=True)
        return Signature(name, signed.signed.version, signed.signed.expires, tuple(signers))

    def _signers(self, name: str) -> dict[str, CryptoSigner]:
        """The keys that sign a role, opened; NotFoundError when fewer than its threshold are here."""
        usable = self.can_sign(name)
        for key in usable:
            if key not in self._opened:
                self._opened[key] = self.keys.signer(key, self._ask)
        return {key: self._opened[key] for key in usable}

    def can_sign(self, name: str) -> list[str]:
        """The names of the keys that sign a role; NotFoundError when fewer than its threshold are here."""
        top = name in self.state.root.signed.roles
        delegator: Root | Targets = self.state.root.signed if top else self.state.targets.signed
        wanted = delegator.get_delegated_role(name)
        here = {self.keys.public(n).keyid: n for n in self.keys.names() if self.keys.has_private(n)}
        usable = sorted(here[keyid] for keyid in wanted.keyids if keyid in here)[: wanted.threshold]
        if len(usable) < wanted.threshold:
            raise NotFoundError(
                f"signing {name} takes {wanted.threshold} of its keys, and {len(usable)} are on this machine",
                where=str(self.keys.folder),
                hint=f"`kiosk key list` shows the keys that are here; {name} names {len(wanted.keyids)}.",
            )
        return usable

    def root(self) -> Metadata[Root]:
        """The newest root, verified from the copy beside the keys."""
        return newest_root(self.metadata, self._anchor.read_bytes())


def add_delegation(targets: Targets, role_name: str, keys: Sequence[Key], threshold: int) -> None:
    """Writes a delegation, in place of the role's earlier one."""
    if not 1 <= threshold <= len({k.keyid for k in keys}):
        raise UsageError(
            f"a threshold of {threshold} needs as many different keys, and {len(keys)} were given"
        )
    if targets.delegations is None:
        targets.delegations = Delegations({}, {})
    roles = targets.delegations.roles
    assert roles is not None
    for keyid in list(roles[role_name].keyids) if role_name in roles else []:
        targets.revoke_key(keyid, role_name)
    roles[role_name] = DelegatedRole(role_name, [], threshold, True, role_patterns(role_name))
    for key in keys:
        targets.add_key(key, role_name)


def to_bytes(signed: Metadata[T]) -> bytes:
    """The file's bytes: readable JSON, and checked to read back as what was signed."""
    return signed.to_bytes(JSONSerializer(compact=False, validate=True)) + b"\n"
