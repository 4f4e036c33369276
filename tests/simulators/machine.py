"""A machine of its own with a real systemd as its first process, in namespaces: the files of this one under an overlay,
no network but loopback, and what a test puts there. It ends when its script does.

Nothing of it touches this machine: whatever it writes is in memory, and the kernel's own settings can't be written.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kiosk.build.sandbox import namespaces

ROOT = Path(__file__).parents[2]
BOOT = """set -eu
here=$1; shift
mount --make-rprivate /
mount -t tmpfs tmpfs "$here/memory"
mkdir "$here/memory/up" "$here/memory/work" "$here/memory/root"
root=$here/memory/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$here/memory/up,workdir=$here/memory/work" "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,ro,bind "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
    touch "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue" "$root/dev/hugepages"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
for path in "$@"; do mkdir -p "$root$path"; mount --bind "$path" "$root$path"; done
rm -rf "$root"/etc/systemd/system/* "$root"/etc/kiosk "$root"/var/lib/kiosk; rm -f "$root/etc/fstab"
cp -a "$here/tree/." "$root/"
for unit in systemd-sysctl systemd-binfmt systemd-modules-load systemd-udevd systemd-udev-trigger \
        systemd-tmpfiles-setup-dev; do
    ln -s /dev/null "$root/etc/systemd/system/$unit.service"
done
mkdir -p "$root/mnt"; mount --bind "$here/out" "$root/mnt"
ip link set lo up
mount --make-rshared "$root"  # as systemd finds it on a machine: credentials come by it
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    chroot "$root" /lib/systemd/systemd --system --unit=told.target
"""
TARGET = "[Unit]\nRequires=basic.target\nAfter=basic.target\nWants=told.service\n"
SERVICE = """[Unit]
After=basic.target
[Service]
Type=oneshot
WorkingDirectory=/mnt
ExecStart=/bin/sh -ex /mnt/script
StandardOutput=file:/mnt/said
StandardError=inherit
ExecStopPost=/bin/sh -c 'echo $SERVICE_RESULT >/mnt/result; journalctl --no-pager -b >/mnt/journal; exec systemctl exit'
"""


def can_boot() -> bool:
    """Whether such a machine can be made here."""
    return (
        os.geteuid() == 0
        and Path("/lib/systemd/systemd").exists()
        and all(shutil.which(tool) for tool in ("unshare", "ip", "systemctl"))
        and _cgroups() is not None
    )


class Machine:
    """What is copied over the root before it starts is in `tree`; what its script leaves in /mnt is in `out`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree, self.out = folder / "tree", folder / "out"
        for path in (self.tree, self.out, folder / "memory"):
            path.mkdir()

    def put(self, path: str, text: str, mode: int = 0o644) -> Path:
        """A file on the machine."""
        file = self.tree / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def run(self, script: str, seconds: float = 120) -> str:
        """Starts it, has systemd run the script (sh -ex, in /mnt), and returns what that said. AssertionError where it
        fails, with the journal."""
        (self.out / "script").write_text(script)
        (self.folder / "boot").write_text(BOOT)
        self.put("/usr/bin/kiosk", f'#!/bin/sh\nexec {sys.executable} -m kiosk "$@"\n', 0o755)
        self.put("/etc/systemd/system/told.target", TARGET)
        self.put("/etc/systemd/system/told.service", SERVICE)
        with _cgroup() as group:
            argv = [*map(str, namespaces()), "--cgroup", "--ipc", "--uts", "--net"]
            argv += ["sh", str(self.folder / "boot"), str(self.folder), str(ROOT), sys.prefix]
            with (self.folder / "console").open("wb") as console:
                done = subprocess.run(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    timeout=seconds,
                    preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())) and None,
                )
        said = self._text(self.out / "said")
        result = self._text(self.out / "result").strip()
        assert result == "success", (
            f"{result or done.returncode}\n{self._text(self.folder / 'console')}\n{said}\n"
            f"{self._text(self.out / 'journal')[-8000:]}"
        )
        return said

    @staticmethod
    def _text(path: Path) -> str:
        return path.read_text(errors="replace") if path.exists() else ""


def _cgroups() -> Path | None:
    """Where the unified hierarchy is."""
    for path in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if Path(path, "cgroup.procs").exists() and Path(path, "cgroup.controllers").exists():
            return Path(path)
    return None


@contextlib.contextmanager
def _cgroup() -> Iterator[Path]:
    """A group of its own, removed with all below it."""
    parent = _cgroups()
    assert parent is not None
    made = Path(tempfile.mkdtemp(prefix="kiosk-machine-", dir=parent))
    try:
        yield made
    finally:
        for path in sorted((p for p in made.rglob("*") if p.is_dir()), reverse=True):
            path.rmdir()
        made.rmdir()
