"""Images for a program of one's own, which is told of events as vmcatcher tells its handlers.

The same events in the same order and the same variables in its environment; the event is in VMCATCHER_EVENT_TYPE and
KIOSK_EVENT. It has a minute unless the configuration says otherwise, no terminal, and
what it prints is shown where it fails. An event whose program failed is told again, so programs must bear that.
"""

from __future__ import annotations

import contextlib
import shlex
import uuid
from collections.abc import Iterable
from pathlib import Path

from kiosk.cloud import untrusted
from kiosk.errors import KioskError, StorageError
from kiosk.files import storage_errors
from kiosk.handover.settings import Event, HookTable
from kiosk.model.manifest import ImageManifest
from kiosk.model.names import Ref
from kiosk.pipe import told
from kiosk.sync.host import HostCache, Installed

OFFER: tuple[Event, ...] = ("ProcessPrefix", "AvailablePrefix", "AvailablePostfix", "ProcessPostfix")
IDENTITY = uuid.UUID("5f0c3b0e-4a7e-5b77-9d39-0a8f5c0a6d11")
"""Under which an image's name has its identifier (a UUID of version 5)."""


class HookDriver:
    """The driver of one program."""

    def __init__(self, table: HookTable, cache: HostCache) -> None:
        self.table = table
        self.cache = cache

    @property
    def place(self) -> str:
        """The command."""
        return f"hook {shlex.join(self.table.run)}"

    def stands(self, version: Installed) -> bool:
        """The record decides: what the program did is its own business."""
        return True

    def offer(self, version: Installed) -> None:
        """Tells that a version is there."""
        for event in OFFER:
            self._tell(event, version.ref, self._about(version))

    def withdraw(self, ref: Ref) -> None:
        """Tells that a version is about to go; a program that fails keeps it."""
        about: dict[str, str] = {}
        folder = self.cache.version_folder(ref)
        with contextlib.suppress(KioskError), storage_errors(folder):  # a damaged version goes all the same
            about = self._about(Installed(ref, self.cache.read(ref), folder, current=False))
        self._tell("ExpirePrefix", ref, about)

    def removed(self, ref: Ref) -> None:
        """Tells that a version is gone."""
        self._tell("ExpirePostfix", ref, {})

    def held(self) -> set[Ref]:
        """The record knows."""
        return set()

    def disks(self) -> Iterable[Path]:
        """Not known; the processes that use them are."""
        return ()

    def _tell(self, event: Event, ref: Ref, about: dict[str, str]) -> None:
        if event not in self.table.events:
            return
        env = {**_names(event, ref), **about}
        try:
            ended = told(self.table.run, timeout=self.table.timeout, env=env)
        except OSError as e:
            raise StorageError(f"can't be run: {e.strerror}", where=self.table.run[0]) from None
        if ended.status == 0 and not ended.late:
            return
        how = (
            f"was not done after {self.table.timeout:.0f} s"
            if ended.late
            else f"ended with status {ended.status}"
        )
        said = "\n".join(f"  {untrusted.line(line, limit=300)}" for line in ended.lines[-10:])
        raise HookError(
            f"the hook {how} at {event} of {ref}\n{said}".rstrip(), where=shlex.join(self.table.run)
        )

    def _about(self, version: Installed) -> dict[str, str]:
        """What is known of a version, in vmcatcher's words and in ours."""
        manifest = version.manifest
        assert isinstance(manifest, ImageManifest)
        disk = manifest.artifacts["disk"]
        path = str((version.folder / disk.file).absolute())
        return {
            "VMCATCHER_EVENT_DC_DESCRIPTION": untrusted.line(manifest.description, limit=1000),
            "VMCATCHER_EVENT_DC_TITLE": manifest.name,
            "VMCATCHER_EVENT_FILENAME": path,
            "VMCATCHER_EVENT_HV_FORMAT": "raw",
            "VMCATCHER_EVENT_HV_HYPERVISOR": "QEMU,KVM",
            "VMCATCHER_EVENT_HV_SIZE": str(disk.size),
            "VMCATCHER_EVENT_HV_URI": f"file://{path}",
            "VMCATCHER_EVENT_SL_ARCH": manifest.architecture,
            "VMCATCHER_EVENT_SL_OS": untrusted.line(manifest.os, limit=100),
            "VMCATCHER_EVENT_SL_OSVERSION": untrusted.line(manifest.release, limit=100),
            "KIOSK_FOLDER": str(version.folder.absolute()),
            "KIOSK_DISK": path,
            "KIOSK_DIGEST": disk.digest,
            "KIOSK_SIZE": str(disk.size),
        }


class HookError(KioskError):
    """A hook that failed."""


def _names(event: str, ref: Ref) -> dict[str, str]:
    return {
        "VMCATCHER_EVENT_TYPE": event,
        "VMCATCHER_EVENT_DC_IDENTIFIER": str(uuid.uuid5(IDENTITY, ref.base)),
        "VMCATCHER_EVENT_HV_VERSION": str(ref.version),
        "KIOSK_EVENT": event,
        "KIOSK_NAME": ref.base,
        "KIOSK_VERSION": str(ref.version),
    }
