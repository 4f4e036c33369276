"""Small root file systems as folders: clean ones, to plant things in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from kiosk.audit import Facts, Report, audit
from kiosk.disk.folder import FolderVolume

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PASSWD = """root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
slurm:x:64030:64030::/nonexistent:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
SHADOW = "root:*:20000:0:99999:7:::\ndaemon:!:20000:0:99999:7:::\nslurm:!*:20000::::::\n"
FILES = {
    "etc/os-release": "ID=debian\nVERSION_CODENAME=bookworm\n",
    "etc/passwd": PASSWD,
    "etc/shadow": SHADOW,
    "etc/gshadow": "root:*::\nshadow:*::\nadm:!::\n",
    "etc/machine-id": "",
    "etc/fstab": "# nothing\nproc /proc proc defaults 0 0\n",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n",
    "etc/ssh/sshd_config": "PermitRootLogin no\nPasswordAuthentication no\n",
    "etc/pam.d/common-password": "password\trequisite\tpam_deny.so\n",
    "etc/nsswitch.conf": "passwd: files systemd\nshadow: files\n",
    "root/.profile": "mesg n\n",
}


@dataclass
class Root:
    """A root tree at `path`; `packages` are dpkg's, by name: files and whether they are configuration."""

    path: Path
    packages: dict[str, dict[str, bool]] = field(default_factory=dict)

    def write(self, path: str, data: bytes | str = b"", mode: int = 0o644) -> Path:
        """Writes a file, with the folders that it needs."""
        file = self.path / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data.encode() if isinstance(data, str) else data)
        file.chmod(mode)
        return file

    def install(
        self, package: str, files: dict[str, bytes | str], conf: tuple[str, ...] = (), mode: int = 0o755
    ) -> None:
        """Writes files that a package brought, to be registered by `database`."""
        for path, data in files.items():
            self.write(path, data, mode)
            self.packages.setdefault(package, {})[path] = path in conf

    def database(self) -> None:
        """Writes dpkg's database for all that was installed."""
        status = ""
        for package, files in self.packages.items():
            sums = {p: hashlib.md5((self.path / p.lstrip("/")).read_bytes()).hexdigest() for p in files}
            info = f"var/lib/dpkg/info/{package}"
            self.write(f"{info}.list", "/.\n" + "".join(f"{p}\n" for p in files))
            self.write(
                f"{info}.md5sums",
                "".join(f"{sums[p]}  {p.lstrip('/')}\n" for p, conf in files.items() if not conf),
            )
            status += (
                f"Package: {package}\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.0-1\n"
            )
            if any(files.values()):
                status += "Conffiles:\n" + "".join(f" {p} {sums[p]}\n" for p, conf in files.items() if conf)
            status += "\n"
        self.write("var/lib/dpkg/status", status)

    def audit(self, facts: Facts | None = None) -> Report:
        """The report on this tree."""
        return audit(FolderVolume(self.path), facts or Facts(), now=lambda: NOW)

    def found(self, check: str) -> list[str]:
        """The places of a check's findings."""
        return [f.place for f in self.audit().findings if f.check == check]


def clean(path: Path) -> Root:
    """A root tree that passes: usr-merged, with a system log from a package."""
    root = Root(path)
    for folder in ("usr/bin", "usr/lib", "usr/sbin", "etc", "dev", "tmp", "var/tmp", "var/log", "home"):
        (path / folder).mkdir(parents=True)
    for folder in ("tmp", "var/tmp"):
        (path / folder).chmod(0o1777)
    for name in ("bin", "lib", "sbin"):
        (path / name).symlink_to(f"usr/{name}")
    for name, data in FILES.items():
        root.write(name, data)
    root.install(
        "systemd", {"/lib/systemd/systemd-journald": b"\x7fELF journald", "/bin/login": b"\x7fELF login"}
    )
    root.database()
    return root
