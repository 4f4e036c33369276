"""VMs on this host with QEMU. A VM is a folder below `vms` and a process that needs nobody to watch it.

    ID/vm.json        what it is, written before anything else is done
    ID/start.lock     held by the kiosk that is making it
    ID/overlay.qcow2  what is written to the root disk; the base in the host cache is only read
    ID/scratch.qcow2  ID/context.img  ID/vars.fd
    ID/metadata/      what a metadata service says instead of the context disk
    ID/console.log    ID/report.jsonl   what the guest says; untrusted, read within bounds
    ID/qemu.log       what QEMU itself says
    ID/end.json       why kiosk gave the VM up

The folder is there before the process and after it, so a VM is never forgotten: whatever ends kiosk, `list`
shows the VM and `stop` ends it and removes the folder. Of a VM that has ended by itself, the first look keeps what
explains its end alone: disks and context hold secrets.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from kiosk import clock, files
from kiosk.cloud import untrusted
from kiosk.cloud.api import Capabilities, VmSpec, VmState
from kiosk.cloud.hostcache import HostCache
from kiosk.cloud.qemu import accel, agent, argv, make, process, record, wire
from kiosk.cloud.qemu.record import Boot, End, Record
from kiosk.cloud.qemu.state import lost, state
from kiosk.cloud.report import Report
from kiosk.cloud.report import read as read_report
from kiosk.errors import (
    BusyError,
    GuestError,
    KioskError,
    NotFoundError,
    UsageError,
    VerificationError,
)
from kiosk.log import logger
from kiosk.model.manifest import ImageManifest
from kiosk.model.names import Ref
from kiosk.run import detached, tool

log = logger(__name__)

KEPT = ("vm.json", "end.json", "start.lock", argv.CONSOLE_LOG, argv.REPORT, argv.QEMU_LOG)
"""What explains a VM that has ended. All else goes: disks and context hold secrets."""
SPAWN, POWERDOWN, QUIT = 30.0, 60.0, 5.0
DRAIN, DRAIN_LIMIT = "/usr/sbin/kiosk-drain", 60.0
CAN = Capabilities(layers=True, report=True, console=True, execute=True, drain=True)


@dataclass(frozen=True)
class QemuCloud:
    """The local driver. `vms` is the folder of all VMs, `cache` the host cache. VMs boot as `boot` says, or (None)
    as suits the image: by its kernel, and an imported one, which has none, by the firmware that its disk is for."""

    vms: Path
    cache: HostCache
    accel: Literal["kvm", "tcg", "auto"] = "auto"
    boot: Boot | None = None
    name: str = "qemu"
    capabilities: Capabilities = CAN

    # -- the interface --------------------------------------------------------------------------------

    def start(self, spec: VmSpec) -> VmState:
        """Starts a VM. Whatever stops it half-way, no process and no folder are left."""
        manifest, boot = self.check(spec)
        chosen = accel.choose(self.accel, self.vms / "accel.json")
        with self._intent(spec, chosen, boot, reports=not manifest.imported) as (folder, made):
            try:
                disks = self._make(folder, made, spec, manifest)
                self._spawn(folder, made, disks)
            except BaseException:
                self._end_process(made.uuid)
                shutil.rmtree(folder, ignore_errors=True)
                raise
        return self.show(made.id)

    def list_vms(self) -> list[VmState]:
        """All VMs, oldest first, by one look at the folders and one at the processes."""
        alive = process.running()
        found = [state for folder in self._folders() if (state := self._look(folder, alive)) is not None]
        known = {state.id for state in found}
        found += [lost(uuid) for uuid in self._lost(alive) if uuid[:8] not in known]
        return sorted(found, key=lambda s: (s.created, s.id))

    def stop(self, id: str, *, now: bool = False) -> None:
        """Ends a VM and removes its folder: asks the guest to shut down, then ends QEMU, then kills it."""
        without = [uuid for uuid in self._lost(process.running()) if uuid.startswith(id)]
        if len(id) == 8 and without:
            self._end_process(without[0])
            return
        folder = self.folder(id)
        with self._not_starting(folder):
            for uuid in [uuid for uuid in process.running() if uuid.startswith(id)]:
                self._end_process(uuid, monitor=folder / argv.MONITOR, now=now)
            _remove(folder)

    def drain(self, id: str, reason: str) -> None:
        """Has the guest drain: its agent hands the reason to kiosk-drain, on standard input."""
        found = self.show(id)
        if found.phase in ("draining", "stopping", "stopped"):
            return
        if found.phase != "ready":
            raise GuestError(
                f"the VM {found.name} is {found.phase}, and only one that is ready can drain",
                hint=f"`kiosk vm stop {id}` ends it.",
            )
        done = agent.execute(
            self.folder(id) / argv.AGENT, [DRAIN, "-"], timeout=DRAIN_LIMIT, input=reason.encode()
        )
        if done.status != 0:
            said = untrusted.line((done.stderr or done.stdout).decode(errors="replace"), limit=300)
            raise GuestError(f"the VM {found.name} does not drain: {said or f'status {done.status}'}")

    # -- what this driver can do beyond it ------------------------------------------------------------

    def check(self, spec: VmSpec) -> tuple[ImageManifest, Boot]:
        """The image of a VM and how it would boot; UsageError or PolicyError where it can't be as is asked for."""
        manifest = self.cache.image(spec.image)
        boot = make.boot_of(manifest, self.boot)
        make.possible(spec, manifest, boot)
        return manifest, boot

    def show(self, id: str) -> VmState:
        """The state of one VM. NotFoundError."""
        found = self._look(self.folder(id), process.running())
        if found is None:
            raise self._absent(id)
        return found

    def report(self, id: str) -> Report:
        """All that the guest said about itself so far."""
        return read_report(self.folder(id) / argv.REPORT)

    def find(self, name: str) -> VmState:
        """A VM by id or by name. NotFoundError."""
        for found in self.list_vms():
            if name in (found.id, found.name):
                return found
        raise self._absent(name)

    def give_up(self, id: str, *, stage: str | None, reason: str) -> None:
        """Ends a VM that did not come up, and keeps what explains it: its record, console and report."""
        folder = self.folder(id)
        files.write(folder / "end.json", End(stage=stage, reason=reason).to_json())
        self._end_process(record.read(folder).uuid, monitor=folder / argv.MONITOR, now=True)
        _wipe(folder)

    def in_use(self) -> set[Ref]:
        """The versions in the host cache that VMs here use. They must not be removed."""
        found: set[Ref] = set()
        for folder in self._folders():
            with contextlib.suppress(KioskError):
                found.update(record.read(folder).refs)
        return found

    def folder(self, id: str) -> Path:
        """The folder of a VM. NotFoundError."""
        folder = self.vms / id
        if not (len(id) == 8 and id.isalnum() and folder.is_dir()):
            raise self._absent(id)
        return folder

    # -- how ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _intent(
        self, spec: VmSpec, chosen: record.Accel, boot: Boot = "direct-kernel", *, reports: bool = True
    ) -> Iterator[tuple[Path, Record]]:
        """Writes down a VM that will be, whose name no other has, and holds its start lock for the block."""
        identity = str(uuid.uuid4())
        made = Record(
            id=identity[:8], uuid=identity, name=spec.name, image=str(spec.image),
            layers=tuple(map(str, spec.layers)), flavour=spec.flavour, boot=boot, accel=chosen,
            network=spec.network, tap=spec.tap, created=clock.now(), lifetime=spec.lifetime, reports=reports,
            source=spec.source,
        )  # fmt: skip
        hidden, folder = self.vms / f".{made.id}.new", self.vms / made.id
        with contextlib.ExitStack() as stack:
            with self._all(), files.storage_errors(self.vms):
                for other in self.list_vms():
                    if other.name == made.name:
                        raise UsageError(
                            f"there is a VM of the name {made.name} already: {other.id} ({other.phase})",
                            hint=f"Choose another --name, or `kiosk vm stop {other.id}` first.",
                        )
                try:
                    hidden.mkdir(mode=0o700)
                    files.write(hidden / "vm.json", made.to_json())
                    stack.enter_context(files.locked(hidden / "start.lock", what=f"the VM {made.id}"))
                    hidden.rename(folder)
                finally:
                    shutil.rmtree(hidden, ignore_errors=True)
            yield folder, made

    @contextlib.contextmanager
    def _all(self) -> Iterator[None]:
        """The lock under which names are taken; others hold it for a moment only, so wait for it."""
        retrying = Retrying(
            stop=stop_after_delay(20),
            wait=wait_fixed(0.05),
            retry=retry_if_exception_type(BusyError),
            reraise=True,
        )
        with contextlib.ExitStack() as stack:
            retrying(lambda: stack.enter_context(files.locked(self.vms / "lock", what="the list of VMs")))
            yield

    def _make(self, folder: Path, made: Record, spec: VmSpec, manifest: ImageManifest) -> argv.Disks:
        return make.disks(folder, made, spec, manifest, self.cache)

    def _spawn(self, folder: Path, made: Record, disks: argv.Disks) -> None:
        """Starts QEMU in the background, and waits until its monitor answers: then all its devices are made."""
        tool("qemu-system-x86_64")
        started = detached(argv.command(made, disks), log_to=folder / argv.QEMU_LOG, cwd=folder)
        until = time.monotonic() + SPAWN
        while True:
            status = started.poll()
            try:
                with wire.monitor(folder / argv.MONITOR):
                    break
            except GuestError:
                if status is not None or time.monotonic() > until:
                    said = " / ".join(untrusted.last_lines(folder / argv.QEMU_LOG, 5))
                    why = "hangs" if status is None else f"ended with status {status}"
                    raise GuestError(f"QEMU did not start, it {why}: {said}") from None
            time.sleep(0.05)
        if made.source == "ec2":
            words = [sys.executable, "-m", "kiosk.cloud.metadata", argv.METADATA, argv.METADATA_FILES]
            detached(words, log_to=folder / argv.QEMU_LOG, cwd=folder)

    def _end_process(self, uuid: str, *, monitor: Path | None = None, now: bool = True) -> None:
        with process.opened(uuid) as descriptors:
            if descriptors and monitor is not None:
                with contextlib.suppress(GuestError), wire.monitor(monitor) as qmp:
                    if not now:
                        qmp.ask("system_powerdown")
                        if process.ended(descriptors, POWERDOWN):
                            return
                    qmp.ask("quit")
                    process.ended(descriptors, QUIT)
            process.kill(descriptors)

    def _folders(self) -> list[Path]:
        """The folders of VMs; those that are just being made have no name yet."""
        if not self.vms.is_dir():
            return []
        return [p for p in self.vms.iterdir() if len(p.name) == 8 and p.name.isalnum() and p.is_dir()]

    def _lost(self, alive: dict[str, list[int]]) -> list[str]:
        """The UUIDs of VMs that run although their folder was removed by somebody else."""
        vms = self.vms.resolve()
        found = {uuid: vms / uuid[:8] for uuid in alive}
        return [
            u for u, f in found.items() if not f.exists() and any(process.folder_of(p) == f for p in alive[u])
        ]

    def _look(self, folder: Path, alive: dict[str, list[int]]) -> VmState | None:
        try:
            found = record.read(folder)
        except VerificationError as e:
            if not folder.is_dir():
                return None  # it was stopped since the folders were listed
            now = clock.now()
            return VmState(
                folder.name, "", "?", "?", (), "?", "failed", now, reason=f"{e} (stop it to remove it)"
            )
        running, starting = found.uuid in alive, record.starting(folder)
        if not running and not starting:
            _wipe_ended(folder, found.uuid)
        return state(
            found,
            alive=running,
            starting=starting,
            report=read_report(folder / argv.REPORT),
            end=record.read_end(folder),
            root_hash=self._root_hash(found),
        )

    def _root_hash(self, found: Record) -> str | None:
        """The root hash in the cached manifest, where that is still there."""
        try:
            manifest = self.cache.manifest(found.refs[0])
        except KioskError:
            return None
        verity = manifest.verity if isinstance(manifest, ImageManifest) else None
        return verity.root_hash if verity is not None else None

    @contextlib.contextmanager
    def _not_starting(self, folder: Path) -> Iterator[None]:
        with files.locked(folder / "start.lock", what=f"the VM {folder.name}, which is just being started"):
            yield

    def _absent(self, id: str) -> NotFoundError:
        return NotFoundError(f"there is no VM {id[:80]!r}", where=str(self.vms), hint="See `kiosk vm list`.")


def _wipe(folder: Path) -> None:
    """Removes what does not explain a VM's end."""
    for path in folder.iterdir():
        if path.name not in KEPT:
            files.discard(path)


def _remove(folder: Path) -> None:
    """Removes a VM's folder: as long as it is seen, it says whose it is."""
    for path in folder.iterdir():
        if path.name not in ("vm.json", "start.lock"):
            files.remove_tree(path)
    hidden = folder.with_name(f".{folder.name}.gone")
    folder.rename(hidden)
    files.remove_tree(hidden)


def _wipe_ended(folder: Path, uuid: str) -> None:
    """Wipes after a VM that has ended by itself. Under its lock, and after another look at the processes: it may have
    been started since the look that missed it."""
    if all(path.name in KEPT for path in folder.glob("*")):
        return
    with contextlib.suppress(FileNotFoundError, BlockingIOError), (folder / "start.lock").open("rb") as f:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if uuid not in process.running():
            _wipe(folder)
