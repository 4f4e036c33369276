"""Package URLs (https://github.com/package-url/purl-spec), as scanners of vulnerabilities read them."""

from __future__ import annotations

from packageurl import PackageURL

from kiosk.packages.installed import Installed


def purl(package: Installed, os: str, release: str) -> PackageURL:
    """The URL of an installed package. An rpm's epoch is a qualifier of its own, as the specification has it."""
    epoch, _, number = package.version.rpartition(":")
    if package.kind == "deb":
        qualifiers = {"arch": package.architecture, "distro": release}
        return PackageURL("deb", os, package.name, package.version, qualifiers)
    qualifiers = {"arch": package.architecture, "distro": f"{os}-{release}"}
    if epoch:
        qualifiers["epoch"] = epoch
    return PackageURL("rpm", os, package.name, number, qualifiers)


def wheel(name: str, version: str) -> PackageURL:
    """The URL of a Python distribution from PyPI."""
    return PackageURL("pypi", None, name, version)
