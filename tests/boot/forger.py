"""Bundles of signed metadata that an attacker could make who has the host, the repository, and its online keys
(snapshot and timestamp): only the layers' own keys are not his."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp

from kiosk.trust.signing.keys import Keys
from kiosk.trust.signing.repository import to_bytes
from tests.boot.farm import PASSPHRASE


def described(data: bytes, before: MetaFile) -> MetaFile:
    """The line of a metadata file, with digest and length where it had them before."""
    made = MetaFile.from_data(before.version, data, list(before.hashes or ["sha256"]))
    return MetaFile(
        before.version, made.length if before.length else None, made.hashes if before.hashes else None
    )


@dataclass(frozen=True)
class Forger:
    """Changes a bundle and signs everything above the change with the true online keys."""

    bundle: Path
    keys: Keys

    def signer(self, name: str) -> Signer:
        """The key of a role."""
        return self.keys.signer(name, lambda _: PASSPHRASE)

    def file(self, role: str) -> Path:
        """The metadata of a role."""
        (found,) = (self.bundle / "metadata").glob(f"*{role}.json")
        return found

    def signed_by(self, role: str, other: str) -> None:
        """The role's metadata is as it was, and signed with another role's key."""

        def change(metadata: Metadata[Targets]) -> None:
            metadata.sign(self.signer(other))

        self._replace(role, change)

    def expired(self) -> None:
        """The timestamp of yesterday, as a mirror has it that was cut off."""
        timestamp = Metadata[Timestamp].from_file(str(self.file("timestamp")))
        timestamp.signed.expires = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(days=1)
        self._write(timestamp)

    def _replace(self, role: str, change: Callable[[Metadata[Targets]], None]) -> None:
        targets = Metadata[Targets].from_file(str(self.file(role)))
        change(targets)
        data = to_bytes(targets)
        self.file(role).write_bytes(data)
        snapshot = Metadata[Snapshot].from_file(str(self.file("snapshot")))
        meta = snapshot.signed.meta
        meta[f"{role}.json"] = described(data, meta[f"{role}.json"])
        snapshot.sign(self.signer("snapshot"))
        data = to_bytes(snapshot)
        self.file("snapshot").write_bytes(data)
        timestamp = Metadata[Timestamp].from_file(str(self.file("timestamp")))
        timestamp.signed.snapshot_meta = described(data, timestamp.signed.snapshot_meta)
        self._write(timestamp)

    def _write(self, timestamp: Metadata[Timestamp]) -> None:
        timestamp.sign(self.signer("timestamp"))
        self.file("timestamp").write_bytes(to_bytes(timestamp))
