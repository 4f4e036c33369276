"""A machine in a folder: real files, real SquashFS images, real accounts (systemd-sysusers --root), and mounts
that unpack instead of mounting. What only a running kernel and systemd can do is written down."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contextualize.boot import boot
from contextualize.machine import Machine
from contextualize.stages.report import CONSOLE, PORT, Reporter
from tests.contextualize.repository import SignedRepository

ROOT_HASH = "ab" * 32
NODE = "0c0ffee0-0000-4000-8000-000000000001"


class FolderMachine(Machine):
    """A machine whose root is a folder."""

    def __init__(self, root: Path, context: Path) -> None:
        super().__init__(root)
        self.context = context
        self.hostname = ""
        self.mounts: dict[str, tuple[str, str]] = {}
        self.asked: list[tuple[str, ...]] = []
        self.disks: list[tuple[str, str]] = []
        self.closed: list[str] = []
        self.accounts: list[str] = []

    def file_systems(self) -> list[tuple[str, str]]:
        return self.disks

    def appears(self, paths: Sequence[str], seconds: float) -> str:
        return super().appears(paths, 0)

    def mount(self, device: str, where: str, kind: str, options: str) -> None:
        self.mounts[where] = (kind, options)
        if kind == "squashfs":
            argv = [
                "unsquashfs",
                "-quiet",
                "-no-progress",
                "-force",
                "-dest",
                self.path(where),
                self.path(device),
            ]
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        elif "vfat" in kind and self.path(device).exists() and self.path(device).stat().st_size:
            unpack(self.path(device), self.path(where))
        elif "vfat" in kind:
            shutil.copytree(self.context, self.path(where), dirs_exist_ok=True)

    def unmount(self, where: str) -> None:
        del self.mounts[where]
        shutil.rmtree(self.path(where))

    def known(self, database: str, keys: Sequence[str]) -> str:
        return next((line for line in self.accounts if line.split(":")[0] in keys), "")

    def set_hostname(self, name: str) -> None:
        self.hostname = name

    def only_root(self, address: str) -> None:
        self.closed.append(address)

    def systemctl(self, *words: str) -> None:
        self.asked.append(("systemctl", *words))

    def run(self, argv: Sequence[str], timeout: float = 60) -> str:
        if argv[0] in ("systemd-run", "swapon"):
            self.asked.append(tuple(argv))
            return ""
        if argv[0] == "dmsetup":
            self.asked.append(tuple(argv))
            return self.device_mapper(argv[5], argv[7].split())
        return super().run(argv, timeout)

    def device_mapper(self, name: str, table: list[str]) -> str:
        """A device with as many of the first blocks as the tree vouches for: the others can't be read."""
        start, sectors, kind, _, data, hashes, size, _, blocks, at, algorithm, root, salt = table
        assert (start, kind, size, algorithm) == ("0", "verity", "4096", "sha256")
        assert (data, int(sectors)) == (hashes, int(blocks) * 8)
        disk = self.path(data)
        argv = ["veritysetup", "verify", "--no-superblock", f"--salt={salt}", f"--data-blocks={blocks}"]
        argv += [f"--hash-offset={int(at) * 4096}", "--data-block-size=4096", "--hash-block-size=4096"]
        done = subprocess.run([*argv, disk, disk, root], capture_output=True, text=True, check=False)
        good = int(blocks) * 4096
        if done.returncode:
            wrong = re.search(r"Verification failed at position (\d+)", done.stderr)
            good = int(wrong[1]) if wrong else 0
        node = f"dm-{len(list(self.path('/sys/block').glob('dm-*')))}"
        self.path(f"/sys/block/{node}/dm").mkdir(parents=True)
        self.path(f"/sys/block/{node}/dm/name").write_text(f"{name}\n")
        self.path(f"/dev/{node}").write_bytes(disk.read_bytes()[:good])
        return ""


def unpack(image: Path, folder: Path) -> None:
    """The files of a context disk, by programs that share nothing with those that wrote it."""
    argv = ["bsdtar", "-x", "-f", image, "-C", folder]
    if image.read_bytes()[510:512] == b"\x55\xaa":
        argv = ["mcopy", "-s", "-i", image, "::/*", folder]
    subprocess.run(argv, check=True)


class Guest:
    """An image booted in a folder, with everything about it in a test's hands until `boot`."""

    def __init__(self, home: Path) -> None:
        self.root, self.disk = home / "root", home / "context"
        self.disk.mkdir(parents=True)
        self.repository = SignedRepository()
        self.machine = FolderMachine(self.root, self.disk)
        self.image = {"name": "debian-12-minimal", "version": "20260301.1"}
        self.context: dict[str, Any] = {
            "schema": "kiosk.context/1",
            "node": {"id": NODE, "name": "node-7.example.org"},
            "image": dict(self.image),
            "layers": [],
        }
        self.add_manifest(
            "images",
            "images/debian-12-minimal/20260301.1.json",
            {
                "schema": "kiosk.image/1",
                **self.image,
                "verity": {"root_hash": ROOT_HASH, "salt": ""},
                "os": "debian",
            },
        )
        self.write("/usr/lib/kiosk/image.json", {"schema": "kiosk.image-identity/1", **self.image})
        self.write("/usr/lib/kiosk/policy.json", {"etc": ["/etc/kiosk/*", "/etc/profile.d/*"]})
        self.write("/usr/lib/kiosk/root.json", self.repository.root())
        self.write("/etc/passwd", b"root:x:0:0:root:/root:/bin/bash\ndaemon:x:201:201::/:/usr/sbin/nologin\n")
        self.write("/etc/group", b"root:x:0:\ndaemon:x:201:\nslurm:x:210:\nother:x:211:\n")
        self.write("/etc/profile.d/base.sh", b"# the base's own\n")
        self.write("/proc/cmdline", f"root=/dev/mapper/root roothash={ROOT_HASH} console=ttyS0\n".encode())
        self.write("/proc/uptime", b"12.50 20.00\n")
        self.write("/sys/block/dm-0/dm/name", b"root\n")
        self.write("/sys/block/dm-0/dm/uuid", b"CRYPT-VERITY-0123-root\n")
        for empty in ("/dev/disk/by-label/CIDATA", CONSOLE, PORT, "/usr/lib/systemd/system/ssh.service"):
            self.write(empty, b"")

    def write(self, path: str, content: object) -> None:
        """Writes a file of the machine; what is not bytes is written as JSON."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())

    def add_manifest(self, role: str, path: str, manifest: object) -> None:
        """Signs a manifest."""
        self.repository.add(role, path, manifest)

    def add_layer(
        self,
        name: str,
        squashfs: bytes,
        declares: dict[str, Any] | None = None,
        /,
        *,
        role: str | None = None,
        **changes: object,
    ) -> None:
        """Signs a layer by its owner's role (or another), plugs its disk in, and asks for it in the context."""
        kind, owner, short = name.split("/")
        device = f"layer-{len(self.context['layers'])}"
        digest = f"sha256:{hashlib.sha256(squashfs).hexdigest()}"
        manifest: dict[str, Any] = {
            "schema": "kiosk.layer/1",
            "kind": kind,
            "owner": owner,
            "name": short,
            "version": "1",
            "prefix": "/opt/site" if kind == "site" else f"/opt/experiment/{owner}",
            "images": [self.image["name"]],
            "declares": declares or {},
            "artifacts": {"layer": {"file": "layer.squashfs", "size": len(squashfs), "digest": digest}},
            **changes,
        }
        self.add_manifest(role or f"{kind}-{owner}", f"layers/{name}/1.json", manifest)
        self.write(f"/dev/disk/by-id/virtio-{device}", squashfs + bytes(512))
        self.context["layers"].append({"name": name, "version": "1", "device": device})

    def sign(self) -> None:
        """Signs the repository and writes the context disk."""
        self.repository.write(self.disk / "kiosk")
        (self.disk / "user-data").write_text(json.dumps(self.context))

    def boot(self, *, signed: bool = False) -> int:
        """Boots; what was signed before with `sign` stays as it is with `signed`."""
        if not signed:
            self.sign()
        return boot(self.machine, Reporter(self.machine, patience=1))

    def refused(self) -> str:
        """What the report says about why the machine must not live, as `stage: reason`."""
        last = self.reports()[-1]
        assert last["state"] == "failed", last
        assert not self.machine.exists("/run/kiosk/attestation.json")
        assert f"kiosk: failed in {last['stage']}: " in self.text(CONSOLE)
        return f"{last['stage']}: {last['reason']}"

    def reports(self) -> list[dict[str, Any]]:
        """All that was said to the hypervisor."""
        return [json.loads(line) for line in self.text(PORT).splitlines()]

    def text(self, path: str) -> str:
        """A file of the machine."""
        return (self.root / path.lstrip("/")).read_text()
