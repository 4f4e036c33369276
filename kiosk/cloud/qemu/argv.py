"""The QEMU command line of a VM, as data: what the guest gets, and nothing that QEMU adds by itself.

Sockets and logs are named relative to the VM's folder, in which QEMU is started (a socket's path is short);
disks go by JSON, so that no character of a path means anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiosk.cloud.qemu.record import Record

CONSOLE, CONSOLE_LOG = "console.sock", "console.log"
MONITOR, AGENT = "qmp.sock", "qga.sock"
METADATA, METADATA_FILES = "metadata.sock", "metadata"
REPORT = "report.jsonl"
QEMU_LOG = "qemu.log"
OVERLAY, SCRATCH, CONTEXT, VARS = "overlay.qcow2", "scratch.qcow2", "context.img", "vars.fd"
SLACK = 256 << 20


@dataclass(frozen=True)
class Kernel:
    """What a direct-kernel boot starts."""

    kernel: Path
    initrd: Path
    cmdline: str


@dataclass(frozen=True)
class Disks:
    """The files of a VM. `largest` is the size of its largest disk as the guest sees it."""

    folder: Path
    layers: tuple[Path, ...]
    firmware: Path | None
    kernel: Kernel | None
    largest: int


def command(record: Record, disks: Disks) -> list[str]:
    """The whole command. The VM's UUID is on it, by which its process is found again."""
    return [
        # No file that this QEMU writes (console, report) may grow beyond what its disks may.
        "prlimit", f"--fsize={disks.largest + disks.largest // 64 + SLACK}", "--core=0", "--",
        "qemu-system-x86_64", "-name", f"kiosk-{record.id}", "-uuid", record.uuid,
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        *_machine(record, disks),
        *_boot(disks),
        *_disks(disks, context=record.source != "ec2"),
        *_channels(),
        *(_network(record) if record.network else []),
        "-device", "virtio-rng-pci",
    ]  # fmt: skip


def _machine(record: Record, disks: Disks) -> list[str]:
    machine = "q35,vmport=off,smbus=off,hpet=off,graphics=off"
    if disks.firmware is not None:
        machine += ",pflash0=firmware,pflash1=vars"
    kvm = record.accel == "kvm"
    return [
        "-machine", machine,
        "-accel", "kvm" if kvm else "tcg,thread=multi,tb-size=512",
        "-cpu", "host" if kvm else "max,la57=off",
        "-smp", str(record.flavour.cores),
        "-m", f"{record.flavour.memory}G",
        "-rtc", "base=utc",
        "-boot", "strict=on,menu=off",
    ]  # fmt: skip


def _boot(disks: Disks) -> list[str]:
    if disks.kernel is not None:
        kernel = disks.kernel
        return ["-kernel", str(kernel.kernel), "-initrd", str(kernel.initrd), "-append", kernel.cmdline]
    if disks.firmware is None:
        return []
    return [
        *_blockdev("firmware", {"driver": "raw", "read-only": True, "file": _file(disks.firmware)}),
        *_blockdev("vars", {"driver": "raw", "file": _file(disks.folder / VARS)}),
    ]


def _disks(disks: Disks, *, context: bool) -> list[str]:
    fast: dict[str, Any] = {"cache": {"no-flush": True}, "discard": "unmap"}
    """Both are thrown away with the VM, so nothing must reach the disk of the host."""
    words = [
        *_blockdev("root", {"driver": "qcow2", "file": _file(disks.folder / OVERLAY), **fast}),
        *_device("root", "root", **({} if disks.kernel else {"bootindex": 0})),
        *_blockdev("scratch", {"driver": "qcow2", "file": _file(disks.folder / SCRATCH), **fast}),
        *_device("scratch", "scratch"),
    ]
    if context:
        words += [*_blockdev("context", _read_only(disks.folder / CONTEXT)), *_device("context", "context")]
    for i, layer in enumerate(disks.layers):
        words += [*_blockdev(f"layer-{i}", _read_only(layer)), *_device(f"layer-{i}", f"layer-{i}")]
    return words


def _channels() -> list[str]:
    """The serial console (a socket to attach to, and a log), the monitor, and two virtio ports."""
    return [
        "-chardev", f"socket,id=console,path={CONSOLE},server=on,wait=off,logfile={CONSOLE_LOG},logappend=on",
        "-serial", "chardev:console",
        "-chardev", f"socket,id=monitor,path={MONITOR},server=on,wait=off",
        "-mon", "chardev=monitor,mode=control",
        "-device", "virtio-serial-pci",
        "-chardev", f"file,id=report,path={REPORT},append=on",
        "-device", "virtserialport,chardev=report,name=org.kiosk.report",
        "-chardev", f"socket,id=agent,path={AGENT},server=on,wait=off",
        "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
    ]  # fmt: skip


def _network(record: Record) -> list[str]:
    """Outgoing connections only (user-mode, no forwarded port), or the network of the host's tap interface; no boot
    ROM, so nothing boots from it.

    What the guest sends to the metadata service goes to kiosk.cloud.metadata, by a socket: QEMU forwards only
    addresses of its own network, so that is the link-local one.
    """
    device = ["-device", f"virtio-net-pci,netdev=net,mac={mac(record.uuid)},romfile="]
    if record.tap:
        return ["-netdev", f"tap,id=net,ifname={record.tap},script=no,downscript=no", *device]
    if record.source != "ec2":
        return ["-netdev", "user,id=net", *device]
    net = "user,id=net,net=169.254.0.0/16,host=169.254.0.2,dns=169.254.0.3,dhcpstart=169.254.0.15"
    return [
        "-chardev", f"socket,id=metadata,path={METADATA},server=on,wait=off",
        "-netdev", f"{net},guestfwd=tcp:169.254.169.254:80-chardev:metadata", *device,
    ]  # fmt: skip


def mac(uuid: str) -> str:
    """A VM's MAC address, from its UUID: no two VMs of one network should have the same."""
    return ":".join(["52:54:00", uuid[0:2], uuid[2:4], uuid[4:6]])


def _file(path: Path) -> dict[str, Any]:
    return {"driver": "file", "filename": str(path)}


def _read_only(path: Path) -> dict[str, Any]:
    return {"driver": "raw", "read-only": True, "file": {**_file(path), "read-only": True}}


def _blockdev(node: str, options: dict[str, Any]) -> Sequence[str]:
    return ("-blockdev", json.dumps({"node-name": node, **options}))


def _device(node: str, serial: str, **more: object) -> Sequence[str]:
    return ("-device", json.dumps({"driver": "virtio-blk-pci", "drive": node, "serial": serial, **more}))
