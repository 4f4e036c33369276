"""A small signed repository for a guest, made with python-tuf's own metadata API; every part can be bent."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

PATHS = {
    "images": ["images/*/*"],
    "site-example": ["layers/site/example/*/*"],
    "experiment-demo": ["layers/experiment/demo/*/*"],
    "experiment-other": ["layers/experiment/other/*/*"],
}


def days(n: float) -> datetime:
    """A date from now, whole seconds."""
    return datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=n)


class SignedRepository:
    """Keys, roles, targets; `write` signs all of it into a folder as a context disk carries it."""

    def __init__(self) -> None:
        names = ("root", "targets", "snapshot", "timestamp", *PATHS)
        self.keys = {name: CryptoSigner.generate_ed25519() for name in names}
        self.signed_by = {name: name for name in names}
        self.expires = dict.fromkeys(names, 1.0)
        self.files: dict[str, bytes] = {}
        self.listed: dict[str, dict[str, TargetFile]] = {name: {} for name in ("targets", *PATHS)}
        self.version = 1

    def add(self, role: str, path: str, document: object) -> None:
        """A role lists one more target."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.files[path] = data
        self.listed[role][path] = TargetFile.from_data(path, data, ["sha256"])

    def root(self, version: int = 1) -> bytes:
        """Root metadata, signed."""
        root = Root(version=version, expires=days(self.expires["root"]), consistent_snapshot=True)
        for role in ("root", "targets", "snapshot", "timestamp"):
            root.add_key(self.keys[role].public_key, role)
        return self._signed("root", Metadata(root))

    def write(self, folder: Path) -> None:
        """Writes metadata/ and targets/."""
        metadata, version = folder / "metadata", self.version
        metadata.mkdir(parents=True, exist_ok=True)
        delegated = {
            name: DelegatedRole(name, [self.keys[name].public_key.keyid], 1, True, paths=paths)
            for name, paths in PATHS.items()
        }
        keys = {self.keys[name].public_key.keyid: self.keys[name].public_key for name in PATHS}
        meta: dict[str, MetaFile] = {}
        for name, targets in self.listed.items():
            signed = Targets(version, expires=days(self.expires[name]), targets=targets)
            if name == "targets":
                signed.delegations = Delegations(keys, roles=delegated)
            data = self._signed(name, Metadata(signed))
            (metadata / f"{version}.{name}.json").write_bytes(data)
            meta[f"{name}.json"] = MetaFile.from_data(version, data, ["sha256"])
        snapshot = self._signed(
            "snapshot", Metadata(Snapshot(version, expires=days(self.expires["snapshot"]), meta=meta))
        )
        (metadata / f"{version}.snapshot.json").write_bytes(snapshot)
        timestamp = Timestamp(
            version,
            expires=days(self.expires["timestamp"]),
            snapshot_meta=MetaFile.from_data(version, snapshot, ["sha256"]),
        )
        (metadata / "timestamp.json").write_bytes(self._signed("timestamp", Metadata(timestamp)))
        for path, data in self.files.items():
            target = TargetFile.from_data(path, data, ["sha256"])
            home, _, name = path.rpartition("/")
            file = folder / "targets" / home / f"{target.hashes['sha256']}.{name}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)

    def _signed(self, role: str, metadata: Metadata) -> bytes:  # type: ignore[type-arg]
        metadata.sign(self.keys[self.signed_by[role]])
        return metadata.to_bytes()
