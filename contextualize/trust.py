"""Signed targets, verified with python-tuf from a root of trust: of a folder that was handed over, or fetched.

What is returned was found in metadata that is signed, not expired, and consistent; by the one role that
owns the target. python-tuf is imported when it is first needed: that takes a noticeable part of a boot.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

from contextualize.context import Repository
from contextualize.document import LIMIT, stamp
from contextualize.errors import Refused

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, TargetFile, Targets

BASE = "bundle:///"


class Signed(NamedTuple):
    """A verified target: its path, its bytes, the role that vouches for it and the ids of the keys that signed."""

    path: str
    data: bytes
    role: str
    keys: Tuple[str, ...]


class Trust:
    """The verified repository. `bundle` is a folder with metadata/ and targets/, or None: then they are fetched from
    `repository`. `work` is a private folder: empty, or with what was verified before, and then nothing older than
    that holds."""

    def __init__(
        self, root: bytes, bundle: Optional[Path], repository: Optional[Repository], work: Path
    ) -> None:
        if bundle is None and repository is None:
            raise Refused(
                "the context has brought no signed metadata, and names no repository to fetch it from"
            )
        _without_urllib3()
        from tuf.api.exceptions import DownloadError, RepositoryError
        from tuf.ngclient import Updater, UpdaterConfig

        base = BASE if bundle is not None or repository is None else f"{repository.url.rstrip('/')}/"
        self._work = work
        self._read: Dict[str, Metadata[Any]] = {}
        self._errors = (DownloadError, RepositoryError)
        try:
            self._updater = Updater(
                metadata_dir=str(work),
                metadata_base_url=f"{base}metadata/",
                target_dir=str(work),
                target_base_url=f"{base}targets/",
                fetcher=_files(bundle) if bundle is not None else _remote(repository),
                config=UpdaterConfig(
                    max_delegations=8, targets_max_length=16 << 20, snapshot_max_length=4 << 20
                ),
                bootstrap=root,
            )
            self._updater.refresh()
        except self._errors as e:
            raise Refused(f"the signed metadata does not hold: {_explain(e)}") from None
        top = [self._metadata(role) for role in ("root", "timestamp", "snapshot", "targets")]
        self.root_version = int(top[0].signed.version)
        self._expires = min(m.signed.expires for m in top)

    @property
    def expires(self) -> str:
        """When the first of the metadata that was looked at expires, as ISO 8601 in UTC."""
        return stamp(self._expires)

    def target(self, path: str, role: str) -> Signed:
        """A target's bytes, signed by `role`, which `targets` must have delegated to."""
        found = self.optional(path, role)
        if found is None:
            raise Refused(f"{path} is not signed by the role {role}")
        return found

    def optional(self, path: str, role: str) -> Optional[Signed]:
        """The same; None where nobody lists the target."""
        try:
            info = self._updater.get_targetinfo(path)
            if info is None:
                return None
            if info.length > LIMIT:
                raise Refused(f"{path} is larger than {LIMIT} bytes")
            keys = self._signers(path, role, info)
            file = self._updater.download_target(info, str(self._work / "target"))
        except self._errors as e:
            raise Refused(f"{path}: {_explain(e)}") from None
        return Signed(path, Path(file).read_bytes(), role, keys)

    def _signers(self, path: str, role: str, info: TargetFile) -> Tuple[str, ...]:
        """The keys whose signatures by `role` hold; Refused when it was another role that listed the target."""
        if not (self._work / f"{role}.json").exists():
            raise Refused(f"{path} is not signed by the role {role}")
        top: Metadata[Targets] = self._metadata("targets")
        own: Metadata[Targets] = self._metadata(role)
        if own.signed.targets.get(path) != info or path in top.signed.targets:
            raise Refused(f"{path} is not signed by the role {role}")
        try:
            result = top.signed.get_verification_result(role, own.signed_bytes, own.signatures)
        except ValueError as e:
            raise Refused(f"{path}: {e}") from None
        if not result.verified:
            raise Refused(f"{path}: too few signatures by the role {role}")
        self._expires = min(self._expires, own.signed.expires)
        return tuple(sorted(result.signed))

    def _metadata(self, role: str) -> Metadata[Any]:
        """Metadata that the updater has verified and kept. It changes no more once it was looked for."""
        from tuf.api.metadata import Metadata

        if role not in self._read:
            self._read[role] = Metadata.from_file(str(self._work / f"{role}.json"))
        return self._read[role]


def _without_urllib3() -> None:
    """Keeps python-tuf from loading the fetcher that it would use if it were given none: half of the time that
    loading python-tuf takes, in every boot."""
    name = "tuf.ngclient.urllib3_fetcher"
    if name not in sys.modules:
        module = ModuleType(name)
        module.Urllib3Fetcher = type("Urllib3Fetcher", (), {})  # type: ignore[attr-defined]
        sys.modules[name] = module


def _explain(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _remote(repository: Optional[Repository]) -> Any:
    from contextualize.fetch import Remote

    assert repository is not None
    return Remote(repository)


def _opened(folder: Path, parts: Sequence[str]) -> int:
    """Opens a regular file below a folder, to which no link leads; OSError where it is none. Never waits."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for last, part in enumerate(parts, 1 - len(parts)):
        try:
            found = os.open(part, flags if last == 0 else flags | os.O_DIRECTORY, dir_fd=at)
        finally:
            os.close(at)
        at = found
    if not stat.S_ISREG(os.fstat(at).st_mode):
        os.close(at)
        raise OSError(errno.EINVAL, "not a regular file")
    return at


def _files(bundle: Path) -> Any:
    """A fetcher that reads below a folder: plain names only, no links."""
    from tuf.api.exceptions import DownloadError, DownloadHTTPError
    from tuf.ngclient import FetcherInterface

    class Files(FetcherInterface):
        def _fetch(self, url: str) -> Iterator[bytes]:
            name = url[len(BASE) :]
            parts = name.split("/")
            if not url.startswith(BASE) or any(part in ("", ".", "..") for part in parts):
                raise DownloadError(f"{url!r:.200} is not a file of the bundle")
            try:
                fd = _opened(bundle, parts)
            except FileNotFoundError:
                raise DownloadHTTPError(f"the context has no {name:.200}", 404) from None
            except OSError as e:
                raise DownloadError(f"{name:.200}: {e.strerror}") from None
            return self._chunks(fd)

        @staticmethod
        def _chunks(fd: int) -> Iterator[bytes]:
            with os.fdopen(fd, "rb") as f:
                while True:
                    data = f.read(1 << 16)
                    if not data:
                        return
                    yield data

    return Files()
