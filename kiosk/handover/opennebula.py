"""Images for OpenNebula: a file of host attributes, which kiosk's probe prints on this host.

    KIOSK_IMAGES="debian-12-worker@20260301.1,debian-12-worker@20260228.1"
    KIOSK_CURRENT_DEBIAN_12_WORKER="debian-12-worker@20260301.1"
    KIOSK_HAS_DEBIAN_12_WORKER=1

So VMs can be placed on hosts that hold their image, and the transfer driver makes their disks from the cache of the
host (`server/opennebula`). A version leaves the attributes before it leaves the host.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kiosk.errors import BusyError
from kiosk.files import remove_leftovers, write
from kiosk.handover.files import within
from kiosk.handover.folder import trusted
from kiosk.handover.settings import OpenNebulaTable
from kiosk.model.names import ImageRef, Ref, with_version
from kiosk.sync import holders
from kiosk.sync.host import HostCache, Installed

FILE = "opennebula.attributes"
LARGEST = 1 << 20


class OpenNebulaDriver:
    """The driver of one host."""

    def __init__(self, table: OpenNebulaTable, cache: HostCache) -> None:
        self.table = table
        self.cache = cache
        self.file = table.attributes or cache.folder / FILE

    @property
    def place(self) -> str:
        """The file."""
        return f"opennebula {self.file}"

    def stands(self, version: Installed) -> bool:
        """Whether the file says what is here now."""
        return self._read() == self._attributes(())

    def offer(self, version: Installed) -> None:
        """Writes what is here now."""
        self._write(self._attributes(()))

    def withdraw(self, ref: Ref) -> None:
        """Takes a version out of the attributes; BusyError where a VM's disk is built on it."""
        folder = self.cache.version_folder(ref)
        files = dict.fromkeys(folder.iterdir(), "it") if folder.is_dir() else {}
        found = holders.find(files, self.disks())
        if who := sorted(found.of.get("it", ())) or ([found.unknown] if found.unknown else []):
            raise BusyError(f"in use: {', '.join(who)}", where=str(ref))
        if self._read() is not None:
            self._write(self._attributes((ref,)))

    def removed(self, ref: Ref) -> None:
        """Nothing is left to do."""

    def held(self) -> set[Ref]:
        """The versions that the attributes name."""
        for line in (self._read() or b"").decode(errors="replace").splitlines():
            name, _, value = line.partition("=")
            if name == "KIOSK_IMAGES":
                return {ImageRef.parse(word) for word in value.strip('"').split(",") if word}
        return set()

    def disks(self) -> Iterable[Path]:
        """The disks of all VMs that OpenNebula has on this host: DATASTORES/DATASTORE/VM/disk.N, with snapshots."""
        return (p for p in within([self.table.datastores], depth=3) if p.parent != self.table.datastores)

    def _read(self) -> bytes | None:
        try:
            with self.file.open("rb") as f:
                return f.read(LARGEST)
        except OSError:
            return None

    def _write(self, attributes: bytes) -> None:
        trusted(self.file.parent)
        remove_leftovers(self.file)
        write(self.file, attributes)

    def _attributes(self, without: Iterable[Ref]) -> bytes:
        """The attributes. Names are of letters, digits, dots and hyphens, so that nothing needs quoting."""
        lines, images = [], []
        for name in self.cache.names():
            if not self.table.takes(name):
                continue
            here = [with_version(name, v) for v in reversed(self.cache.versions(name))]
            images += [str(ref) for ref in here if ref not in without]
            current = self.cache.current(name)
            if current is not None:
                key = name.base.upper().replace("-", "_")
                lines += [f'KIOSK_CURRENT_{key}="{with_version(name, current)}"', f"KIOSK_HAS_{key}=1"]
        return "\n".join([f'KIOSK_IMAGES="{",".join(images)}"', *lines, ""]).encode()
