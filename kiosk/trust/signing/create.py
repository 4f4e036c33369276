"""`kiosk init`: makes the keys and the first state of a repository.

Interrupted at any point it can be run again: keys that an unfinished run made are used again, and the copy
of the root beside the keys, written last, is what makes the repository usable for signing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from kiosk import clock
from kiosk.errors import UsageError, VerificationError
from kiosk.files import fsync_dir, locked, scratch, storage_errors, write
from kiosk.trust.names import IMAGES, ROLLOUTS
from kiosk.trust.signing.keys import Ask, Keys, PublicKey
from kiosk.trust.signing.periods import Periods
from kiosk.trust.signing.repository import add_delegation, to_bytes
from kiosk.trust.signing.state import T, parse

ONLINE = ("snapshot", "timestamp")


@dataclass(frozen=True)
class Created:
    """What `kiosk init` made."""

    root: Path
    keys: tuple[PublicKey, ...]
    threshold: int


def create(
    folder: Path,
    keys: Keys,
    ask: Ask,
    *,
    root_keys: int = 3,
    threshold: int = 2,
    periods: Periods | None = None,
    now: clock.Clock = clock.now,
) -> Created:
    """Makes the keys `root-1`…, targets, snapshot, timestamp, images and rollouts, and a repository signed by them."""
    if not 1 <= threshold <= root_keys <= 9:
        raise UsageError(f"{threshold} of {root_keys} root keys: choose 1 to 9 keys, and no more than that")
    anchor, metadata = keys.folder / "root.json", folder / "metadata"
    periods = periods or Periods()
    with locked(folder.with_name(f".{folder.name}.lock"), what=f"the repository {folder}"):
        if anchor.exists():
            raise refusal(folder, keys)
        roots = [f"root-{i + 1}" for i in range(root_keys)]
        if metadata.exists() and not all(keys.has_private(n) for n in roots):
            raise refusal(folder, keys)
        signers = open_or_make(keys, [*roots, "targets", *ONLINE, IMAGES, ROLLOUTS], ask)
        if metadata.exists():
            adopt(metadata, [signers[n].public_key.keyid for n in roots])
        else:
            write(keys.folder / "periods.json", periods.to_json())
            with scratch(folder.parent, prefix=f".{folder.name}-init-") as new:
                write_first(new / "metadata", signers, roots, threshold, periods, now)
                with storage_errors(folder):
                    for part in ("targets", "objects"):
                        (folder / part).mkdir(parents=True, exist_ok=True)
                    (new / "metadata").rename(metadata)
                    fsync_dir(folder)
        write(anchor, (metadata / "1.root.json").read_bytes())
    return Created(metadata / "1.root.json", tuple(keys.public(n) for n in signers), threshold)


def refusal(folder: Path, keys: Keys) -> UsageError:
    """Why `init` does not touch what is there."""
    return UsageError(
        "there is a repository already, or keys of one",
        where=f"{folder}, {keys.folder}",
        hint="Move both away first, or choose another KIOSK_HOME. Nothing was changed.",
    )


def open_or_make(keys: Keys, names: list[str], ask: Ask) -> dict[str, CryptoSigner]:
    """The private keys, made where they are missing; one passphrase protects all."""
    passphrase = ask("the new keys")
    for name in names:
        if not keys.has_private(name):
            keys.create(name, passphrase)
    return {name: keys.signer(name, lambda _: passphrase) for name in names}


def adopt(metadata: Path, keyids: list[str]) -> None:
    """Accepts the repository that an interrupted `init` left complete: its root names just these keys."""
    found = parse((metadata / "1.root.json").read_bytes(), Root)
    found.signed.verify_delegate("root", found.signed_bytes, found.signatures)
    if sorted(found.signed.roles["root"].keyids) != sorted(keyids):
        raise VerificationError("the repository here was made with other keys", where=str(metadata))


def write_first(
    metadata: Path,
    signers: dict[str, CryptoSigner],
    roots: list[str],
    threshold: int,
    periods: Periods,
    now: clock.Clock,
) -> None:
    """Version 1 of every role. The threshold applies to root; the other roles have one key each."""
    root = Root(expires=now() + periods.of("root"), consistent_snapshot=True)
    for name in roots:
        root.add_key(signers[name].public_key, "root")
    root.roles["root"].threshold = threshold
    for name in ("targets", *ONLINE):
        root.add_key(signers[name].public_key, name)

    targets = Targets(expires=now() + periods.of("targets"))
    for role in (IMAGES, ROLLOUTS):  # nothing is rolled out yet: that role signs nothing until something is
        add_delegation(targets, role, [signers[role].public_key], 1)
    images = Targets(expires=now() + periods.of(IMAGES))

    def put(name: str, made: Metadata[T], by: list[str]) -> bytes:
        for key in by:
            made.sign(signers[key], append=True)
        data = to_bytes(made)
        write(metadata / name, data)
        return data

    put("1.root.json", Metadata(root), roots)
    snapshot = Snapshot(expires=now() + periods.of("snapshot"))
    for role, signed in (("images", images), ("targets", targets)):
        data = put(f"1.{role}.json", Metadata(signed), [role])
        snapshot.meta[f"{role}.json"] = MetaFile.from_data(1, data, ["sha256"])
    data = put("1.snapshot.json", Metadata(snapshot), ["snapshot"])
    timestamp = Timestamp(expires=now() + periods.of("timestamp"))
    timestamp.snapshot_meta = MetaFile.from_data(1, data, ["sha256"])
    put("timestamp.json", Metadata(timestamp), ["timestamp"])
