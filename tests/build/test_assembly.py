"""The same tree gives the same bytes, wherever, whenever and by whomever; a small change stays small."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from pathlib import Path
from uuid import UUID

import pytest

from kiosk.build import census, clean, ext4, image
from kiosk.build.book import Book
from kiosk.build.image import full_disk
from kiosk.build.version import Making, Origin, Timing, next_version
from kiosk.config import Settings
from kiosk.errors import BuildError, StorageError
from kiosk.files import sha256, storage_errors
from kiosk.model.census import read_files
from kiosk.model.manifest import ImageManifest
from kiosk.model.names import Version
from kiosk.run import run
from tests.build.conftest import Maker, content

DATE = 1_780_000_000


def make_version(root: Path, folder: Path, *, trust: Path | None = None) -> tuple[ImageManifest, Path]:
    """What `kiosk build` does with an unpacked tree."""
    staged, private = folder / "staged", folder / "private"
    staged.mkdir(parents=True)
    private.mkdir()
    entry = Book.of(Settings(home=folder)).entry("debian-12-minimal")
    image.take_boot_files(root, staged)
    clean.clean(root, DATE)
    origin = Origin("recipe", entry.recipe.name, "sha256:" + "0" * 64, image.parameters(entry))
    making = Making(image.subject(entry.recipe), Version((20260528, 1)), origin, DATE, trust, Timing())
    return making.version(root, staged, private), staged


def blocks(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [hashlib.sha256(data[i : i + 4096]).digest() for i in range(0, len(data), 4096)]


def test_order_umask_time_and_folder_leave_no_trace(tree: Maker, tmp_path: Path) -> None:
    first, staged = make_version(tree("first"), tmp_path / "here")
    time.sleep(2.1)  # FAT counts in steps of two seconds
    old = os.umask(0o077)
    try:
        root = tree("elsewhere/second", backwards=True)
        second, again = make_version(root, tmp_path / "there/deeper")
    finally:
        os.umask(old)
    assert first.artifacts["disk"].digest == second.artifacts["disk"].digest
    assert first == second
    assert (staged / "manifest.json").read_bytes() == (again / "manifest.json").read_bytes()


def test_one_changed_file_changes_a_handful_of_blocks(tree: Maker, tmp_path: Path) -> None:
    _, before = make_version(tree("one"), tmp_path / "a")
    changed = {"usr/lib/part07/file207": content("other", 700 + 173 * 207)}
    _, after = make_version(tree("two", changes=changed), tmp_path / "b")
    known = set(blocks(before / "disk.raw"))
    data = -(-(700 + 173 * 207) // 4096)
    new = [b for b in blocks(after / "disk.raw") if b not in known]
    assert data <= len(new) <= data + 12  # and the path to the root hash, its words, and superblocks


def test_one_added_file_leaves_the_content_of_all_others(tree: Maker, tmp_path: Path) -> None:
    _, before = make_version(tree("one"), tmp_path / "a")
    _, after = make_version(tree("two", changes={"etc/aaa": b"new\n"}), tmp_path / "b")
    old, new = blocks(before / "disk.raw"), blocks(after / "disk.raw")
    known = set(old)
    changed = sum(1 for b in new if b not in known)
    assert changed < len(new) // 10


def test_the_root_partition_holds_and_verity_vouches_for_it(tree: Maker, tmp_path: Path) -> None:
    manifest, staged = make_version(tree("tree"), tmp_path / "a")
    disk = (staged / "disk.raw").read_bytes()
    assert len(disk) == manifest.artifacts["disk"].size
    parts = {p.label: tmp_path / f"{p.label}.img" for p in manifest.partitions}
    for p in manifest.partitions:
        parts[p.label].write_bytes(disk[p.offset : p.offset + p.size])
    run(["e2fsck", "-fn", parts["root"]], timeout=60)
    verify = ["veritysetup", "verify", parts["root"], parts["verity"], manifest.verity.root_hash]
    run(verify, timeout=60)
    damaged = bytearray(parts["root"].read_bytes())
    damaged[40960] ^= 1
    parts["root"].write_bytes(damaged)
    assert subprocess.run([str(w) for w in verify], capture_output=True).returncode != 0
    listed = json.loads(run(["sfdisk", "--json", staged / "disk.raw"], timeout=60))["partitiontable"]
    assert [(p["name"], p["start"] * 512, p["size"] * 512) for p in listed["partitions"]] == [
        (p.label, p.offset, p.size) for p in manifest.partitions
    ]
    run(["mcopy", "-i", parts["esp"], "::/EFI/BOOT/BOOTX64.EFI", tmp_path / "uki"], timeout=60)
    assert manifest.cmdline.encode() in (tmp_path / "uki").read_bytes()
    assert f"roothash={manifest.verity.root_hash}" in manifest.cmdline


def test_nothing_of_the_build_and_no_identity_is_in_the_image(tree: Maker, tmp_path: Path) -> None:
    root = tree("tree")
    trust = tmp_path / "root.json"
    trust.write_bytes(b"{}\n")
    _, staged = make_version(root, tmp_path / "a", trust=trust)
    entries = {f.path: f for f in read_files((staged / "files.json").read_bytes(), where="files.json")}
    files = list(entries)
    gone = (
        "ssh_host",
        "dib-manifests",
        "bash_history",
        "kiosk-apt",
        "dpkg.log",
        "random-seed",
        "vmlinuz",
        "/hostname",
    )
    assert [f for f in files if any(g in f for g in gone)] == []
    assert (root / "etc/machine-id").read_bytes() == b""
    assert {"/usr/lib/kiosk/image.json", "/usr/lib/kiosk/policy.json", "/usr/lib/kiosk/root.json"} <= set(
        files
    )
    assert json.loads((root / "usr/lib/kiosk/image.json").read_text())["name"] == "debian-12-minimal"
    policy = root / "usr/lib/kiosk/policy.json"
    assert entries["/usr/lib/kiosk/policy.json"].size == policy.stat().st_size
    assert entries["/usr/lib/kiosk/policy.json"].digest == sha256(policy)[7:39]
    packages = json.loads((staged / "packages.json").read_text())
    assert [p["name"] for p in packages] == ["adduser", "bash"]
    statement = json.loads((staged / "provenance.json").read_text())
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert "disk.raw" in [s["name"] for s in statement["subject"]]


def test_a_file_that_claims_a_terabyte_is_refused_before_it_is_read(tree: Maker, tmp_path: Path) -> None:
    root = tree("tree")
    with (root / "usr/lib/lastlog").open("wb") as f:
        f.truncate(1 << 40)
    with pytest.raises(BuildError, match=r"1024\.. GiB .* than 128 GiB; the largest is /usr/lib/lastlog"):
        make_version(root, tmp_path / "a")
    ext4.refuse_too_large(root, 2 << 40)


def test_folders_count_as_what_is_in_them_whatever_the_host_has_for_them(tmp_path: Path) -> None:
    """A folder of ext4 stays as large as it once was; other file systems count in other ways."""
    for name, many in (("before", 500), ("fresh", 0)):
        (tmp_path / name / "folder").mkdir(parents=True)
        for number in range(many):
            (tmp_path / name / "folder" / f"{number}-{'n' * 100}").touch()
        for left in (tmp_path / name / "folder").iterdir():
            left.unlink()
        (tmp_path / name / "folder/file").write_bytes(b"x")
    before, fresh = (ext4.measure(tmp_path / name) for name in ("before", "fresh"))
    assert (before.inodes, before.blocks) == (fresh.inodes, fresh.blocks) == (3, 5)


def test_large_folders_have_room(tmp_path: Path) -> None:
    (tmp_path / "tree/folder").mkdir(parents=True)
    for number in range(1_000):
        (tmp_path / "tree/folder" / f"{number:05}-{'n' * 200}").touch()
    assert ext4.measure(tmp_path / "tree").blocks == 2 + 1 + -(-1_000 // (4096 // 216))
    ext4.make(tmp_path / "tree", tmp_path / "image", uuid=str(UUID(int=1)), label="root", date=DATE)
    run(["e2fsck", "-fn", tmp_path / "image"], timeout=60)


def test_a_tree_is_told_apart_by_anything_that_a_guest_can_see(tree: Maker) -> None:
    root = tree("tree")
    seen = {census.tree_digest(root)}
    target = root / "usr/lib/part01/file001"
    target.chmod(0o755)
    seen.add(census.tree_digest(root))
    os.utime(target, (5, 5))
    seen.add(census.tree_digest(root))
    (root / "usr/lib/twin").unlink()
    seen.add(census.tree_digest(root))
    os.setxattr(target, "user.kiosk", b"1")
    seen.add(census.tree_digest(root))
    assert len(seen) == 5


def test_clamping_keeps_what_is_older_than_the_source_date(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"")
    os.utime(tmp_path / "old", (1_000_000, 1_000_000.7))
    (tmp_path / "new").symlink_to("old")
    clean.clamp(tmp_path, DATE)
    assert (tmp_path / "old").lstat().st_mtime == 1_000_000
    assert (tmp_path / "new").lstat().st_mtime == DATE


@pytest.mark.parametrize(
    ("there", "expected"), [([], 1), (["20260528.1"], 2), (["20260528.9", "20260528.10", "20260527.40"], 11)]
)
def test_versions_count_on_within_a_day(tmp_path: Path, there: list[str], expected: int) -> None:
    for name in there:
        (tmp_path / name).mkdir()
    assert next_version(tmp_path, DATE) == Version((20260528, expected))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("size", ["1m", "10m", "20m", "30m"])
def test_a_full_disk_is_one_clear_error(tree: Maker, tmp_path: Path, size: str) -> None:
    root, small = tree("tree"), tmp_path / "small"
    small.mkdir()
    run(["mount", "-t", "tmpfs", "-o", f"size={size}", "small", small], timeout=30)
    try:
        with pytest.raises(StorageError, match=r"[Nn]o space left"), storage_errors(small), full_disk(small):
            make_version(root, small / "a")
    finally:
        run(["umount", small], timeout=30)
