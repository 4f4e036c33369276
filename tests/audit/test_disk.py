"""Finished disk images, read as data; what stands beside the root is not passed over."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from kiosk.audit import Facts
from kiosk.audit.disk import audit_disk
from kiosk.errors import CorruptError, KioskError, NotFoundError, UsageError
from kiosk.files import sha256
from kiosk.run import run
from tests.audit import material
from tests.audit.images import NOW, Root, clean
from tests.disk.test_disk import assemble

MIB = 1 << 20


def file_system(root: Path, target: Path) -> Path:
    """An ext4 file system of 16 MiB with a tree."""
    run(["mkfs.ext4", "-q", "-d", root, target, "16M"], timeout=60)
    return target


def disk(folder: Path, root: Path, beside: bytes = b"", efi: dict[str, bytes] | None = None) -> Path:
    """A GPT disk: an EFI system partition, the root, and a third partition."""
    target = folder / "disk.raw"
    with target.open("wb") as f:
        f.truncate(64 * MIB)
    table = "label: gpt\nstart=2048,size=32768,name=esp\nsize=32768,name=root\nsize=32768,name=third\n"
    subprocess.run(["/usr/sbin/sfdisk", "-q", target], input=table.encode(), check=True)
    esp = folder / "esp"
    with esp.open("wb") as f:
        f.truncate(16 * MIB)
    run(["mkfs.vfat", esp], timeout=60)
    for name, data in {"boot.efi": b"program", **(efi or {})}.items():
        (folder / "file").write_bytes(data)
        run(["mcopy", "-i", esp, folder / "file", f"::/{name}"], timeout=60)
    parts = [esp.read_bytes(), file_system(root, folder / "ext4").read_bytes(), beside]
    with target.open("r+b") as f:
        for i, data in enumerate(parts):
            f.seek(MIB + i * 16 * MIB)
            f.write(data)
    return target


@pytest.fixture
def root(tmp_path: Path) -> Root:
    made = clean(tmp_path / "root")
    made.write("opt/key", material.pem())
    return made


def test_a_disk_is_read_and_stays_as_it_was(root: Root, tmp_path: Path) -> None:
    image = disk(tmp_path, root.path)
    image.chmod(0o400)
    before = image.stat().st_mtime_ns, image.read_bytes()
    seen: list[int] = []
    report = audit_disk(image, Facts(), progress=seen.append, now=lambda: NOW)
    assert [(f.check, f.path) for f in report.findings] == [("private-key", "/opt/key")]
    assert sum(seen) == report.counts.bytes
    assert (image.stat().st_mtime_ns, image.read_bytes()) == before


def test_the_report_names_the_bytes_that_were_read(root: Root, tmp_path: Path) -> None:
    image = file_system(root.path, tmp_path / "disk.raw")
    assert audit_disk(image, Facts(), now=lambda: NOW).disk == sha256(image)
    with pytest.raises(CorruptError, match="the manifest says sha256:0000"):
        audit_disk(image, Facts(disk="sha256:" + "0" * 64))


@pytest.mark.parametrize("deed", ["written", "replaced", "removed"])
def test_a_disk_that_changes_while_it_is_audited_has_no_report(deed: str, root: Root, tmp_path: Path) -> None:
    image = file_system(root.path, tmp_path / "disk.raw")
    other = tmp_path / "other.raw"
    other.write_bytes(image.read_bytes())

    def change(count: int) -> None:
        if deed == "written":
            os.utime(image, ns=(0, 0))
        elif deed == "replaced" and other.exists():
            other.replace(image)
        elif deed == "removed":
            image.unlink(missing_ok=True)

    with pytest.raises(CorruptError, match="changed while it was audited"):
        audit_disk(image, Facts(), progress=change, now=lambda: NOW)


def test_what_stands_beside_the_root_is_told(root: Root, tmp_path: Path) -> None:
    swap = bytes(4086) + b"SWAPSPACE2"
    image = disk(tmp_path, root.path, swap, {"random-seed": b"x" * 32, "notes.txt": b"hello"})
    found = {(f.check, f.path) for f in audit_disk(image, Facts(), now=lambda: NOW).findings}
    assert found == {
        ("private-key", "/opt/key"),
        ("random-seed", "/boot/efi/random-seed"),
        ("unexamined", "/boot/efi/notes.txt"),
        ("unexamined", "/dev/third"),
    }


def test_a_list_of_boot_files_without_an_end_is_told(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kiosk.audit.disk._MOST_LISTED", 10)
    image = disk(tmp_path, root.path, b"", {f"{i}.efi": b"" for i in range(20)})
    found = audit_disk(image, Facts(), now=lambda: NOW).findings
    assert [f.message for f in found if f.check == "unexamined"] == [
        "the EFI system partition can't be listed: its list has no end"
    ]


def test_another_file_system_that_nobody_mounts_is_told(root: Root, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = file_system(tmp_path / "other", tmp_path / "other.ext4").read_bytes()
    found = audit_disk(disk(tmp_path, root.path, other), Facts(), now=lambda: NOW).findings
    assert [f.path for f in found if f.check == "unexamined"] == ["/dev/third"]


def test_a_partition_that_is_named_but_not_looked_into_is_told(tmp_path: Path) -> None:
    """Beside one that is: the root has its kernels on a file system of their own, and /data on another."""
    root = clean(tmp_path / "root")
    root.write("etc/fstab", b"LABEL=kernels /boot ext4 ro 0 2\nLABEL=data /data ext4 defaults 0 2\n")
    (root.path / "boot").mkdir(exist_ok=True)
    (root.path / "data").mkdir()
    folders = {"kernels": tmp_path / "kernels", "data": tmp_path / "data"}
    parts = [file_system(root.path, tmp_path / "first")]
    for label, folder in folders.items():
        folder.mkdir()
        (folder / "key").write_bytes(material.pem())
        run(["mkfs.ext4", "-q", "-L", label, "-d", folder, tmp_path / f"{label}.img", "8M"], timeout=60)
        parts.append(tmp_path / f"{label}.img")
    image = assemble(tmp_path / "disk", *parts)
    found = {(f.check, f.path) for f in audit_disk(image, Facts(), now=lambda: NOW).findings}
    assert ("private-key", "/boot/key") in found
    assert ("unexamined", "/dev/part2") in found


def test_what_is_no_disk_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "qcow2").write_bytes(b"QFI\xfb" + bytes(5000))
    (tmp_path / "noise").write_bytes(material.noise("n", 100_000))
    (tmp_path / "luks").write_bytes(b"LUKS\xba\xbe\0\2" + bytes(100_000))
    for name, kind, says in [
        ("none", NotFoundError, "no such disk image"),
        ("qcow2", UsageError, "qcow2"),
        ("noise", UsageError, "no root file system"),
        ("luks", UsageError, "encrypted"),
    ]:
        with pytest.raises(KioskError, match=says) as caught:
            audit_disk(tmp_path / name, Facts())
        assert isinstance(caught.value, kind)
