"""python-tuf's reader (`tuf.ngclient`), used only through its public face, with a root of trust that is given once and
kept. What is damaged is asked for once more past every cache; every error says which file, and why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets
from tuf.ngclient import Updater, UpdaterConfig

from kiosk.config import S3Options
from kiosk.errors import CorruptError, KioskError, VerificationError
from kiosk.files import storage_errors
from kiosk.log import logger
from kiosk.trust import roots
from kiosk.trust.explain import explained
from kiosk.trust.fetcher import fetcher

log = logger(__name__)

LARGEST_TARGET = 4 << 20
"""The most bytes of a target that a reader loads, where its kind sets no smaller limit."""
CONFIG = UpdaterConfig(max_delegations=8, targets_max_length=16 << 20, snapshot_max_length=4 << 20)
R = TypeVar("R")


@dataclass(frozen=True)
class RoleInfo:
    """A role as it was verified: its version, its expiry, and the ids of the keys that may sign it."""

    name: str
    version: int
    expires: datetime
    threshold: int
    keyids: tuple[str, ...]


class Verified:
    """A repository's metadata and targets, verified. See TrustedRepository, which knows what they are."""

    def __init__(
        self,
        metadata_dir: Path,
        url: str | Path,
        root: bytes | None = None,
        proxy: str | None = None,
        s3: S3Options | None = None,
    ) -> None:
        self.metadata_dir = metadata_dir
        self._fetcher, self._base = fetcher(url, proxy, s3)
        self._given = root
        self._updater: Updater | None = None
        self._roles: dict[str, Metadata[Targets]] = {}
        self.floors: dict[str, bytes] = {}
        self.problems: dict[str, KioskError] = {}

    def refresh(self) -> None:
        """Brings root, timestamp, snapshot and targets up to date; nothing is taken over that does not hold."""
        with storage_errors(self.metadata_dir):
            self.metadata_dir.mkdir(parents=True, exist_ok=True)
            bootstrap = roots.bootstrap(self.metadata_dir, self._given)
            self._updater = None
            self._roles = {}
            self.floors = {}
            self.problems = {}
            updater = self._verified(lambda: self._refreshed(bootstrap))
            roots.check_given(self.metadata_dir, self._given)
            roots.fetch_older(self.metadata_dir, self._base, self._fetcher)
            self._updater = updater

    def roles(self) -> list[RoleInfo]:
        """The roles that this client has verified so far."""
        self._ready()
        root = self._read("root", Root)
        targets = self._targets()
        found = []
        for name in ("root", "timestamp", "snapshot", "targets", *sorted(self._roles)):
            signed = Metadata.from_bytes(self._kept(name)).signed
            role = (root if name in root.roles else targets).get_delegated_role(name)
            found.append(RoleInfo(name, signed.version, signed.expires, role.threshold, tuple(role.keyids)))
        return found

    def _refreshed(self, bootstrap: bytes) -> Updater:
        updater = Updater(
            metadata_dir=str(self.metadata_dir),
            metadata_base_url=f"{self._base}/metadata/",
            target_dir=str(self.metadata_dir / "targets"),
            target_base_url=f"{self._base}/targets/",
            fetcher=self._fetcher,
            config=CONFIG,
            bootstrap=bootstrap,
        )
        updater.refresh()
        return updater

    def _verified(self, call: Callable[[], R]) -> R:
        """Calls python-tuf. Damaged bytes may be a proxy's: they are asked for once more, past every cache."""
        try:
            with explained(self._base, self._fetcher, self._signers):
                return call()
        except CorruptError as e:
            log.info("%s; asking again past every cache", e)
        self._fetcher.past_caches = True
        try:
            with explained(self._base, self._fetcher, self._signers):
                return call()
        finally:
            self._fetcher.past_caches = False

    def _ready(self) -> Updater:
        if self._updater is None:
            self.refresh()
        assert self._updater is not None
        return self._updater

    def _read(self, name: str, kind: type[Root]) -> Root:
        found = Metadata[Root].from_bytes(self._kept(name)).signed
        assert isinstance(found, kind)
        return found

    def _kept(self, role: str) -> bytes:
        return (self.metadata_dir / f"{role}.json").read_bytes()

    def _targets(self) -> Targets:
        self._ready()
        return Metadata[Targets].from_bytes(self._kept("targets")).signed

    def _named(self) -> dict[str, object]:
        """What the verified snapshot names."""
        signed = Metadata.from_bytes(self._kept("snapshot")).signed
        return dict(getattr(signed, "meta", {}))

    def _load_role(self, name: str, probe: str) -> None:
        """Has python-tuf verify a role by asking it for a target there; the file it keeps is verified then."""
        updater = self._ready()
        self._verified(lambda: updater.get_targetinfo(probe))
        self._roles[name] = Metadata[Targets].from_bytes(self._kept(name))

    def _target_bytes(self, path: str, target: TargetFile, most: int = LARGEST_TARGET) -> bytes:
        """A target's bytes, from what is kept where that is right, else from the repository."""
        if target.length > most:
            raise VerificationError(
                f"is {target.length} bytes long, more than the {most} there may be", where=path
            )
        updater, kept = self._ready(), self.metadata_dir / "targets" / path
        if updater.find_cached_target(target, str(kept)) is None:
            partial = kept.with_name(f".{kept.name}.new")
            with storage_errors(kept):
                self._verified(lambda: updater.download_target(target, str(partial)))
                partial.replace(kept)
        data = kept.read_bytes()
        try:
            target.verify_length_and_hashes(data)
        except RepositoryError:
            raise CorruptError("changed while it was read", where=str(kept)) from None
        return data

    def _signers(self) -> dict[str, str]:
        """Key ids and the roles that name them, as far as known, for messages."""
        found: dict[str, str] = {}
        for name in ("root", "targets"):
            try:
                signed = Metadata.from_bytes(self._kept(name)).signed
            except (OSError, RepositoryError):
                continue
            if isinstance(signed, Root):
                found |= {k: n for n, r in signed.roles.items() for k in r.keyids}
            elif isinstance(signed, Targets) and signed.delegations and signed.delegations.roles:
                found |= {k: n for n, d in signed.delegations.roles.items() for k in d.keyids}
        return found
