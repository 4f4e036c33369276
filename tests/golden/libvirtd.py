"""A real libvirt of its own, as a user who is not root, with the golden node as one of its domains."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiosk.errors import KioskError
from kiosk.golden.libvirt import LibvirtSource
from kiosk.golden.settings import LibvirtSettings
from kiosk.run import CommandError, run, tool
from tests.golden.node import BOOT_LIMIT, CMDLINE, make_files

USER = "nobody"
QEMU_CONF = """
security_driver = "none"
stdio_handler = "file"
remember_owner = 0
namespaces = []
cgroup_controllers = []
"""
DOMAIN = """
<domain type='qemu'>
  <name>golden</name><memory unit='MiB'>1024</memory><vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{folder}/vmlinuz</kernel><initrd>{folder}/initrd.img</initrd><cmdline>{cmdline}</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' discard='unmap'/><source file='{folder}/golden.raw'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <serial type='file'><source path='{folder}/console'/><target port='0'/></serial>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>
"""


@dataclass(frozen=True)
class GoldenDomain:
    """The golden node, running in libvirt. `copies` is a folder that libvirt's QEMU may write."""

    folder: Path
    copies: Path

    @property
    def uri(self) -> str:
        """Where the daemon is."""
        return f"qemu+unix:///session?socket={self.folder}/r/libvirt/libvirt-sock"

    def settings(self, **more: Any) -> LibvirtSettings:
        """What a definition says about it."""
        known = {"kind": "libvirt", "uri": self.uri, "domain": "golden", "folder": self.copies}
        return LibvirtSettings.model_validate({**known, **more})

    def virsh(self, *words: str) -> str:
        """Runs virsh."""
        return run(["virsh", "-q", "-c", self.uri, *words], timeout=60)

    def shell(self, script: str) -> str:
        """Runs a script in the node."""
        answer = LibvirtSource(self.settings()).run(["/bin/sh", "-c", script], timeout=60)
        assert answer.status == 0, answer
        return answer.output


@contextmanager
def golden_domain() -> Iterator[GoldenDomain]:
    """Runs a libvirt and in it the golden node, up, while the block lasts."""
    folder = Path(tempfile.mkdtemp(prefix="kiosk-", dir="/var/tmp"))  # short, for the paths of sockets
    owner = pwd.getpwnam(USER)
    try:
        folder.chmod(0o711)
        make_files(folder)
        for name in ("c/libvirt", "r", "d", "k", "copies"):
            (folder / name).mkdir(parents=True)
        (folder / "c/libvirt/qemu.conf").write_text(QEMU_CONF)
        (folder / "libvirtd.conf").write_text(
            f'auth_unix_rw = "none"\nlog_outputs = "2:file:{folder}/d/log"\n'
        )
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, owner.pw_uid, owner.pw_gid)
        with _daemon(folder, owner):
            domain = GoldenDomain(folder, folder / "copies")
            _up(domain)
            yield domain
    finally:
        shutil.rmtree(folder)


@contextmanager
def _daemon(folder: Path, owner: pwd.struct_passwd) -> Iterator[None]:
    xdg = {"XDG_CONFIG_HOME": "c", "XDG_RUNTIME_DIR": "r", "XDG_DATA_HOME": "d", "XDG_CACHE_HOME": "k"}
    env = {**os.environ, "HOME": str(folder), **{key: str(folder / name) for key, name in xdg.items()}}
    argv = [tool("setpriv"), f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
    process = subprocess.Popen(
        [*argv, tool("libvirtd"), "-f", str(folder / "libvirtd.conf")], env=env, stdin=subprocess.DEVNULL
    )
    domain = GoldenDomain(folder, folder / "copies")
    try:
        until = time.monotonic() + 60
        while True:
            try:
                domain.virsh("list")
                break
            except CommandError:
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.2)
        yield
    finally:
        with suppress(CommandError):
            domain.virsh("destroy", "golden")
        process.terminate()
        process.wait()


def _up(domain: GoldenDomain) -> None:
    """Starts the node, and waits until it is up."""
    definition = domain.folder / "golden.xml"
    definition.write_text(DOMAIN.format(folder=domain.folder, cmdline=CMDLINE))
    domain.virsh("define", str(definition))
    domain.virsh("start", "golden")
    until = time.monotonic() + BOOT_LIMIT
    while True:
        try:
            domain.shell("systemctl is-active writer && test -s /var/lib/writer/log")
        except (KioskError, AssertionError):
            assert time.monotonic() < until, (domain.folder / "console").read_text(errors="replace")[-3000:]
            time.sleep(0.5)
        else:
            return
