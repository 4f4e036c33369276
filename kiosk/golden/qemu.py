"""A golden node that runs in QEMU: its file systems are frozen for the moment in which the state of its disk is
fixed, and it goes on while that state is copied.

Whatever ends kiosk, the node is thawed (see `freezer`), and its own writes never wait for kiosk's disk for longer
than they must (see `blocks`). A kiosk that was killed may leave a copy running in QEMU; the next one ends it.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kiosk.cloud import untrusted
from kiosk.cloud.qemu import agent
from kiosk.cloud.qemu.wire import monitor
from kiosk.errors import GuestError, KioskError, StorageError, UsageError
from kiosk.files import storage_errors
from kiosk.golden import blocks, convert
from kiosk.golden.capture import Answer, Capture
from kiosk.golden.freezing import Window, frozen
from kiosk.golden.settings import QemuSettings
from kiosk.log import logger
from kiosk.run import CommandError

log = logger(__name__)

SYNC = 60.0


@dataclass(frozen=True)
class QemuSource:
    """Captures the disk of the VM that the settings name."""

    settings: QemuSettings

    def describe(self) -> str:
        """The node, on one line."""
        return f"the VM with the monitor {self.settings.monitor}"

    def capture(self, folder: Path) -> Capture:
        """Copies the disk as it is at one moment to `disk.raw` in `folder`."""
        files = [folder / name for name in ("disk.raw", "target.qcow2", "fleece.qcow2")]
        try:
            with storage_errors(folder):
                window, warnings = self._copied(folder)
                target = convert.alone(folder / "target.qcow2", "qcow2")
                self._to_raw(target, folder / "disk.raw")
                for path in files[1:]:
                    path.unlink()
        except BaseException:
            for path in files:
                path.unlink(missing_ok=True)
            raise
        how = "frozen by the guest agent" if window else "not frozen"
        return Capture(
            method=f"live copy by QEMU, {how}",
            disk=folder / "disk.raw",
            frozen_seconds=window.seconds if window else None,
            warnings=warnings + (window.warnings if window else ()),
        )

    def run(self, argv: Sequence[str], *, timeout: float) -> Answer:
        """Runs a command in the node by its guest agent."""
        if self.settings.agent is None:
            raise UsageError(
                f"`{shlex.join(argv)}` can't be run in the node: no `agent` is named in [source]"
            )
        result = agent.execute(self.settings.agent, argv, timeout=timeout)
        text = (result.stdout + result.stderr).decode(errors="replace")
        return Answer(result.status, untrusted.printable(text, limit=1 << 20))

    def _copied(self, folder: Path) -> tuple[Window | None, tuple[str, ...]]:
        """Fixes the state and copies it to `target.qcow2`; takes everything down in QEMU whatever happens."""
        wanted, ours = self.settings, False
        try:
            with monitor(wanted.monitor) as wire:
                ours = True
                blocks.check_version(wire)
                left = blocks.take_down(wire)
                disk = blocks.find(wire, wanted.disk)
                blocks.check_room(folder, disk)
                blocks.prepare(wire, disk, folder)
                with self._frozen() as window:
                    blocks.fix(wire, disk, timeout=wanted.window)
                blocks.copy(
                    wire, folder, speed=wanted.speed, timeout=wanted.timeout, title=f"copy {disk.node}"
                )
                blocks.take_down(wire)
        except BaseException as e:
            if ours and not self._clean() and isinstance(e, GuestError):
                raise GuestError(
                    f"the node's QEMU ended or hangs in the middle of the copy: {e.what}",
                    where=str(wanted.monitor),
                    hint="Nothing was kept.",
                ) from None
            raise
        return window, ("a copy that an earlier kiosk left was ended",) if left else ()

    @contextlib.contextmanager
    def _frozen(self) -> Iterator[Window | None]:
        wanted = self.settings
        if not wanted.freeze or wanted.agent is None:
            yield None
            return
        _answers(wanted.agent, wanted.answer)
        # What is dirty goes to the disk before the freeze, which is shorter then. Some agents refuse to run it.
        with contextlib.suppress(GuestError):
            agent.execute(wanted.agent, ["sync"], timeout=SYNC)
        spec = {"kind": "qemu", "agent": str(wanted.agent), "answer": wanted.answer}
        with frozen(spec, window=wanted.window) as window:
            yield window

    def _clean(self) -> bool:
        """Takes everything down by a new connection, as the first may have stopped in the middle of an answer;
        whether that went well."""
        try:
            with monitor(self.settings.monitor) as wire:
                blocks.take_down(wire)
        except KioskError as e:
            log.warning("what kiosk made in QEMU may be left (the next capture takes it down): %s", e)
            return False
        return True

    def _to_raw(self, target: dict[str, object], disk: Path) -> None:
        try:
            convert.to_raw(target, disk, timeout=self.settings.timeout)
        except CommandError as e:
            if convert.FULL.search(e.output):
                raise StorageError("no space left for the copy of the disk", where=str(disk.parent)) from None
            raise


def _answers(path: Path, timeout: float) -> None:
    """Makes sure that the guest agent is there, before anything waits for it. GuestError."""
    try:
        agent.ask(path, "guest-ping", timeout=timeout)
    except GuestError as e:
        raise GuestError(
            f"the node can't be frozen: {e.what}",
            where=str(path),
            hint="Start qemu-guest-agent in the node; freeze = false captures as after a power cut. "
            "Nothing was captured.",
        ) from None
