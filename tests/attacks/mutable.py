"""A served repository in the hands of an attacker, who may write every file and holds some of the keys."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, TargetFile

from kiosk.trust.names import served_target
from tests.simulators.published import Kiosk, ask


class Attacker:
    """Changes a kiosk's served files. Every method that signs says with which keys."""

    def __init__(self, kiosk: Kiosk) -> None:
        self.kiosk = kiosk
        self.metadata = kiosk.metadata
        self._keys: dict[str, CryptoSigner] = {}

    def _key(self, name: str) -> CryptoSigner:
        """A stolen key, opened once: scrypt takes its time."""
        if name not in self._keys:
            self._keys[name] = self.kiosk.keys.signer(name, ask)
        return self._keys[name]

    def newest(self, role: str) -> Path:
        """The served file of a role."""
        if role == "timestamp":
            return self.metadata / "timestamp.json"
        return max(self.metadata.glob(f"*.{role}.json"), key=lambda p: int(p.name.split(".")[0]))

    def edit(
        self,
        role: str,
        keys: list[str],
        change: Callable[[Any], None] = lambda _: None,
        *,
        file: Path | None = None,
    ) -> Path:
        """Rewrites a role's newest file (or writes it to `file`), signed with these keys and no others."""
        found: Metadata[Any] = Metadata.from_bytes(self.newest(role).read_bytes())
        change(found.signed)
        found.signatures.clear()
        for key in keys:
            found.sign(self._key(key), append=True)
        target = file or self.newest(role)
        target.write_bytes(found.to_bytes())
        return target

    def chain(self, *roles: str) -> None:
        """With the stolen online keys: a new snapshot and timestamp that name the roles' files as they are."""

        def name(snapshot: Any) -> None:
            snapshot.version += 1
            for role in roles:
                data = self.newest(role).read_bytes()
                version = int(self.newest(role).name.split(".")[0])
                snapshot.meta[f"{role}.json"] = MetaFile.from_data(version, data, ["sha256"])

        number = int(self.newest("snapshot").name.split(".")[0]) + 1
        self.edit("snapshot", ["snapshot"], name, file=self.metadata / f"{number}.snapshot.json")
        self.point_at_snapshot()

    def point_at_snapshot(self) -> None:
        """With the stolen timestamp key: a new timestamp that names the newest snapshot file."""

        def name(timestamp: Any) -> None:
            timestamp.version += 1
            data = self.newest("snapshot").read_bytes()
            version = int(self.newest("snapshot").name.split(".")[0])
            timestamp.snapshot_meta = MetaFile.from_data(version, data, ["sha256"])

        self.edit("timestamp", ["timestamp"], name)

    def list_target(self, role: str, path: str, data: bytes) -> None:
        """With the role's own key and the online keys: one more target, whether or not the role may."""
        target = TargetFile.from_data(path, data, ["sha256"])
        served = self.kiosk.settings.repository / "targets" / served_target(path, target.hashes["sha256"])
        served.parent.mkdir(parents=True, exist_ok=True)
        served.write_bytes(data)

        def add(signed: Any) -> None:
            signed.version += 1
            signed.targets[path] = target

        number = int(self.newest(role).name.split(".")[0]) + 1
        self.edit(role, [role], add, file=self.metadata / f"{number}.{role}.json")
        self.chain(role)

    def flip(self, path: Path, at: int = -40) -> None:
        """Changes one bit of a file."""
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.unlink()
        path.write_bytes(data)

    def cut(self, path: Path) -> None:
        """Leaves half of a file."""
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data[: len(data) // 2])

    def manifest(self, base: str, version: str) -> Path:
        """The served manifest of an image."""
        folder = self.kiosk.settings.repository / "targets/images" / base
        return next(folder.glob(f"*.{version}.json"))


def expire(signed: Any) -> None:
    """Moves a file's end into the past."""
    signed.expires -= timedelta(days=3650)
