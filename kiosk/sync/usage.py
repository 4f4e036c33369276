"""Which versions of the cache are in use: by kiosk's VMs, by other processes and devices, by other VMs' disks.

A VM of kiosk's uses its image and its layers from the moment that its record is written, before it has opened
anything, until its folder is removed. Where anything can't be looked into, everything counts as in use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kiosk.cloud.qemu import record
from kiosk.errors import UsageError, VerificationError
from kiosk.model.names import Ref, parse_ref, with_version
from kiosk.sync import holders
from kiosk.sync.host import HostCache

GONE = ".gone"
VM = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class Usage:
    """Who uses each version, in words; `unknown` is what could not be looked into."""

    users: Mapping[Ref, tuple[str, ...]] = field(default_factory=dict)
    unknown: str | None = None

    def of(self, ref: Ref) -> tuple[str, ...]:
        """Who uses a version, as far as that was seen."""
        return self.users.get(ref, ())

    def used(self, ref: Ref) -> bool:
        """Whether a version is, or may be, in use."""
        return bool(self.of(ref)) or self.unknown is not None


def look(cache: HostCache, vms: Path, disks: Iterable[Path] = ()) -> Usage:
    """One look at everything. `disks` are disks of VMs that others run, and that may be built on the cache."""
    files = {path: ref for ref, folder in folders(cache) for path in folder.iterdir() if path.is_file()}
    found = holders.find(files, disks)
    users: dict[Ref, set[str]] = dict(found.of)
    unknown = found.unknown
    for folder in sorted(vms.iterdir()) if vms.is_dir() else []:
        if not VM.fullmatch(folder.name) or not folder.is_dir():
            continue
        try:
            vm = record.read(folder)
            refs = vm.refs
        except (VerificationError, UsageError) as e:
            if folder.is_dir() and any(folder.iterdir()):
                unknown = unknown or str(e)
            continue
        for ref in refs:
            mine = users.setdefault(ref, set())
            mine.discard(f"VM {vm.uuid}")
            mine.add(f"VM {vm.id} ({vm.name})")
    return Usage({ref: tuple(sorted(who)) for ref, who in users.items()}, unknown)


def folders(cache: HostCache) -> Iterator[tuple[Ref, Path]]:
    """Every version's folder, also of those that a killed prune had put aside."""
    for name in cache.names():
        for version in cache.versions(name):
            ref = with_version(name, version)
            yield ref, cache.version_folder(ref)
    yield from put_aside(cache)


def aside(cache: HostCache, ref: Ref) -> Path:
    """Where a version's folder is put before it is removed."""
    place = cache.partial_folder(ref)
    return place.with_name(f".{place.name}{GONE}")


def put_aside(cache: HostCache) -> Iterator[tuple[Ref, Path]]:
    """The versions that were put aside and are still there."""
    for folder in sorted((cache.folder / "partial").glob(f".*@*{GONE}")):
        ref = parse_ref(folder.name.removeprefix(".").removesuffix(GONE).replace("_", "/"))
        if folder.is_dir() and not folder.is_symlink():
            yield ref, folder
