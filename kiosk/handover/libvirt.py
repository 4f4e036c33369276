"""Images as volumes of a libvirt pool: files in its folder, and libvirt is told to look again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from kiosk.cloud import untrusted
from kiosk.errors import GuestError, NetworkError, NotFoundError, StorageError, UsageError
from kiosk.handover.files import FilesDriver
from kiosk.handover.settings import LibvirtTable
from kiosk.model.names import Ref
from kiosk.pipe import told
from kiosk.sync.host import Installed

SHORT = 30.0
MOST_DOMAINS = 10_000


class LibvirtDriver:
    """The driver of one pool, which must be active and of the type dir, and whose folder must be on this host."""

    def __init__(self, table: LibvirtTable) -> None:
        self.table = table
        self._files: FilesDriver | None = None

    @property
    def place(self) -> str:
        """The pool."""
        return f"libvirt {self.table.uri} {self.table.pool}"

    @property
    def files(self) -> FilesDriver:
        """The driver of the pool's folder."""
        if self._files is None:
            pool = self._xml("pool-dumpxml", "--pool", self.table.pool)
            folder = pool.findtext("target/path") or ""
            if pool.get("type") != "dir" or not folder.startswith("/"):
                raise UsageError(
                    f"is a pool of the type {pool.get('type')}, not dir",
                    where=f"{self.table.uri} {self.table.pool}",
                )
            self._files = FilesDriver(
                Path(folder),
                mode=self.table.mode,
                format=self.table.format,
                watch=self.table.watch,
                more=self._disks_of_domains,
            )
        return self._files

    def stands(self, version: Installed) -> bool:
        """Whether the volume is there, for libvirt too."""
        return self.files.stands(version) and self._has(self.files.file_of(version.ref).name)

    def offer(self, version: Installed) -> None:
        """Puts the file into the pool's folder, and makes sure that libvirt has it as a volume."""
        self.files.offer(version)
        self._refresh()
        name = self.files.file_of(version.ref).name
        if not self._has(name):
            raise StorageError("libvirt does not list the new volume", where=f"{self.table.pool}: {name}")

    def withdraw(self, ref: Ref) -> None:
        """Removes a volume that no domain uses."""
        if self.files.file_of(ref).exists():
            self.files.withdraw(ref)
            self._refresh()

    def removed(self, ref: Ref) -> None:
        """Nothing is left to do."""

    def held(self) -> set[Ref]:
        """The versions that have a volume."""
        return self.files.held()

    def disks(self) -> Iterable[Path]:
        """What is in the pool's folder, and every disk of every domain, running or not."""
        return self.files.disks()

    # -- how ------------------------------------------------------------------------------------------

    def _disks_of_domains(self) -> Iterator[Path]:
        names = [line.strip() for line in self._virsh("list", "--all", "--uuid").splitlines() if line.strip()]
        if len(names) > MOST_DOMAINS:
            raise StorageError(f"there are more than {MOST_DOMAINS} domains", where=self.table.uri)
        for name in names:
            try:
                domain = self._xml("dumpxml", "--domain", name)
            except NotFoundError:
                continue  # it was undefined since
            for source in domain.iterfind("devices/disk//source"):
                if path := source.get("file") or source.get("dev"):
                    yield Path(path)

    def _refresh(self) -> None:
        self._virsh("pool-refresh", "--pool", self.table.pool)

    def _has(self, name: str) -> bool:
        said = self._virsh("vol-list", "--pool", self.table.pool)
        return any(line.split(None, 1)[:1] == [name] for line in said.splitlines())

    def _xml(self, command: str, *words: str) -> ElementTree.Element:
        try:
            return ElementTree.fromstring(self._virsh(command, *words))  # noqa: S314 (libvirt's own)
        except ElementTree.ParseError as e:
            raise GuestError(f"virsh {command} printed no XML: {e}", where=self.table.uri) from None

    def _virsh(self, command: str, *words: str) -> str:
        ended = told(["virsh", "-q", "-c", self.table.uri, command, *words], timeout=SHORT)
        if ended.status == 0 and not ended.cut:
            return ended.text
        if ended.late:
            raise GuestError(f"virsh {command} was not done after {SHORT:.0f} s", where=self.table.uri)
        said = untrusted.line(ended.text[-2000:], limit=1000) or "no answer"
        what = f"virsh {command}: {said}"
        if "failed to connect" in ended.text:
            raise NetworkError(what, where=self.table.uri)
        if "failed to get" in ended.text:
            raise NotFoundError(what, where=self.table.uri)
        hint = f"virsh pool-start {self.table.pool}" if "not active" in ended.text else None
        raise GuestError(what, where=self.table.uri, hint=hint)
