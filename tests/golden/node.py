"""A golden node for tests: a real Debian that is not read-only, in QEMU, with ssh, cron and a process that writes.

Its tree is the built debian-12-minimal without kiosk's own parts and with packages on top, kept between runs. The
disk is made anew for each node: GPT, one ext4 with a journal.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiosk import files
from kiosk.build import image
from kiosk.build.book import Book
from kiosk.build.image import unpack
from kiosk.build.sandbox import in_tree
from kiosk.build.trees import recipe_digest
from kiosk.cloud.qemu import agent
from kiosk.cloud.qemu.wire import monitor
from kiosk.config import Settings
from kiosk.errors import GuestError
from kiosk.golden.settings import QemuSettings
from kiosk.run import run, tool
from tests.simulators.images import NAME, built_image, kept_home

PACKAGES = ("openssh-server", "cron")
MIB = 1 << 20
SIZE = 2048 * MIB
LABEL = "golden"
CMDLINE = f"root=PARTLABEL={LABEL} rw rootfstype=ext4 systemd.gpt_auto=0 console=ttyS0 quiet"
BOOT_LIMIT = 400.0
DEVICES = {"null": (1, 3), "zero": (1, 5), "urandom": (1, 9)}
WRITER = """\
import os, time
out = os.open("/var/lib/writer/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
while True:
    os.write(out, b"%.4f\\n" % time.monotonic())
    os.fsync(out)
    time.sleep(0.01)
"""
UNIT = """\
[Unit]
Description=Writes all the time
[Service]
ExecStart=/usr/bin/python3 /usr/local/lib/writer.py
StateDirectory=writer
[Install]
WantedBy=multi-user.target
"""
NO_SERVICES = "#!/bin/sh\nexit 101\n"


@dataclass(frozen=True)
class GoldenVm:
    """A running golden node: its disk, its sockets, and its QEMU."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def agent(self) -> Path:
        """The socket of its guest agent."""
        return self.folder / "qga.sock"

    @property
    def monitor(self) -> Path:
        """The socket of the monitor that kiosk uses."""
        return self.folder / "qmp.sock"

    @property
    def own_monitor(self) -> Path:
        """The socket of a monitor for tests."""
        return self.folder / "test.sock"

    def settings(self, **more: Any) -> QemuSettings:
        """What a definition says about it."""
        known = {"kind": "qemu", "monitor": self.monitor, "agent": self.agent}
        return QemuSettings.model_validate({**known, **more})

    def run(self, *argv: str, timeout: float = 60) -> str:
        """Runs a command in the node and returns what it printed."""
        done = agent.execute(self.agent, argv, timeout=timeout)
        assert done.status == 0, (argv, done)
        return done.stdout.decode()

    def shell(self, script: str, timeout: float = 60) -> str:
        """Runs a script in the node."""
        return self.run("/bin/sh", "-c", script, timeout=timeout)

    def ask(self, command: str, **arguments: Any) -> Any:
        """Asks QEMU by the tests' own monitor."""
        with monitor(self.own_monitor) as wire:
            return wire.ask(command, arguments)

    def console(self) -> str:
        """What it wrote on its serial line."""
        return (self.folder / "console").read_text(errors="replace")


def golden_tree(target: Path) -> None:
    """Unpacks the node's tree, which is made first where it is not kept."""
    home = kept_home()
    cache = home / "cache/golden"
    built_image(home)
    settings = Settings(home=home)
    book = Book.of(settings)
    digest = recipe_digest(book, book.entry(NAME)).removeprefix("sha256:")
    source = settings.build_cache / "trees" / f"{digest[:40]}.tar"
    if not source.exists():
        image.build(settings, image.Request(NAME, None, None, fresh=False))
    key = hashlib.sha256(f"{source.name} {source.stat().st_mtime} {PACKAGES}{WRITER}{UNIT}".encode())
    kept = cache / f"{key.hexdigest()[:20]}.tar"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with files.scratch(cache, prefix="making-") as folder:
            unpack(source, folder / "tree")
            _install(folder / "tree", cache / "debs")
            _make_plain(folder / "tree")
            _pack(folder / "tree", folder / "tree.tar")
            for old in cache.glob("*.tar"):
                old.unlink()
            (folder / "tree.tar").rename(kept)
    unpack(kept, target)


def _install(tree: Path, debs: Path) -> None:
    """Installs packages; the host's apt finds out which, by the tree's own list of what is installed."""
    archives = debs / "archives"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    run(
        ["apt-get", "install", "-y", "--no-install-recommends", "--download-only", "-qq",
         "-o", f"Dir::State::status={tree}/var/lib/dpkg/status", "-o", f"Dir::Cache::archives={archives}",
         "-o", "Debug::NoLocking=1", *PACKAGES],
        timeout=600,
    )  # fmt: skip
    dpkg(tree, sorted(archives.glob("*.deb")), "--force-depends")


def dpkg(tree: Path, debs: Sequence[Path], *options: str) -> None:
    """Installs packages in the tree by its own dpkg; nothing is started."""
    for device, number in DEVICES.items():
        if not (tree / "dev" / device).exists():
            os.mknod(tree / "dev" / device, stat.S_IFCHR | 0o666, os.makedev(*number))
    policy = tree / "usr/sbin/policy-rc.d"
    policy.write_text(NO_SERVICES)
    policy.chmod(0o755)
    (tree / "debs").mkdir()
    for deb in debs:
        shutil.copy(deb, tree / "debs")
    words = ["env", "DEBIAN_FRONTEND=noninteractive", "dpkg", *options, "-i"]
    in_tree(tree, [*words, *(f"/debs/{deb.name}" for deb in debs)], timeout=600)
    policy.unlink()
    shutil.rmtree(tree / "debs")
    for device in DEVICES:
        (tree / "dev" / device).unlink()


def _make_plain(tree: Path) -> None:
    """Takes kiosk's own parts out, and makes it a node that somebody manages."""
    for folder in ("etc/systemd/system", "usr/lib/systemd/system"):
        for path in sorted((tree / folder).rglob("kiosk-*"), reverse=True):  # what is in a folder before it
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.rmtree(tree / "usr/lib/kiosk")
    (tree / "etc/systemd/network/80-kiosk.network").rename(tree / "etc/systemd/network/80-dhcp.network")
    (tree / "etc/fstab").write_text(f"PARTLABEL={LABEL} / ext4 defaults 0 1\n")
    (tree / "etc/hostname").write_text("golden\n")
    (tree / "usr/local/lib/writer.py").write_text(WRITER)
    (tree / "etc/systemd/system/writer.service").write_text(UNIT)
    (tree / "etc/systemd/system/multi-user.target.wants/writer.service").symlink_to(
        "/etc/systemd/system/writer.service"
    )
    for name in ("dev", "proc", "sys", "run", "tmp", "var/tmp", "mnt"):
        (tree / name).mkdir(exist_ok=True)


def _pack(tree: Path, tar: Path) -> None:
    run(["tar", "--create", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--file", tar,
         "--directory", tree, "."], timeout=600)  # fmt: skip


def make_disk(tree: Path, disk: Path, size: int = SIZE) -> None:
    """A GPT disk with one ext4 as Debian's installer makes it."""
    with disk.open("xb") as f:
        f.truncate(size)
    run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", disk], timeout=60,
        input=f"label: gpt\nfirst-lba: 2048\nstart=2048, type=linux, name={LABEL}\n".encode())  # fmt: skip
    run(["mkfs.ext4", "-q", "-F", "-d", tree, "-E", f"offset={MIB},root_owner=0:0", disk,
         f"{(size - 2 * MIB) >> 10}k"], timeout=600)  # fmt: skip


def partition(disk: Path, target: Path) -> Path:
    """Copies the ext4 out of a disk, with its holes."""
    run(["dd", f"if={disk}", f"of={target}", "bs=1M", "skip=1", "conv=sparse", "status=none",
         f"count={(SIZE - 2 * MIB) // MIB}"], timeout=600)  # fmt: skip
    with target.open("r+b") as f:
        f.truncate(SIZE - 2 * MIB)
    return target


def make_files(folder: Path, prepare: Callable[[Path], None] | None = None) -> None:
    """Makes the node's disk `golden.raw`, and its `vmlinuz` and `initrd.img` for a direct boot."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = folder / "tree"
    golden_tree(tree)
    if prepare is not None:
        prepare(tree)
    for name in ("vmlinuz", "initrd.img"):
        shutil.copyfile(next((tree / "boot").glob(f"{name}-*")), folder / name)
    make_disk(tree, folder / "golden.raw")
    shutil.rmtree(tree)


@contextmanager
def golden_vm(folder: Path, prepare: Callable[[Path], None] | None = None) -> Iterator[GoldenVm]:
    """Runs a golden node while the block lasts: up, with ssh, cron, its agent and its writer running.

    `prepare` may change the tree before the disk is made. `folder` is private to the node.
    """
    with prepared(folder, prepare) as found:
        wait_for(found)
        yield found


@contextmanager
def prepared(folder: Path, prepare: Callable[[Path], None] | None) -> Iterator[GoldenVm]:
    """The same, just switched on."""
    make_files(folder, prepare)
    process = subprocess.Popen(_argv(), cwd=folder, stdin=subprocess.DEVNULL)
    try:
        yield GoldenVm(folder.resolve(), process)
    finally:
        process.kill()
        process.wait()


def wait_for(vm: GoldenVm) -> None:
    """Waits until the node is up."""
    until = time.monotonic() + BOOT_LIMIT
    while True:
        try:
            vm.shell("systemctl is-active ssh cron writer qemu-guest-agent && test -s /var/lib/writer/log")
        except (GuestError, AssertionError):
            assert vm.process.poll() is None and time.monotonic() < until, vm.console()[-3000:]
            time.sleep(0.5)
        else:
            return


def _argv() -> list[str]:
    disk = {"driver": "file", "filename": "golden.raw", "discard": "unmap", "cache": {"no-flush": True}}
    root = {"driver": "raw", "node-name": "root", "file": disk, "cache": {"no-flush": True}}
    argv = [tool("qemu-system-x86_64"), "-name", "golden", "-machine", "q35", "-accel", "tcg,thread=multi"]
    argv += ["-cpu", "max,la57=off", "-smp", "2", "-m", "1024", "-display", "none", "-nodefaults"]
    argv += ["-serial", "file:console", "-nic", "user,model=virtio-net-pci", "-device", "virtio-rng-pci"]
    argv += ["-blockdev", json.dumps(root), "-device", "virtio-blk-pci,drive=root,id=disk"]
    argv += ["-kernel", "vmlinuz", "-initrd", "initrd.img", "-append", CMDLINE]
    argv += ["-qmp", "unix:qmp.sock,server=on,wait=off", "-qmp", "unix:test.sock,server=on,wait=off"]
    argv += ["-device", "virtio-serial", "-chardev", "socket,path=qga.sock,server=on,wait=off,id=agent"]
    return [*argv, "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
