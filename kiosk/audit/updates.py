"""Which security updates an image lacks, by what the archive's security suite offers now.

The suite's signed index is fetched with the host's apt in a private root; the host's own lists are not touched. It
is kept for an hour. Whatever keeps the answer from being known is an UpdatesUnknownError, never an empty answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from debian.deb822 import Deb822
from debian.debian_support import Version
from pydantic import AwareDatetime, ValidationError

from kiosk import clock, files
from kiosk.audit.model import Package, Update, UpdatesUnknownError
from kiosk.errors import MissingToolError
from kiosk.model.base import Document
from kiosk.run import CommandError, run

FRESH = timedelta(hours=1)
SECONDS = 120
LARGEST_INDEX = 256 << 20
_RELEASE = re.compile(r"[a-z][a-z0-9-]{1,30}")
_COMPONENTS = "main contrib non-free"
_BEFORE_FIRMWARE = ("stretch", "buster", "bullseye")
"""Releases without the component non-free-firmware: microcode and the like was in non-free."""
_FIELDS = ["Package", "Version", "Source"]


class Offer(Document):
    """The newest version of each binary package and each source package in a security suite."""

    schema_: Literal["kiosk.updates/1"] = "kiosk.updates/1"
    date: AwareDatetime
    packages: dict[str, str]
    sources: dict[str, str]


@dataclass(frozen=True)
class ArchiveUpdates:
    """Asks Debian's security archive. `uri` names the archive for a release, `keyring` the file of its keys,
    `cache` the folder in which answers are kept."""

    uri: Callable[[str], str]
    keyring: Callable[[], Path]
    cache: Path
    now: clock.Clock = clock.now

    def missing(self, os: str, release: str, packages: tuple[Package, ...]) -> tuple[Update, ...]:
        """The updates that are offered and not installed, by package."""
        if os != "debian" or not _RELEASE.fullmatch(release):
            raise UpdatesUnknownError(
                f"there is no way to ask for updates of {os or 'this system'} {release}"
            )
        if not packages:
            raise UpdatesUnknownError("the image's packages are not known")
        offer = self._kept(release) or self._fetched(release)
        return tuple(compare(packages, offer))

    def _file(self, release: str) -> Path:
        return self.cache / f"updates-{release}.json"

    def _kept(self, release: str) -> Offer | None:
        try:
            offer = Offer.model_validate_json(self._file(release).read_bytes())
        except (OSError, ValidationError):
            return None
        return offer if timedelta(0) <= self.now() - offer.date < FRESH else None

    def _fetched(self, release: str) -> Offer:
        with files.scratch(self.cache, prefix="updates-") as folder:
            try:
                offer = fetch(folder, self.uri(release), release, self.keyring(), self.now())
            except (CommandError, MissingToolError) as e:
                last = (
                    (e.output.strip().splitlines() or [e.what])[-1] if isinstance(e, CommandError) else e.what
                )
                raise UpdatesUnknownError(f"the security archive can't be asked: {last[:300]}") from None
        files.write(self._file(release), offer.to_json())
        return offer


def fetch(folder: Path, uri: str, release: str, keyring: Path, date: datetime) -> Offer:
    """Fetches and reads the index of a release's security suite, with apt, which checks its signature."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    suite = f"{release}/updates" if release in ("stretch", "buster") else f"{release}-security"
    components = _COMPONENTS if release in _BEFORE_FIRMWARE else f"{_COMPONENTS} non-free-firmware"
    (folder / "sources.list").write_text(
        f"deb [arch=amd64 signed-by={keyring}] {uri} {suite} {components}\n", encoding="utf-8"
    )
    (folder / "apt.conf").write_text(_configuration(folder), encoding="utf-8")
    apt: list[str | Path] = ["apt-get", "-q", "-c", folder / "apt.conf"]
    run([*apt, "update"], timeout=SECONDS)
    listed = run([*apt, "indextargets", "--format", "$(FILENAME)", "Created-By: Packages"], timeout=SECONDS)
    indexes = [Path(line) for line in listed.splitlines() if line]
    if not any(index.is_file() for index in indexes):
        raise UpdatesUnknownError(f"the security archive has no index for {release}")
    return read_indexes((i for i in indexes if i.is_file()), date)


def _configuration(folder: Path) -> str:
    """apt's options for a private root, over the host's own: how the archive is reached stays what it is."""
    settings = {
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
        "Acquire::Languages": "none",
        "Acquire::GzipIndexes": "false",
        "Acquire::Retries": "2",
    }
    cleared = ("APT::Architectures", "APT::Update::Pre-Invoke", "APT::Update::Post-Invoke",
               "APT::Update::Post-Invoke-Success", "DPkg::Post-Invoke")  # fmt: skip
    lines = [f"#clear {name};" for name in cleared]
    return "\n".join(lines + [f'{key} "{value}";' for key, value in settings.items()]) + "\n"


def read_indexes(indexes: Iterable[Path], date: datetime) -> Offer:
    """The newest versions in `Packages` files."""
    packages: dict[str, str] = {}
    sources: dict[str, str] = {}
    for index in indexes:
        if index.stat().st_size > LARGEST_INDEX:
            raise UpdatesUnknownError("the security archive's index is larger than can be")
        with index.open(encoding="utf-8", errors="replace") as f:
            for stanza in Deb822.iter_paragraphs(f, fields=_FIELDS, use_apt_pkg=False):
                name, version = stanza.get("Package", ""), stanza.get("Version", "")
                source, _, other = stanza.get("Source", name).partition(" ")
                _newest(packages, name, version)
                _newest(sources, source, other.strip("() ") or version)
    return Offer(date=date, packages=packages, sources=sources)


def _newest(into: dict[str, str], name: str, version: str) -> None:
    if name and version and (name not in into or Version(version) > Version(into[name])):
        into[name] = version


def compare(packages: Iterable[Package], offer: Offer) -> list[Update]:
    """What is newer in the offer: the package, or, where its name is new (kernels), its source."""
    found = []
    for p in packages:
        available = offer.packages.get(p.name)
        if available is not None:
            if _newer(available, p.version):
                found.append(Update(p.name, p.version, available))
        elif (available := offer.sources.get(p.source)) is not None and _newer(available, p.source_version):
            found.append(Update(p.name, p.source_version, f"{available} of its source {p.source}"))
    return found


def _newer(one: str, other: str) -> bool:
    try:
        return bool(Version(one) > Version(other))
    except ValueError:
        return one != other
