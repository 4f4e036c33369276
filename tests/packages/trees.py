"""Root trees with real package databases: dpkg's written as dpkg writes it, rpm's made by rpm itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kiosk.run import run

SPEC = """Name: {name}
Version: {version}
Release: {release}
{epoch}Summary: A package
License: {licence}
Vendor: Example Linux
BuildArch: noarch
%description
A package without files.
%files
"""


@dataclass(frozen=True)
class Rpm:
    """A package to build and install."""

    name: str
    version: str
    release: str = "1.el9"
    epoch: int | None = None
    licence: str = "MIT"

    def build(self, folder: Path) -> Path:
        """The package file, made by rpmbuild."""
        folder.mkdir(parents=True, exist_ok=True)
        spec = folder / f"{self.name}-{self.version}-{self.release}.spec"
        epoch = "" if self.epoch is None else f"Epoch: {self.epoch}\n"
        fields = {
            "name": self.name,
            "version": self.version,
            "release": self.release,
            "licence": self.licence,
        }
        spec.write_text(SPEC.format(**fields, epoch=epoch))
        run(["rpmbuild", "-bb", "--define", f"_topdir {folder}", spec], timeout=60, env={"HOME": str(folder)})
        return folder / "RPMS/noarch" / f"{self.name}-{self.version}-{self.release}.noarch.rpm"


def rpm_tree(root: Path, work: Path, *packages: Rpm) -> Path:
    """A tree in whose database rpm has installed the packages. Returns the database's folder."""
    files = [p.build(work) for p in packages]
    root.mkdir(parents=True, exist_ok=True)
    argv: list[str | Path] = ["rpm", "--root", root, "--dbpath", "/var/lib/rpm", "--justdb", "--nodeps"]
    run([*argv, "--ignorearch", "--install", *files], timeout=60, env={"HOME": str(work)})
    return root / "var/lib/rpm"


def stanza(name: str, version: str, **more: str) -> str:
    """A package in dpkg's status file."""
    fields = {"Package": name, "Status": "install ok installed", "Architecture": "amd64", "Version": version}
    fields |= {key.replace("_", "-").title(): value for key, value in more.items()}
    return "".join(f"{key}: {value}\n" for key, value in fields.items() if value) + "\n"


def dpkg_tree(root: Path, *stanzas: str) -> Path:
    """A tree with a status file."""
    status = root / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text("".join(stanzas))
    return root
