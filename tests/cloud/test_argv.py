"""What a VM is given is exactly this, and nothing that QEMU would add by itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from kiosk.cloud.qemu import argv
from kiosk.cloud.qemu.record import Record
from kiosk.model.flavour import Flavour

RECORD = Record(
    id="0000abcd", uuid="0000abcd-0000-4000-8000-000000000000", name="node-1", image="worker@1",
    layers=("site/a/base@1",), flavour=Flavour(cores=2, memory=4, scratch=20), boot="uefi", accel="tcg",
    network=False, created=datetime(2026, 3, 1, tzinfo=UTC),
)  # fmt: skip
VM = Path("/v,m s/0000abcd")
UEFI = argv.Disks(VM, (Path("/cache/a,b.squashfs"),), Path("/fw/code.fd"), None, 20 << 30)


def values(words: list[str], option: str) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == option]


def test_the_whole_command_of_a_uefi_vm() -> None:
    fast = {"cache": {"no-flush": True}, "discard": "unmap"}
    assert [json.loads(w) if w.startswith("{") else w for w in argv.command(RECORD, UEFI)] == [
        "prlimit", f"--fsize={(20 << 30) + (20 << 24) + (256 << 20)}", "--core=0", "--",
        "qemu-system-x86_64", "-name", "kiosk-0000abcd", "-uuid", RECORD.uuid,
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-machine", "q35,vmport=off,smbus=off,hpet=off,graphics=off,pflash0=firmware,pflash1=vars",
        "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off", "-smp", "2", "-m", "4G",
        "-rtc", "base=utc", "-boot", "strict=on,menu=off",
        "-blockdev", {"node-name": "firmware", "driver": "raw", "read-only": True,
                      "file": {"driver": "file", "filename": "/fw/code.fd"}},
        "-blockdev", {"node-name": "vars", "driver": "raw",
                      "file": {"driver": "file", "filename": f"{VM}/vars.fd"}},
        "-blockdev", {"node-name": "root", "driver": "qcow2", **fast,
                      "file": {"driver": "file", "filename": f"{VM}/overlay.qcow2"}},
        "-device", {"driver": "virtio-blk-pci", "drive": "root", "serial": "root", "bootindex": 0},
        "-blockdev", {"node-name": "scratch", "driver": "qcow2", **fast,
                      "file": {"driver": "file", "filename": f"{VM}/scratch.qcow2"}},
        "-device", {"driver": "virtio-blk-pci", "drive": "scratch", "serial": "scratch"},
        "-blockdev", {"node-name": "context", "driver": "raw", "read-only": True,
                      "file": {"driver": "file", "filename": f"{VM}/context.img", "read-only": True}},
        "-device", {"driver": "virtio-blk-pci", "drive": "context", "serial": "context"},
        "-blockdev", {"node-name": "layer-0", "driver": "raw", "read-only": True,
                      "file": {"driver": "file", "filename": "/cache/a,b.squashfs", "read-only": True}},
        "-device", {"driver": "virtio-blk-pci", "drive": "layer-0", "serial": "layer-0"},
        "-chardev",
        "socket,id=console,path=console.sock,server=on,wait=off,logfile=console.log,logappend=on",
        "-serial", "chardev:console",
        "-chardev", "socket,id=monitor,path=qmp.sock,server=on,wait=off",
        "-mon", "chardev=monitor,mode=control",
        "-device", "virtio-serial-pci",
        "-chardev", "file,id=report,path=report.jsonl,append=on",
        "-device", "virtserialport,chardev=report,name=org.kiosk.report",
        "-chardev", "socket,id=agent,path=qga.sock,server=on,wait=off",
        "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
        "-device", "virtio-rng-pci",
    ]  # fmt: skip


def test_direct_kernel_boots_without_firmware_and_disk_order() -> None:
    kernel = argv.Kernel(Path("/c/vmlinuz"), Path("/c/initrd"), "roothash=ab console=ttyS0")
    words = argv.command(RECORD, argv.Disks(VM, (), None, kernel, 1 << 30))
    assert values(words, "-kernel") == ["/c/vmlinuz"]
    assert values(words, "-initrd") == ["/c/initrd"]
    assert values(words, "-append") == ["roothash=ab console=ttyS0"]
    assert "pflash" not in " ".join(words) and "bootindex" not in " ".join(words)


def test_the_network_has_no_way_in() -> None:
    words = argv.command(RECORD.model_copy(update={"network": True, "accel": "kvm"}), UEFI)
    assert values(words, "-netdev") == ["user,id=net"]
    assert "hostfwd" not in " ".join(words)
    assert (values(words, "-accel"), values(words, "-cpu")) == (["kvm"], ["host"])


def test_a_tap_puts_the_guest_into_the_hosts_network_under_an_address_of_its_own() -> None:
    words = argv.command(RECORD.model_copy(update={"network": True, "tap": "tap0"}), UEFI)
    assert values(words, "-netdev") == ["tap,id=net,ifname=tap0,script=no,downscript=no"]
    assert f"virtio-net-pci,netdev=net,mac={argv.mac(RECORD.uuid)},romfile=" in words
    assert argv.mac("0c0ffee0-0000-4000-8000-000000000001") == "52:54:00:0c:0f:fe"
