"""What a VM is made of before QEMU starts: how it boots, its own disks, and the context that it is told."""

from __future__ import annotations

import shutil
from pathlib import Path

from kiosk import files
from kiosk.cloud import context, context_disk
from kiosk.cloud.api import VmSpec
from kiosk.cloud.hostcache import HostCache
from kiosk.cloud.qemu import argv
from kiosk.cloud.qemu.record import Boot, Record
from kiosk.errors import MissingToolError, PolicyError, UsageError
from kiosk.model.manifest import ImageManifest
from kiosk.run import run

FIRMWARE = Path("/usr/share/OVMF")
ESP = ("C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "EF")
"""A partition that UEFI firmware starts from, by its type in a GPT and in an MBR."""


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


def possible(spec: VmSpec, manifest: ImageManifest, boot: Boot) -> None:
    """PolicyError where an image takes no layers or no context; UsageError where what is asked for contradicts itself,
    or a VM can't be told by its source."""
    if manifest.imported and spec.layers:
        raise PolicyError(
            f"{spec.image} is imported: kiosk's agent, which mounts layers, is not in it",
            hint="Start it without --layer.",
        )
    if manifest.imported and spec.context:
        raise PolicyError(
            f"{spec.image} is imported: kiosk's agent, which reads contexts, is not in it",
            hint="Start it without --context.",
        )
    if spec.tap is not None and not spec.network:
        raise UsageError(
            "a tap interface is a network, and none is asked for", hint="Leave out --tap or --no-network."
        )
    if spec.tap is not None and spec.source == "ec2":
        raise UsageError(
            "this VM's metadata service is in a network of kiosk's own, which a tap interface stands instead of",
            hint="Leave out --tap, or choose a --context-source that is a disk.",
        )
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


def disks(folder: Path, made: Record, spec: VmSpec, manifest: ImageManifest, cache: HostCache) -> argv.Disks:
    """The VM's own disks, and where the others are."""
    base = cache.file(manifest, "disk").resolve()
    layers = tuple(cache.file(cache.layer(ref), "layer").resolve() for ref in spec.layers)
    scratch = made.flavour.scratch << 30
    with files.storage_errors(folder):
        run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, folder / argv.OVERLAY],
            timeout=60,
        )
        run(["qemu-img", "create", "-q", "-f", "qcow2", folder / argv.SCRATCH, str(scratch)], timeout=60)
        _tell(folder, made, spec)
        for name in (argv.CONSOLE_LOG, argv.REPORT):
            (folder / name).touch(mode=0o600)
    return argv.Disks(
        folder=folder,
        layers=layers,
        firmware=_firmware(folder) if made.boot == "uefi" else None,
        kernel=_kernel(manifest, made, cache) if made.boot == "direct-kernel" else None,
        largest=max(scratch, manifest.artifacts["disk"].size),
    )


def _tell(folder: Path, made: Record, spec: VmSpec) -> None:
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


def _kernel(manifest: ImageManifest, made: Record, cache: HostCache) -> argv.Kernel:
    kernel, initrd = (cache.file(manifest, name) for name in ("kernel", "initrd"))
    word = " kiosk.context=ec2" if made.source == "ec2" else ""
    return argv.Kernel(kernel, initrd, f"{manifest.cmdline}{word}")


def _firmware(folder: Path) -> Path:
    """UEFI firmware, and this VM's own copy of its variables."""
    code, variables = FIRMWARE / "OVMF_CODE_4M.fd", FIRMWARE / "OVMF_VARS_4M.fd"
    if not code.exists() or not variables.exists():
        raise MissingToolError(
            "there is no UEFI firmware for VMs", where=str(code), hint="apt-get install ovmf"
        )
    shutil.copyfile(variables, folder / argv.VARS)
    return code
