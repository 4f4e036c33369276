"""What is on a disk is found and named, and the system's tree is read from it or it is said why not."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiosk.disk import disk
from kiosk.disk.ext4 import UnrecoveredError
from kiosk.disk.folder import FolderVolume
from kiosk.disk.partitions import areas
from kiosk.errors import CorruptError, KioskError, StorageError, UsageError
from tests.disk.trees import listing, mkfs, mounted, plant

MIB = 1 << 20


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("tree"), many=20)


@pytest.fixture(scope="module")
def system(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mkfs(tree, tmp_path_factory.mktemp("system") / "fs", size="32M")


def assemble(path: Path, *parts: Path | bytes, label: str = "gpt", logical: bool = False) -> Path:
    """A disk with the given partitions, each in 40 MiB (an XFS needs 300 MiB)."""
    room = 320 * MIB if any(isinstance(p, Path) and p.stat().st_size > 40 * MIB for p in parts) else 40 * MIB
    lines = [f"label: {label}"]
    starts = []
    at = MIB
    for i, _ in enumerate(parts):
        if logical and i == 1:
            lines.append(f"start={at // 512}, size={(len(parts) - 1) * (room + MIB) // 512}, type=5")
        if logical and i:
            at += MIB
        lines.append(
            f"start={at // 512}, size={room // 512}" + (f', name="part{i}"' if label == "gpt" else "")
        )
        starts.append(at)
        at += room
    with path.open("wb") as f:
        f.truncate(at + 2 * MIB)
    if logical:  # the first logical partition has number 5
        lines = [*lines[:3], *(f"/dev/x{i + 5} : {line}" for i, line in enumerate(lines[3:]))]
        lines[1:3] = [f"/dev/x{i + 1} : {line}" for i, line in enumerate(lines[1:3])]
    script = "\n".join(lines).encode() + b"\n"
    subprocess.run(["sfdisk", "--quiet", "--no-reread", path], input=script, check=True)
    with path.open("r+b") as f:
        for start, part in zip(starts, parts, strict=True):
            data = part if isinstance(part, bytes) else part.read_bytes()
            for at in range(0, len(data), MIB):
                if any(piece := data[at : at + MIB]):
                    f.seek(start + at)
                    f.write(piece)
    return path


def made(path: Path, *command: str, size: str = "32M") -> Path:
    subprocess.run(["truncate", "-s", size, path], check=True)
    subprocess.run([*command, path], check=True, capture_output=True)
    return path


KINDS = {
    "ext2": ("mkfs.ext2", "-q"),
    "ext3": ("mkfs.ext3", "-q"),
    "ext4": ("mkfs.ext4", "-q"),
    "vfat": ("mkfs.vfat",),
    "swap": ("mkswap",),
    "luks": ("cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf-force-iterations", "4",
             "--pbkdf-memory", "32", "--key-file", "/etc/os-release"),
    "verity": (),
    "xfs": ("mkfs.xfs", "-q"),
    "btrfs": ("mkfs.btrfs", "-q"),
}  # fmt: skip


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "verity"])
def test_what_tools_make_is_recognised(tmp_path: Path, kind: str) -> None:
    image = made(tmp_path / "fs", *KINDS[kind], size="320M" if kind in ("xfs", "btrfs") else "32M")
    (part,) = disk.probe(image).parts
    assert (part.kind, part.number, part.offset) == (kind, 0, 0)
    if kind in ("ext4", "xfs", "btrfs"):
        said = subprocess.run(
            ["blkid", "-p", "-o", "value", "-s", "UUID", image], check=True, capture_output=True, text=True
        )
        assert part.content.uuid == said.stdout.strip()


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_the_parts_of_a_disk_and_its_system_are_found(
    tree: Path, system: Path, tmp_path: Path, label: str
) -> None:
    vfat = made(tmp_path / "vfat", "mkfs.vfat")
    swap = made(tmp_path / "swap", "mkswap")
    image = assemble(tmp_path / "disk", vfat, bytes(MIB), system, swap, label=label)
    found = disk.probe(image)
    assert found.kind == {"gpt": "gpt", "dos": "mbr"}[label]
    assert [(p.number, p.kind) for p in found.parts] == [
        (1, "vfat"), (2, "empty"), (3, "ext4"), (4, "swap"),
    ]  # fmt: skip
    with disk.root_volume(image) as volume:
        assert listing(volume) == listing(FolderVolume(tree))


def test_logical_partitions_are_found(tree: Path, system: Path, tmp_path: Path) -> None:
    swap = made(tmp_path / "swap", "mkswap")
    image = assemble(tmp_path / "disk", swap, b"\1" * 512, system, label="dos", logical=True)
    assert [(p.number, p.kind) for p in disk.probe(image).parts] == [(1, "swap"), (5, "unknown"), (6, "ext4")]
    with disk.root_volume(image) as volume:
        assert listing(volume) == listing(FolderVolume(tree))


def test_a_file_system_without_a_table_and_one_that_was_once_bootable_are_whole_disks(
    tree: Path, system: Path, tmp_path: Path
) -> None:
    image = tmp_path / "fs"
    shutil.copyfile(system, image)
    with image.open("r+b") as f:
        f.seek(440)
        f.write(os.urandom(6) + bytes([0x33] * 64) + b"\x55\xaa")  # boot code where a table would be
    with disk.root_volume(image) as volume:
        assert listing(volume) == listing(FolderVolume(tree))


def test_folders_on_file_systems_of_their_own_are_put_in_their_places(tree: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    subprocess.run(["cp", "-a", tree, whole], check=True)
    for name in ("boot", "var/log"):
        (whole / name).mkdir(parents=True)
    (whole / "boot/vmlinuz").write_bytes(b"kernel")
    (whole / "var/log/syslog").write_bytes(b"log")
    (whole / "var/log/second").hardlink_to(whole / "var/log/syslog")
    (whole / "etc/fstab").write_text(
        "# the disk\n/dev/vda1 / ext4 defaults 0 1\n/dev/disk/by-label/kernels /boot ext4 ro 0 2\n"
        "/dev/vda3 /var xfs ro\n"
        'PARTLABEL="part3" /var/log auto\nserver:/home /home nfs ro\n/dev/vdb1 /scratch ext4 defaults\n'
        "UUID=0a /srv ext4 nofail\ntmpfs /var/tmp tmpfs\nUUID=1-2 /boot/efi vfat\n"
    )
    for path in (whole / "etc", whole / "etc/fstab", *(whole / "boot").iterdir(), whole / "boot", whole):
        os.utime(path, (5, 5))
    root = tmp_path / "root"
    subprocess.run(["cp", "-a", whole, root], check=True)
    images = []
    for name in ("boot", "var/log", "var"):
        image = tmp_path / name.replace("/", "-")
        options = ("-L", "kernels") if name == "boot" else ()
        images.append(mkfs(root / name, image, *options, size="8M"))
        shutil.rmtree(root / name)
        (root / name).mkdir()
    (root / "boot/hidden").write_bytes(b"not seen below what is mounted here")
    first = mkfs(root, tmp_path / "first", size="32M")
    boot, log, var = images
    image = assemble(tmp_path / "disk", first, boot, var, log)
    with disk.root_volume(image) as volume:
        found, expected = listing(volume), listing(FolderVolume(whole))
    for name in (b"/boot/lost+found", b"/var/log/lost+found", b"/var/lost+found"):
        found.pop(name)
    for name in (b"/boot", b"/var", b"/var/log"):  # mkfs gives roots a time of its own
        assert found.pop(name)[0] == expected.pop(name)[0]
    assert found == expected
    shutil.copyfile(first, tmp_path / "alone")
    with (
        pytest.raises(UsageError, match="/boot is a file system of its own"),
        disk.root_volume(tmp_path / "alone"),
    ):
        pass


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_xfs_and_btrfs_are_read_where_the_caller_allows_a_mount(
    tree: Path, tmp_path: Path, kind: str
) -> None:
    image = made(tmp_path / "fs", f"mkfs.{kind}", "-q", size="320M")
    with mounted(image, tmp_path / "mnt") as mount:
        inside = mount
        if kind == "btrfs":
            inside = mount / "@"
            subprocess.run(["btrfs", "-q", "subvolume", "create", inside], check=True)
        subprocess.run(["cp", "-a", f"{tree}/.", inside], check=True)
    whole = assemble(tmp_path / "disk", bytes(512), image)
    image.unlink()
    with pytest.raises(UsageError, match=f"{kind} in partition 2"), disk.root_volume(whole):
        pass
    before = open_mounts()
    with disk.root_volume(whole, allow_mount=True) as volume:
        assert listing(volume) == listing(FolderVolume(tree))
        assert open_mounts() == before
    with whole.open("r+b") as f:
        f.seek(disk.probe(whole).parts[1].offset + (200 if kind == "xfs" else 0x10000))
        f.write(b"\xff" * 32)
    with pytest.raises(CorruptError, match="does not mount"), disk.root_volume(whole, allow_mount=True):
        pass


def open_mounts() -> list[str]:
    """Those of file systems as they are tried here; other tests mount others beside."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line for line in lines if line.split()[2] in ("xfs", "btrfs")]


def test_what_can_not_be_read_is_named(system: Path, tmp_path: Path) -> None:
    luks = made(tmp_path / "luks", *KINDS["luks"])
    boot = made(tmp_path / "boot", "mkfs.ext4", "-q")
    refused = {
        "encrypted .*LUKS, partition 2": assemble(tmp_path / "encrypted", boot, luks),
        "encrypted .*BitLocker": assemble(tmp_path / "windows", b"\xeb\x58\x90-FVE-FS-" + bytes(501)),
        r"logical volumes \(LVM": assemble(
            tmp_path / "lvm", bytes(512) + b"LABELONE" + bytes(16) + b"LVM2 001" + bytes(480)
        ),
        "no root file system .*partition 1: ext4, partition 2: unknown": assemble(
            tmp_path / "other", boot, b"what is this?"
        ),
        r"more than one system \(parts 1, 2\)": assemble(tmp_path / "two", system, system),
    }
    for message, image in refused.items():
        with pytest.raises(UsageError, match=message), disk.root_volume(image):
            pass
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="empty"):
        disk.probe(tmp_path / "empty")
    with pytest.raises(StorageError, match="No such file"):
        disk.probe(tmp_path / "missing")


FORMATS = {"qcow2": "qcow2", "vmdk": "VMDK", "vpc": "VHD", "vhdx": "VHDX", "vdi": "VDI"}


@pytest.mark.parametrize("name", FORMATS)
def test_other_formats_of_disks_are_named_with_the_way_out(system: Path, tmp_path: Path, name: str) -> None:
    image = tmp_path / "image"
    subprocess.run(["qemu-img", "convert", "-O", name, system, image], check=True)
    with pytest.raises(
        UsageError, match=rf"(?s)this is a {FORMATS[name]} image.*qemu-img convert.*kiosk import"
    ):
        disk.probe(image)


def test_archives_and_packed_disks_are_named(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(100_000))
    (tmp_path / "gz").write_bytes(gzip.compress(raw.read_bytes()))
    with tarfile.open(tmp_path / "tar", "w") as tar:
        tar.add(raw, "raw")
    subprocess.run(["zstd", "-q", raw, "-o", tmp_path / "zst"], check=True)
    (tmp_path / "xz").write_bytes(subprocess.run(["xz", "-c", raw], check=True, capture_output=True).stdout)
    (tmp_path / "iso").write_bytes(bytes(32769) + b"CD001" + bytes(2000))
    for name, text in {
        "gz": "gzip", "tar": "tar archive", "zst": "zstd", "xz": "xz file", "iso": "ISO",
    }.items():  # fmt: skip
        with pytest.raises(UsageError, match=text):
            disk.probe(tmp_path / name)


def test_cut_damaged_and_unrecovered_disks_are_told_apart(system: Path, tmp_path: Path) -> None:
    image = assemble(tmp_path / "disk", system, system.read_bytes()[:4096])
    os.truncate(image, 60 * MIB)
    with pytest.raises(CorruptError, match=r"cut off: .* partition 2 ends at"):
        disk.probe(image)
    cut = tmp_path / "cut"
    cut.write_bytes(system.read_bytes()[: 20 * MIB])
    with pytest.raises(CorruptError, match="behind the end of its disk"), disk.root_volume(cut):
        pass
    shutil.copyfile(system, cut)
    subprocess.run(["debugfs", "-w", "-R", "clri /etc", cut], check=True, capture_output=True)
    with pytest.raises(CorruptError, match=r"the whole disk: /etc: .*not in use"), disk.root_volume(cut):
        pass
    with pytest.raises(CorruptError, match="e2fsck says"):
        disk.check(cut)
    shutil.copyfile(system, cut)
    subprocess.run(["debugfs", "-w", "-R", "feature needs_recovery", cut], check=True, capture_output=True)
    with pytest.raises(UnrecoveredError), disk.root_volume(cut):
        pass
    disk.recover(cut)
    disk.check(cut)
    with disk.root_volume(cut) as volume:
        assert sum(1 for _ in volume.nodes()) > 20


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_table_gives_parts_inside_the_disk_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Tables that name each other, themselves, or what is not there."""
    path = tmp_path_factory.getbasetemp() / "table"
    sectors = [bytearray(512) for _ in range(64)]
    entry = st.tuples(
        st.sampled_from([0, 0x80]),
        st.sampled_from([0, 5, 0xF, 0x83, 0xEE]),
        st.integers(0, 70),
        st.integers(0, 70),
    )
    for sector in sectors[: data.draw(st.integers(1, 8))]:
        for i in range(4):
            status, kind, start, count = data.draw(entry)
            sector[446 + 16 * i : 462 + 16 * i] = (
                bytes([status, 0, 0, 0, kind, 0, 0, 0])
                + start.to_bytes(4, "little")
                + count.to_bytes(4, "little")
            )
        sector[510:] = b"\x55\xaa"
    path.write_bytes(b"".join(sectors))
    with path.open("rb") as f:
        for area in areas(f.fileno(), 64 * 512):
            assert 0 <= area.offset < area.offset + area.size <= 64 * 512
    try:
        with disk.root_volume(path):
            pass
    except KioskError as e:
        assert isinstance(e, (UsageError, CorruptError))
