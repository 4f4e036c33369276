"""What mkfs.ext4 writes is read back file by file; whatever else stands there is an error or fewer files."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiosk.disk import ext4, partitions
from kiosk.errors import CorruptError

BLOCK = 4096
FILES = {
    "etc/hostname": b"node\n",
    "empty": b"",
    "usr/lib/large": random.Random(1).randbytes(3 << 20),
    "usr/lib/sparse": b"a" * BLOCK + bytes(64 * BLOCK) + b"z" * 100,
    "usr/share/ümlaut": b"x" * 5000,
    **{f"many/{i:04}": bytes([i % 251 + 1]) * (i + 1) for i in range(700)},
}


def make(folder: Path, *options: str, size: str = "24M") -> Path:
    tree = folder / "tree"
    for name, data in FILES.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tree / "link").symlink_to("etc/hostname")
    os.link(tree / "etc/hostname", tree / "usr/second-name")
    image = folder / "fs.img"
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", *options, "-d", tree, image, size], check=True)
    return image


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("ext4"))


def read(fd: int, file: ext4.File, first: int = 0) -> bytes:
    data = bytearray(file.size)
    for at, start, count in file.extents:
        part = os.pread(fd, count * BLOCK, (first + start) * BLOCK)[: max(0, file.size - at * BLOCK)]
        data[at * BLOCK : at * BLOCK + len(part)] = part
    return bytes(data)


@pytest.mark.parametrize("options", [(), ("-O", "^64bit"), ("-O", "^has_journal,^resize_inode", "-I", "128")])
def test_every_file_is_found_with_its_content(tmp_path: Path, options: tuple[str, ...]) -> None:
    with make(tmp_path, *options).open("rb") as f:
        found = {x.path.decode(): read(f.fileno(), x) for x in ext4.FileSystem(f.fileno()).files()}
    second = "/usr/second-name"
    assert found.pop("/etc/hostname", None) or found.pop(second) == b"node\n"
    assert found == {f"/{name}": data for name, data in FILES.items() if data and name != "etc/hostname"}


def test_a_partition_is_found_by_the_table(image: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as f:
        f.truncate(40 << 20)
    script = b"label: gpt\nfirst-lba: 2048\nsize=4MiB\nsize=24MiB\n"
    subprocess.run(["sfdisk", "--quiet", "--no-reread", disk], input=script, check=True)
    with disk.open("r+b") as f:
        areas = partitions.areas(f.fileno(), 40 << 20)
        assert [(a.offset, a.size) for a in areas] == [(1 << 20, 4 << 20), (5 << 20, 24 << 20)]
        f.seek(areas[1].offset)
        f.write(image.read_bytes())
        f.flush()
        files = {x.path: x for x in ext4.FileSystem(f.fileno(), areas[1].offset).files()}
        large = files[b"/usr/lib/large"]
        assert read(f.fileno(), large, areas[1].offset // BLOCK) == FILES["usr/lib/large"]
        with pytest.raises(CorruptError, match="no ext4"):
            ext4.FileSystem(f.fileno(), areas[0].offset)


def test_a_disk_without_a_table_is_one_area(image: Path) -> None:
    with image.open("rb") as f:
        assert partitions.areas(f.fileno(), 24 << 20) == [partitions.Area(0, 24 << 20)]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_damage_gives_an_error_or_fewer_files(image: Path, seed: int) -> None:
    """Bytes changed all over the metadata: nothing but CorruptError, and nothing outside the file system."""
    chance = random.Random(seed)
    metadata = [1024 + chance.randrange(1024), BLOCK + chance.randrange(256)]
    metadata += [chance.randrange(64 * BLOCK) for _ in range(200)]
    with image.open("r+b", buffering=0) as f:
        fd = f.fileno()
        before = [(at, os.pread(fd, 1, at)) for at in dict.fromkeys(metadata)]
        try:
            for at, _ in before:
                os.pwrite(fd, bytes([chance.choice([0, 1, 255, chance.randrange(256)])]), at)
            with contextlib.suppress(CorruptError):
                system = ext4.FileSystem(fd)
                for file in system.files():
                    assert all(0 <= s <= s + n <= system.blocks for _, s, n in file.extents)
        finally:
            for at, byte in before:
                os.pwrite(fd, byte, at)


def test_a_file_system_that_is_cut_or_claims_too_much_is_refused(image: Path, tmp_path: Path) -> None:
    """No terabytes are read for one that says it has four billion groups, nothing for what is not there."""
    claims = {
        "groups of one block": [(1024 + 4, b"\xff" * 4), (1024 + 32, b"\1\0\0\0"), (1024 + 254, b"\0\4")],
        "more inodes than can be": [(1024 + 4, b"\xff" * 4)],
    }
    for name, changes in claims.items():
        path = tmp_path / name
        path.write_bytes(image.read_bytes())
        with path.open("r+b", buffering=0) as f:
            for at, data in changes:
                os.pwrite(f.fileno(), data, at)
            with pytest.raises(CorruptError):
                list(ext4.FileSystem(f.fileno()).files())
    cut = tmp_path / "cut"
    cut.write_bytes(image.read_bytes()[: 5 << 20])
    with cut.open("rb") as f, contextlib.suppress(CorruptError):
        for file in ext4.FileSystem(f.fileno()).files():
            assert file.extents


@settings(max_examples=60, deadline=None)
@given(head=st.binary(min_size=92, max_size=92), table=st.binary(max_size=2048))
def test_any_partition_table_gives_areas_inside_the_disk(
    tmp_path_factory: pytest.TempPathFactory, head: bytes, table: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "table"
    path.write_bytes(bytes(512) + b"EFI PART" + head[8:] + bytes(420) + table)
    with path.open("rb") as f:
        for area in partitions.areas(f.fileno(), 1 << 20):
            assert 0 <= area.offset < area.offset + area.size <= 1 << 20
