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
shows the VM and `stop` ends it and removes the folder.
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
from kiosk.cloud import context, context_disk, untrusted
from kiosk.cloud.api import Capabilities, VmSpec, VmState
from kiosk.cloud.hostcache import HostCache
from kiosk.cloud.qemu import accel, agent, argv, process, record, wire
from kiosk.cloud.qemu.record import Boot, End, Record
from kiosk.cloud.qemu.state import state
from kiosk.cloud.report import Report
from kiosk.cloud.report import read as read_report
from kiosk.errors import (
    BusyError,
    GuestError,
    KioskError,
    MissingToolError,
    NotFoundError,
    PolicyError,
    UsageError,
    VerificationError,
)
from kiosk.log import logger
from kiosk.model.manifest import ImageManifest
from kiosk.model.names import Ref
from kiosk.run import detached, run, tool

log = logger(__name__)

FIRMWARE = Path("/usr/share/OVMF")
ESP = ("C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "EF")
"""A partition that UEFI firmware starts from, by its type in a GPT and in an MBR."""
KEPT = ("vm.json", "end.json", argv.CONSOLE_LOG, argv.REPORT, argv.QEMU_LOG)
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
        manifest = self.cache.image(spec.image)
        boot = boot_of(manifest, self.boot)
        if manifest.imported and spec.layers:
            raise PolicyError(
                f"{spec.image} is imported: kiosk's agent, which mounts layers, is not in it",
                hint="Start it without --layer.",
            )
        _possible(spec, boot)
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
        found += [_lost(uuid) for uuid in self._lost(alive) if uuid[:8] not in known]
        return sorted(found, key=lambda s: (s.created, s.id))

    def stop(self, id: str, *, now: bool = False) -> None:
        """Ends a VM and removes its folder: asks the guest to shut down, then ends QEMU, then kills it."""
        lost = [uuid for uuid in self._lost(process.running()) if uuid.startswith(id)]
        if len(id) == 8 and lost:
            self._end_process(lost[0])
            return
        folder = self.folder(id)
        with self._not_starting(folder):
            for uuid in [uuid for uuid in process.running() if uuid.startswith(id)]:
                self._end_process(uuid, monitor=folder / argv.MONITOR, now=now)
            files.remove_tree(folder)

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
        for path in folder.iterdir():
            if path.name not in KEPT:
                path.unlink(missing_ok=True)

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
        """The VM's own disks, and where the others are."""
        base = self.cache.file(manifest, "disk").resolve()
        layers = tuple(self.cache.file(self.cache.layer(ref), "layer").resolve() for ref in spec.layers)
        scratch = made.flavour.scratch << 30
        with files.storage_errors(folder):
            run(
                ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, folder / argv.OVERLAY],
                timeout=60,
            )
            run(["qemu-img", "create", "-q", "-f", "qcow2", folder / argv.SCRATCH, str(scratch)], timeout=60)
            self._tell(folder, made, spec)
            for name in (argv.CONSOLE_LOG, argv.REPORT):
                (folder / name).touch(mode=0o600)
        return argv.Disks(
            folder=folder,
            layers=layers,
            firmware=_firmware(folder) if made.boot == "uefi" else None,
            kernel=self._kernel(manifest, made) if made.boot == "direct-kernel" else None,
            largest=max(scratch, manifest.artifacts["disk"].size),
        )

    def _tell(self, folder: Path, made: Record, spec: VmSpec) -> None:
        """Writes the context down for its source: a disk, or the files of a metadata service."""
        told = context.document(
            uuid=made.uuid,
            name=made.name,
            image=spec.image,
            layers=spec.layers,
            lifetime=made.lifetime,
            more=spec.context,
        )
        if made.source != "ec2":
            context_disk.make_disk(folder / argv.CONTEXT, told, spec.bundle, made.source)
            return
        files_ = folder / argv.METADATA_FILES
        files_.mkdir(mode=0o700)
        files.write(files_ / "user-data", context.data(told), mode=0o600)
        files.write(files_ / "instance-id", f"i-{made.uuid.replace('-', '')[:17]}".encode(), mode=0o600)
        files.write(files_ / "local-hostname", made.name.encode(), mode=0o600)

    def _kernel(self, manifest: ImageManifest, made: Record) -> argv.Kernel:
        kernel, initrd = (self.cache.file(manifest, name) for name in ("kernel", "initrd"))
        word = " kiosk.context=ec2" if made.source == "ec2" else ""
        return argv.Kernel(kernel, initrd, f"{manifest.cmdline}{word}")

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
        return state(
            found,
            alive=found.uuid in alive,
            starting=_starting(folder),
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


def boot_of(manifest: ImageManifest, wanted: Boot | None) -> Boot:
    """How a VM of this image boots: as is wanted, or as suits it. UsageError where there is no kernel to start."""
    has_kernel = "kernel" in manifest.artifacts and "initrd" in manifest.artifacts
    if wanted == "direct-kernel" and not has_kernel:
        raise UsageError(
            f"{manifest.ref} has no kernel beside its disk (it is imported), so there is none to start directly",
            hint="Leave out --direct-kernel: its disk is started by firmware.",
        )
    if wanted is not None:
        return wanted
    if has_kernel:
        return "direct-kernel"
    return "uefi" if any(p.type.upper() in ESP for p in manifest.partitions) else "bios"


def _possible(spec: VmSpec, boot: Boot) -> None:
    """UsageError where a VM can't be told by its source."""
    if spec.source != "ec2":
        return
    if boot != "direct-kernel":
        raise UsageError(
            "a guest is told on its kernel's command line to ask a metadata service, and its firmware has no such line",
            hint="Leave out --uefi.",
        )
    if not spec.network:
        raise UsageError("a metadata service needs a network", hint="Leave out --no-network.")
    if not spec.context.get("repository"):
        raise UsageError(
            "no signed metadata comes with EC2's user data, so the guest must know where to fetch it",
            hint='Say it in the --context file: {"repository": {"url": "http://kiosk.example.org"}}',
        )


def _lost(uuid: str) -> VmState:
    """The state of a VM that runs without its folder."""
    reason = "it runs, but its folder was removed (stop it to end it)"
    return VmState(uuid[:8], uuid, "?", "?", (), "?", "failed", clock.now(), reason=reason)


def _starting(folder: Path) -> bool:
    """Whether a kiosk is still making this VM: then it holds the lock."""
    try:
        with (folder / "start.lock").open("rb") as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def _firmware(folder: Path) -> Path:
    """UEFI firmware, and this VM's own copy of its variables."""
    code, variables = FIRMWARE / "OVMF_CODE_4M.fd", FIRMWARE / "OVMF_VARS_4M.fd"
    if not code.exists() or not variables.exists():
        raise MissingToolError(
            "there is no UEFI firmware for VMs", where=str(code), hint="apt-get install ovmf"
        )
    shutil.copyfile(variables, folder / argv.VARS)
    return code
