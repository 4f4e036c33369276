"""A golden node that is a domain of libvirt, by the program virsh: frozen, copied by libvirt's own backup, thawed.

The same guarantees as in `qemu`, with one difference that libvirt brings along: while its backup runs, a write of
the node's waits until what it overwrites is saved in the copy, and fails when the copy's file system is full. So
nothing is begun where there is no room for the whole copy.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from kiosk.cloud import untrusted
from kiosk.cloud.qemu.agent import result_of
from kiosk.errors import BusyError, GuestError, KioskError, NetworkError, NotFoundError, StorageError
from kiosk.files import free_bytes, storage_errors
from kiosk.golden import convert, hooks
from kiosk.golden.capture import Answer, Capture
from kiosk.golden.freezing import Window, frozen
from kiosk.golden.settings import LibvirtSettings
from kiosk.log import logger
from kiosk.pipe import told
from kiosk.progress import bar
from kiosk.run import CommandError

log = logger(__name__)

SHORT, LONG = 30.0, 120.0
ROOM = 64 << 20
UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


@dataclass(frozen=True)
class LibvirtSource:
    """Captures the disk of the domain that the settings name."""

    settings: LibvirtSettings

    def describe(self) -> str:
        """The node, on one line."""
        return f"the domain {self.settings.domain} of {self.settings.uri}"

    def capture(self, folder: Path) -> Capture:
        """Copies the disk as it is at one moment to `disk.raw` in `folder`."""
        wanted = self.settings
        copy = (wanted.folder or folder) / f"kiosk-golden-{wanted.domain}.qcow2"
        disk = folder / "disk.raw"
        try:
            with storage_errors(folder):
                window, warnings = self._copied(copy, folder)
                self._to_raw(copy, disk)
        except BaseException:
            disk.unlink(missing_ok=True)
            raise
        finally:
            copy.unlink(missing_ok=True)
        how = "frozen by the guest agent" if window else "not frozen"
        return Capture(
            method=f"live backup by libvirt, {how}",
            disk=disk,
            frozen_seconds=window.seconds if window else None,
            warnings=warnings,
        )

    def run(self, argv: Sequence[str], *, timeout: float) -> Answer:
        """Runs a command in the node by its guest agent."""
        until = time.monotonic() + timeout
        command = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        pid = self._agent("guest-exec", command).get("pid")
        pause = 0.1
        while True:
            status = self._agent("guest-exec-status", {"pid": pid})
            if status.get("exited") is True:
                result = result_of(status)
                text = (result.stdout + result.stderr).decode(errors="replace")
                return Answer(result.status, untrusted.printable(text, limit=1 << 20))
            if time.monotonic() > until:
                raise GuestError(
                    f"`{shlex.join(argv)}` was not done after {timeout:.0f} s (it goes on in the node)"
                )
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)

    # -- how ------------------------------------------------------------------------------------------

    def _copied(self, copy: Path, folder: Path) -> tuple[Window | None, tuple[str, ...]]:
        wanted = self.settings
        if self._virsh("domstate").strip() != "running":
            raise GuestError(
                "the domain is not running", where=wanted.domain, hint='Capture its disk: kind = "disk".'
            )
        left = self._end_left_job()
        copy.unlink(missing_ok=True)
        target = self._target()
        self._check_room(target, {copy.parent, folder})
        request = folder / "backup.xml"
        request.write_text(
            f"<domainbackup mode='push'><disks><disk name={quoteattr(target)} backup='yes' type='file'>"
            f"<driver type='qcow2'/><target file={quoteattr(str(copy))}/></disk></disks></domainbackup>",
            encoding="utf-8",
        )
        try:
            with self._frozen() as window:
                self._virsh("backup-begin", "--backupxml", str(request), timeout=wanted.window + SHORT)
            self._wait(copy.parent)
        except BaseException:
            self._abort()
            raise
        finally:
            request.unlink()
        warnings = window.warnings if window else ()
        return window, (*warnings, "a copy that an earlier kiosk left was ended") if left else warnings

    @contextlib.contextmanager
    def _frozen(self) -> Iterator[Window | None]:
        wanted = self.settings
        if not wanted.freeze:
            yield None
            return
        self._answers()
        with contextlib.suppress(GuestError):
            self.run(["sync"], timeout=60)
        spec = {"kind": "libvirt", "uri": wanted.uri, "domain": wanted.domain}
        with frozen(spec, window=wanted.window) as window:
            yield window

    def _target(self) -> str:
        """The disk's target, such as vda."""
        rows = [line.split(None, 3) for line in self._virsh("domblklist", "--details").splitlines()]
        found = [row[2] for row in rows if len(row) == 4 and row[1] == "disk"]
        wanted = self.settings.disk
        if wanted is None and len(found) == 1:
            return found[0]
        if wanted in found:
            return str(wanted)
        raise NotFoundError(
            f"there is no disk {wanted}" if wanted else f"the domain has {len(found)} disks",
            where=self.settings.domain,
            hint=f"Set `disk` in [source] to one of: {', '.join(found) or '(none)'}",
        )

    def _check_room(self, target: str, folders: set[Path]) -> None:
        info = _fields(self._virsh("domblkinfo", "--device", target))
        used = int(info.get("Allocation") or 0)
        devices: dict[int, tuple[Path, int]] = {}
        for folder in folders:
            device = folder.stat().st_dev
            devices[device] = (folder, devices.get(device, (folder, 0))[1] + used)
        if len(folders) == 1:
            devices = {number: (folder, 2 * used) for number, (folder, used) in devices.items()}
        for folder, needed in devices.values():
            free = free_bytes(folder)
            if free < needed + ROOM:
                raise StorageError(
                    f"the copy needs about {needed + ROOM >> 20} MiB, and there are {free >> 20} MiB",
                    where=str(folder),
                )

    def _wait(self, folder: Path) -> None:
        """Waits for the end of the backup. StorageError, GuestError."""
        until = time.monotonic() + self.settings.timeout
        with bar(f"copy {self.settings.domain}", None) as progress:
            while (job := _fields(self._virsh("domjobinfo"))).get("Job type", "None") != "None":
                progress.total = _bytes(job.get("File total")) or None
                progress.update((_bytes(job.get("File processed")) or 0) - progress.n)
                if time.monotonic() > until:
                    raise GuestError(
                        f"the disk was not copied after {self.settings.timeout:.0f} s",
                        hint="Raise `timeout` in [source]. Nothing was kept.",
                    )
                time.sleep(0.3)
        done = _fields(self._virsh("domjobinfo", "--completed"))
        if done.get("Job type") != "Completed" or done.get("Operation") != "Backup":
            what = done.get("Error message") or f"the backup is {done.get('Job type', 'gone').lower()}"
            if convert.FULL.search(what):
                raise StorageError(
                    "no space left for the copy of the disk; nothing was kept", where=str(folder)
                )
            raise GuestError(f"the disk could not be copied: {untrusted.line(what, limit=500)}")

    def _end_left_job(self) -> bool:
        """Ends a backup that a killed kiosk left; BusyError where the domain has another job."""
        job = _fields(self._virsh("domjobinfo"))
        if job.get("Job type", "None") == "None":
            return False
        try:
            if job.get("Operation") == "Backup" and "/kiosk-golden-" in self._virsh("backup-dumpxml"):
                self._virsh("domjobabort", timeout=LONG)
                return True
        except GuestError:
            if _fields(self._virsh("domjobinfo")).get("Job type", "None") != "None":
                raise
            return True  # it came to its own end meanwhile
        raise BusyError(
            f"libvirt has another job for it: {untrusted.line(str(job.get('Operation')), limit=100)}",
            where=self.settings.domain,
            hint="Wait until it has finished and run the command again.",
        )

    def _abort(self) -> None:
        """Ends our backup where it still runs."""
        try:
            self._end_left_job()
        except KioskError as e:
            log.warning("what kiosk began in libvirt may be left (the next capture ends it): %s", e)

    def _answers(self) -> None:
        """Makes sure that the guest agent is there, before anything waits for it. GuestError."""
        seconds = str(max(1, round(self.settings.answer)))
        try:
            self._virsh("qemu-agent-command", "--timeout", seconds, "--cmd", '{"execute": "guest-ping"}')
        except GuestError as e:
            raise GuestError(
                f"the node can't be frozen: {e.what}",
                where=self.settings.domain,
                hint="Start qemu-guest-agent in the node; freeze = false captures as after a power cut. "
                "Nothing was captured.",
            ) from None

    def _agent(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps({"execute": command, "arguments": arguments})
        said = self._virsh("qemu-agent-command", "--timeout", "15", "--cmd", text)
        try:
            found = json.loads(said)["return"]
        except (ValueError, KeyError, TypeError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise GuestError(
                "the guest agent answered with something that is no object", where=self.settings.domain
            )
        return found

    def _virsh(self, command: str, *words: str, timeout: float = SHORT) -> str:
        """Runs virsh on the domain and returns what it printed."""
        wanted = self.settings
        ended = told(
            ["virsh", "-q", "-c", wanted.uri, command, "--domain", wanted.domain, *words], timeout=timeout
        )
        if ended.status == 0:
            return ended.text
        what = f"virsh {command}: {hooks.last_lines(ended.text, 5).strip() or 'no answer'}"
        if ended.late:
            raise GuestError(f"virsh {command} was not done after {timeout:.0f} s", where=wanted.domain)
        if "failed to connect" in ended.text:
            raise NetworkError(what, where=wanted.uri)
        if "failed to get domain" in ended.text:
            raise NotFoundError(what, where=wanted.uri)
        raise GuestError(what, where=wanted.domain)

    def _to_raw(self, copy: Path, disk: Path) -> None:
        try:
            convert.to_raw(convert.alone(copy, "qcow2"), disk, timeout=self.settings.timeout)
        except CommandError as e:
            if convert.FULL.search(e.output):
                raise StorageError("no space left for the copy of the disk", where=str(disk.parent)) from None
            raise


def _fields(text: str) -> dict[str, str]:
    """The lines `name: value` that virsh prints."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def _bytes(text: str | None) -> int | None:
    """A size as virsh prints it: 1.250 GiB."""
    number, _, unit = (text or "").partition(" ")
    try:
        return int(float(number) * UNITS[unit])
    except (ValueError, KeyError):
        return None
