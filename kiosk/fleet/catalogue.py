"""What the kiosk offers now, read from its own repository's metadata: the newest versions, roll-outs, and swarms.

It is for showing and for scheduling; what a host believes it verifies itself. Nothing here is checked against
keys, and what can't be read is left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kiosk.errors import StorageError, VerificationError
from kiosk.log import logger
from kiosk.model.manifest import read_manifest
from kiosk.model.names import Version, parse_manifest_path
from kiosk.model.rollout import Rollout
from kiosk.trust.names import served_target

log = logger(__name__)

LARGEST = 16 << 20
ROLLOUT = "/rollout.json"


@dataclass(frozen=True)
class Catalogue:
    """`timestamp` is the version of timestamp.json (0: none); `newest` the newest version of each name; `versions`
    all; `swarms` the names (NAME@VERSION) by the first 20 bytes of their infohash; `sizes` the bytes of each version's
    files (what its manifest says, whoever needs which of them)."""

    timestamp: int = 0
    newest: dict[str, str] = field(default_factory=dict)
    versions: frozenset[str] = frozenset()
    rollouts: dict[str, Rollout] = field(default_factory=dict)
    swarms: dict[bytes, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def offered(self, name: str, host: str) -> str | None:
        """The version of a name that a host is to have now; None where there is none."""
        rollout = self.rollouts.get(name)
        if rollout is not None and rollout.version == self.newest.get(name):
            return rollout.offers(host)
        return self.newest.get(name)


def timestamp(repository: Path) -> int:
    """The version of the repository's timestamp.json; 0 where there is none that can be read."""
    try:
        return int(_signed(repository / "metadata" / "timestamp.json")["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def current(repository: Path) -> Catalogue:
    """The catalogue now; StorageError where the metadata can't be read."""
    try:
        return Reader(repository).read()
    except (OSError, ValueError) as e:
        raise StorageError(f"can't be read: {e}", where=str(repository)) from None


class Reader:
    """Reads the catalogue again and again; what can't change is read once."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._known: dict[str, tuple[str | None, int] | None] = {}

    def read(self) -> Catalogue:
        """The catalogue now. Raises OSError or ValueError where the metadata can't be read."""
        folder = self._repository / "metadata"
        if not (folder / "timestamp.json").exists():
            return Catalogue()
        try:
            return self._read(folder)
        except (KeyError, TypeError, AttributeError) as e:
            raise ValueError(f"its metadata has another form: {e}") from None

    def _read(self, folder: Path) -> Catalogue:
        stamp = _signed(folder / "timestamp.json")
        snapshot = _signed(folder / f"{stamp['meta']['snapshot.json']['version']}.snapshot.json")
        targets: dict[str, str] = {}
        for name, about in snapshot["meta"].items():
            role = _signed(folder / f"{about['version']}.{name}")
            targets |= {
                path: served_target(path, t["hashes"]["sha256"]) for path, t in role["targets"].items()
            }
        found = {str(ref): (ref, path) for path in targets if (ref := parse_manifest_path(path))}
        newest: dict[str, Version] = {}
        for ref, _ in found.values():
            assert ref.version is not None
            newest[ref.base] = max(ref.version, newest.get(ref.base, ref.version))
        files = {text: targets[path] for text, (_, path) in found.items()}
        self._known = {file: self._about(file) for file in files.values()}
        known = {text: about for text, file in files.items() if (about := self._known[file])}
        return Catalogue(
            timestamp=int(stamp["version"]),
            newest={base: str(version) for base, version in newest.items()},
            versions=frozenset(found),
            rollouts=self._rollouts(targets),
            swarms={bytes.fromhex(h)[:20]: text for text, (h, _) in known.items() if h},
            sizes={text: size for text, (_, size) in known.items()},
        )

    def _about(self, file: str) -> tuple[str | None, int] | None:
        """What a manifest says of its infohash and its files' bytes; None where it can't be read."""
        if file in self._known:
            return self._known[file]
        try:
            manifest = read_manifest(_small(self._repository / "targets" / file), where=file)
        except (OSError, VerificationError) as e:
            log.warning("%s", e)
            return None
        size = sum(a.size for a in manifest.artifacts.values())
        return (manifest.torrent.infohash if manifest.torrent else None), size

    def _rollouts(self, targets: dict[str, str]) -> dict[str, Rollout]:
        found = {}
        for path, file in targets.items():
            if path.endswith(ROLLOUT):
                try:
                    one = Rollout.from_json(_small(self._repository / "targets" / file), where=file)
                except (OSError, VerificationError) as e:
                    log.warning("%s", e)
                    continue
                found[one.name] = one
        return found


def _signed(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(_small(path))["signed"]
    return value


def _small(path: Path) -> bytes:
    with path.open("rb") as f:
        data = f.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"{path} is larger than {LARGEST} bytes")
    return data
