"""A golden node's disk that nothing writes: a file, a block device, or a snapshot that hooks make and drop.

The copy is raw and sparse. Formats are told, never guessed: a raw disk whose guest wrote a qcow2 header on it is
still a raw disk. No file is read that the definition doesn't name, whatever the header of a qcow2 says.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiosk.errors import BuildError, BusyError, NotFoundError, PolicyError, StorageError, UsageError
from kiosk.files import storage_errors
from kiosk.golden import convert, hooks
from kiosk.golden.capture import Answer, Capture, Format
from kiosk.golden.settings import DiskSettings
from kiosk.progress import bar
from kiosk.run import CommandError, run

HOOK_TIME = 600.0
LOCKED = ("Failed to get", "Is another process using the image")


@dataclass(frozen=True)
class DiskSource:
    """Copies the disk that the settings name."""

    settings: DiskSettings

    def describe(self) -> str:
        """The node, on one line."""
        return f"the disk {self.settings.path} ({self.settings.format})"

    def capture(self, folder: Path) -> Capture:
        """Copies the disk to `disk.raw` in `folder`."""
        wanted = self.settings
        target = folder / "disk.raw"
        try:
            with hooks.around(wanted.before, wanted.after, hooks.here(HOOK_TIME)), storage_errors(folder):
                kind = _unused(wanted.path)
                if wanted.format == "qcow2":
                    self._check_qcow2()
                with bar(f"copy {wanted.path.name}", None, unit="disk"):
                    self._convert(target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        snapshot = " after a hook" if wanted.before is not None else ""
        return Capture(method=f"copy of a {kind} ({wanted.format}){snapshot}", disk=target)

    def run(self, argv: Sequence[str], *, timeout: float) -> Answer:
        """A disk runs nothing."""
        raise UsageError(
            "a command can't be run in a disk", hint="Run the readiness hook on the builder, or leave it out."
        )

    def _convert(self, target: Path) -> None:
        try:
            convert.to_raw(self._image(), target, timeout=self.settings.timeout)
        except CommandError as e:
            raise self._explained(e) from None

    def _image(self) -> dict[str, Any]:
        """The disk as QEMU's block layer is told: every file by its name, so that no header names another."""
        wanted = self.settings
        image = convert.alone(wanted.path, wanted.format)
        if wanted.backing is not None:
            image["backing"] = convert.alone(wanted.backing, wanted.backing_format)
        return image

    def _check_qcow2(self) -> None:
        wanted = self.settings
        found = self._header(wanted.path, wanted.format)
        backing = found.get("full-backing-filename") or found.get("backing-filename")
        if wanted.backing is None and backing is not None:
            raise PolicyError(
                f"needs the backing file {str(backing)[:500]!r}, which the definition does not name",
                where=str(wanted.path),
                hint="Set `backing` and `backing_format` in [source], or flatten the disk with qemu-img convert.",
            )
        if wanted.backing is None:
            return
        if backing is None or Path(str(backing)) != wanted.backing:
            raise PolicyError(
                f"has the backing file {str(backing)[:500]!r} and not {str(wanted.backing)!r} as its definition says",
                where=str(wanted.path),
            )
        _unused(wanted.backing)
        below = self._header(wanted.backing, wanted.backing_format)
        if "backing-filename" in below:
            raise PolicyError("has a backing file itself; only one is taken", where=str(wanted.backing))

    def _header(self, path: Path, format: Format) -> dict[str, Any]:
        """What an image's header says; refuses what can't be copied faithfully."""
        try:
            text = run(
                ["qemu-img", "info", "--output=json", convert.named(convert.alone(path, format))], timeout=60
            )
        except CommandError as e:
            raise self._explained(e) from None
        found = json.loads(text)
        if not isinstance(found, dict):
            raise BuildError("qemu-img says nothing about it", where=str(path))
        data = found.get("format-specific", {}).get("data", {})
        if found.get("encrypted") or "encrypt" in data:
            raise PolicyError("is encrypted: kiosk has no key for it", where=str(path))
        if "data-file" in data:
            raise PolicyError(
                f"keeps its content in another file, {str(data['data-file'])[:500]!r}", where=str(path)
            )
        return found

    def _explained(self, error: CommandError) -> Exception:
        where = str(self.settings.path)
        text = error.output
        if "lock" in text and any(sign in text for sign in LOCKED):
            return BusyError(
                "another process (a running VM?) has this disk locked; a copy of it would not be consistent",
                where=where,
                hint='Capture the running VM (kind = "qemu" or "libvirt"), take a snapshot in `before`, or stop it.',
            )
        if convert.FULL.search(text):
            return StorageError("no space left for the copy of the disk", where=where)
        if "not in qcow2 format" in text:
            return BuildError(f"is not a {self.settings.format} disk", where=where, hint="Correct `format`.")
        return BuildError(f"can't be copied:\n{hooks.last_lines(text)}", where=where)


def _unused(path: Path) -> str:
    """What the path is; BusyError for a block device that is mounted or otherwise in use here."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return "file"
        if not stat.S_ISBLK(mode):
            raise UsageError("is neither a file nor a block device", where=str(path))
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL))
    except FileNotFoundError:
        raise NotFoundError("there is no such disk", where=str(path)) from None
    except OSError as e:
        if e.errno == errno.EBUSY:
            raise BusyError(
                "is in use (mounted?); a copy of it would not be consistent",
                where=str(path),
                hint="Name a snapshot of it, made by `before` and dropped by `after`.",
            ) from None
        raise
    return "block device"
