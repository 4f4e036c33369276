"""Images as logical volumes of a volume group.

    NAME              the newest version, read-only: take snapshots of it (lvcreate -s), don't run on it
    NAME_VERSION      versions before it
    NAME_VERSION.new  one that is being written

A volume is written through the device writer, read again and compared with the signed digest, and only then takes
NAME. LVM has no rename over another volume, so for a moment, and after a kill until the next call, there may be no
NAME; there is never a wrong one. Volumes without kiosk's tag are not touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kiosk.cloud import untrusted
from kiosk.errors import BusyError, CorruptError, StorageError
from kiosk.handover.settings import LvmTable
from kiosk.model.names import NAME, VERSION, ImageRef, Ref
from kiosk.progress import bar
from kiosk.run import CommandError, run
from kiosk.store.device import Device
from kiosk.store.index import BLOCK
from kiosk.store.objects import Progress
from kiosk.sync.host import Installed

DEVICES = Path("/dev")
TAG = "kiosk"
PIECE = 1 << 20
SECTOR = 512
SHORT = 120.0
VOLUME = re.compile(rf"({NAME})_({VERSION})(\.new)?")


@dataclass(frozen=True)
class Volume:
    """A volume that kiosk made: `version` is told by its tag, `written` that it is read-only, as it
    becomes once it was read again; `whole` that it has a name for use."""

    name: str
    ref: ImageRef
    whole: bool
    open: bool
    written: bool


class LvmDriver:
    """The driver of one volume group."""

    def __init__(self, table: LvmTable) -> None:
        self.table = table
        self.group = table.group

    @property
    def place(self) -> str:
        """The volume group."""
        return f"lvm {self.group}"

    def stands(self, version: Installed) -> bool:
        """Whether NAME is this version."""
        found = self._volumes().get(version.ref.base)
        return found is not None and found.whole and found.ref == version.ref

    def offer(self, version: Installed) -> None:
        """Writes the version into a volume of its own, and gives it the name."""
        ref = version.ref
        assert isinstance(ref, ImageRef)
        disk = version.manifest.artifacts["disk"]
        names = self._volumes()
        current = names.get(ref.name)
        if current is None:
            self._refuse_strangers(ref.name)
        elif current.whole and current.ref == ref:
            return
        ready, new = f"{ref.name}_{ref.version}", f"{ref.name}_{ref.version}.new"
        if ready not in names:
            if new not in names:
                self._create(new, ref, disk.size)
            if new not in names or not names[new].written:
                device = DEVICES / self.group / new
                self._write(version.folder / disk.file, device, disk.size, disk.digest)
                self._lvm("lvchange", "--permission", "r", f"{self.group}/{new}")
            self._rename(new, ready)
        if current is not None:
            self._rename(ref.name, f"{ref.name}_{current.ref.version}")
        self._rename(ready, ref.name)

    def withdraw(self, ref: Ref) -> None:
        """Removes a version's volume; BusyError where it is NAME, open, or a snapshot needs it."""
        for found in self._volumes().values():
            if found.ref != ref:
                continue
            if found.name == ref.base:
                raise BusyError("new VMs get it", where=f"{self.group}/{found.name}")
            if found.open or self._snapshots(found.name):
                raise BusyError("in use", where=f"{self.group}/{found.name}")
            self._lvm("lvremove", "--yes", f"{self.group}/{found.name}")

    def removed(self, ref: Ref) -> None:
        """Nothing is left to do."""

    def held(self) -> set[Ref]:
        """The versions that have a whole volume."""
        return {found.ref for found in self._volumes().values() if found.whole}

    def disks(self) -> Iterable[Path]:
        """None: volumes hold bytes of their own, and nothing on them stands on the cache."""
        return ()

    # -- how ------------------------------------------------------------------------------------------

    def _create(self, name: str, ref: ImageRef, size: int) -> None:
        sectors = -(-size // SECTOR) * SECTOR
        tags = ["--addtag", TAG, "--addtag", f"{TAG}.version.{ref.version}"]
        common = ["--yes", "--wipesignatures", "n", *tags, "--name", name]
        if self.table.thin_pool is not None:
            pool = f"{self.group}/{self.table.thin_pool}"
            self._lvm(
                "lvcreate", "--type", "thin", "--virtualsize", f"{sectors}b", *common, "--thinpool", pool
            )
        else:
            self._lvm("lvcreate", "--type", "linear", "--size", f"{sectors}b", *common, self.group)

    def _rename(self, old: str, new: str) -> None:
        self._lvm("lvrename", self.group, old, new)

    def _volumes(self) -> dict[str, Volume]:
        """The volumes that have kiosk's tag, by name."""
        found = {}
        for row in self._report("lv_name,lv_tags,lv_attr,lv_device_open"):
            tags = row["lv_tags"].split(",")
            versions = [t.removeprefix(f"{TAG}.version.") for t in tags if t.startswith(f"{TAG}.version.")]
            if TAG not in tags or len(versions) != 1 or not re.fullmatch(VERSION, versions[0]):
                continue
            name = row["lv_name"]
            parts = VOLUME.fullmatch(name)
            base = parts[1] if parts else name
            if re.fullmatch(NAME, base):
                ref = ImageRef.parse(f"{base}@{versions[0]}")
                whole = parts is None or parts[3] is None
                found[name] = Volume(
                    name, ref, whole, row["lv_device_open"] != "0", row["lv_attr"][1:2] == "r"
                )
        return found

    def _snapshots(self, name: str) -> list[str]:
        """Thick snapshots of a volume, which would go with it. Thin ones stay when their origin goes."""
        rows = self._report("lv_name,origin,pool_lv")
        return [row["lv_name"] for row in rows if row["origin"] == name and not row["pool_lv"]]

    def _refuse_strangers(self, name: str) -> None:
        if any(row["lv_name"] == name for row in self._report("lv_name")):
            raise StorageError(
                "is a volume that kiosk did not make",
                where=f"{self.group}/{name}",
                hint="Rename it: lvrename",
            )

    def _report(self, columns: str) -> list[dict[str, str]]:
        said = self._lvm("lvs", "--reportformat", "json", "--binary", "--options", columns, self.group)
        try:
            rows = json.loads(said)["report"][0]["lv"]
            return [{key: str(row[key]) for key in columns.split(",")} for row in rows]
        except (ValueError, KeyError, IndexError, TypeError) as e:
            raise StorageError(f"lvs printed something else than its report: {e}", where=self.group) from None

    def _lvm(self, command: str, *words: str) -> str:
        try:
            return run([command, *words], timeout=SHORT)
        except CommandError as e:
            said = untrusted.line(e.output[-2000:], limit=1000)
            raise StorageError(f"{command}: {said or e.what}", where=self.group) from None

    def _write(self, disk: Path, device: Path, size: int, digest: str) -> None:
        with bar(f"write {device.name}", 2 * size) as progress, Device(device, size) as target:
            with disk.open("rb") as source:
                fill(target, source, progress.update)
            target.finish()
            _drop_cache(target.fd)
            if _digest(target.fd, size, progress.update) != digest:
                raise CorruptError(
                    "what was written is not what is read again",
                    where=str(device),
                    hint="See dmesg. Nothing uses it.",
                )


def fill(target: Device, source: BinaryIO, progress: Progress) -> None:
    """Makes a device the same as a file, to the file's end; what is right on it is not written again."""
    at = 0
    while data := source.read(PIECE):
        if os.pread(target.fd, len(data), at) != data:
            target.write(memoryview(data), at // BLOCK)
        at += len(data)
        progress(len(data))


def _drop_cache(fd: int) -> None:
    """What is read next comes from the device."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _digest(fd: int, size: int, progress: Progress) -> str:
    digest, at = hashlib.sha256(), 0
    while at < size:
        data = os.pread(fd, min(PIECE, size - at), at)
        if not data:
            break
        digest.update(data)
        at += len(data)
        progress(len(data))
    return f"sha256:{digest.hexdigest()}"
