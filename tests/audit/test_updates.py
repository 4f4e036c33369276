"""Security updates by a real apt and a signed archive in a folder; what can't be asked is never "none"."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kiosk.audit import Facts
from kiosk.audit.model import Package, Update, UpdatesUnknownError
from kiosk.audit.updates import ArchiveUpdates
from kiosk.files import sha256
from tests.audit.images import clean

INDEX = """\
Package: openssl
Version: 3.0.22-1~deb12u2
Architecture: amd64

Package: linux-image-6.1.0-57-cloud-amd64
Source: linux-signed-amd64 (6.1.200+1)
Version: 6.1.200-1
Architecture: amd64
"""
OPENSSL = Package("openssl", "3.0.20-1~deb12u2", "amd64", "openssl", "3.0.20-1~deb12u2")
NEWER = Package("openssl", "3.0.22-1~deb12u2", "i386", "openssl", "3.0.22-1~deb12u2")
KERNEL = Package("linux-image-6.1.0-56-cloud-amd64", "6.1.176-1", "amd64", "linux-signed-amd64", "6.1.176+1")
NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Archive:
    """A security archive in a folder, signed with a key made for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keyring = folder / "keyring.gpg"
        self._home = folder / "gnupg"
        self._home.mkdir(mode=0o700, parents=True)
        self._gpg("--quick-generate-key", "--passphrase", "", "archive", "ed25519", "sign", "never")
        self.keyring.write_bytes(self._gpg("--export"))
        self.publish(INDEX)

    def publish(self, index: str, firmware: str = "") -> None:
        suite = self.folder / "dists/bookworm-security"
        lines = ""
        for component, text in (("main", index), ("non-free-firmware", firmware)):
            packages = suite / component / "binary-amd64/Packages"
            packages.parent.mkdir(parents=True, exist_ok=True)
            packages.write_text(text)
            digest = sha256(packages).removeprefix("sha256:")
            lines += f" {digest} {packages.stat().st_size} {component}/binary-amd64/Packages\n"
        release = suite / "Release"
        release.write_text(
            "Suite: bookworm-security\nCodename: bookworm-security\nArchitectures: amd64\n"
            "Components: main contrib non-free non-free-firmware\nDate: Sun, 01 Mar 2026 00:00:00 UTC\n"
            f"SHA256:\n{lines}"
        )
        (suite / "InRelease").write_bytes(self._gpg("--clearsign", "-o", "-", str(release)))

    def _gpg(self, *words: str) -> bytes:
        argv = ["gpg", "--batch", "--quiet", "--homedir", str(self._home), *words]
        return subprocess.run(argv, check=True, capture_output=True).stdout

    def close(self) -> None:
        subprocess.run(["gpgconf", "--homedir", str(self._home), "--kill", "all"], check=False)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    made = Archive(tmp_path_factory.mktemp("archive"))
    yield made
    made.close()


def asking(archive: Archive, cache: Path, now: datetime = NOW, keyring: Path | None = None) -> ArchiveUpdates:
    return ArchiveUpdates(
        lambda r: f"file:{archive.folder}", lambda: keyring or archive.keyring, cache, lambda: now
    )


def test_missing_updates_are_told_a_kernels_too_and_the_answer_is_kept(
    archive: Archive, tmp_path: Path
) -> None:
    updates = asking(archive, tmp_path / "cache")
    expected = (
        Update("openssl", "3.0.20-1~deb12u2", "3.0.22-1~deb12u2"),
        Update(KERNEL.name, "6.1.176+1", "6.1.200+1 of its source linux-signed-amd64"),
    )
    assert updates.missing("debian", "bookworm", (OPENSSL, NEWER, KERNEL)) == expected
    archive.publish("Package: tzdata\nVersion: 2026f\nArchitecture: amd64\n")
    try:
        again = asking(archive, tmp_path / "cache", NOW + timedelta(minutes=59))
        assert again.missing("debian", "bookworm", (OPENSSL, KERNEL)) == expected
        later = asking(archive, tmp_path / "cache", NOW + timedelta(minutes=61))
        assert later.missing("debian", "bookworm", (OPENSSL, KERNEL)) == ()
    finally:
        archive.publish(INDEX)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["updates-bookworm.json"]


def test_updates_of_firmware_are_told(archive: Archive, tmp_path: Path) -> None:
    archive.publish(INDEX, "Package: intel-microcode\nVersion: 3.20260210.1~deb12u1\nArchitecture: amd64\n")
    installed = Package("intel-microcode", "3.20251111.1~deb12u1", "amd64")
    try:
        missing = asking(archive, tmp_path / "cache").missing("debian", "bookworm", (installed,))
    finally:
        archive.publish(INDEX)
    assert [u.available for u in missing] == ["3.20260210.1~deb12u1"]


def test_what_is_not_known_is_never_none(archive: Archive, tmp_path: Path) -> None:
    nobodys = tmp_path / "nobody.gpg"
    nobodys.write_bytes(b"")
    for updates, os, release, says in [
        (asking(archive, tmp_path / "a"), "debian", "trixie", "can't be asked"),
        (asking(archive, tmp_path / "b", keyring=nobodys), "debian", "bookworm", "can't be asked"),
        (asking(archive, tmp_path / "c"), "almalinux", "9", "no way to ask"),
        (asking(archive, tmp_path / "d"), "debian", "../x", "no way to ask"),
    ]:
        with pytest.raises(UpdatesUnknownError, match=says):
            updates.missing(os, release, (OPENSSL,))


def test_the_report_tells_updates_unknown_ones_and_a_check_that_was_left_out(
    archive: Archive, tmp_path: Path
) -> None:
    root = clean(tmp_path / "root")
    root.install("openssl", {"/usr/bin/openssl": b"x"})
    root.database()
    report = root.audit(Facts(updates=asking(archive, tmp_path / "cache")))
    assert [(f.check, f.item) for f in report.findings] == [("security-update", "openssl")]
    root.write("etc/os-release", "ID=debian\nVERSION_CODENAME=trixie\n")
    report = root.audit(Facts(updates=asking(archive, tmp_path / "cache")))
    assert [f.check for f in report.findings] == ["updates-unknown"]
    assert set(root.audit().left_out) == {"security-update", "updates-unknown"}
