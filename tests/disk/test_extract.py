"""A volume is written into a folder as it was, and nothing is written anywhere else."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kiosk.build.census import tree_digest
from kiosk.disk.ext4 import Ext4Volume
from kiosk.disk.extract import extract
from kiosk.disk.folder import FolderVolume
from kiosk.disk.volume import Node
from kiosk.errors import CorruptError, StorageError, UsageError
from tests.disk.trees import mkfs, mounted, plant, plant_socket


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("tree"))


def lost(path: bytes) -> bool:
    return path == b"/lost+found"


@pytest.mark.parametrize("block", ["1024", "4096"])
def test_an_image_becomes_the_tree_it_was_made_of(tree: Path, tmp_path: Path, block: str) -> None:
    image = mkfs(tree, tmp_path / "fs", "-b", block)
    told: list[int] = []
    with image.open("rb") as f:
        done = extract(Ext4Volume(f.fileno()), tmp_path / "out", skip=lost, progress=told.append)
    os.utime(tmp_path / "out", (0, int(tree.stat().st_mtime)))  # mkfs gives the root a time of its own
    assert tree_digest(tmp_path / "out") == tree_digest(tree)
    assert sum(told) == done.bytes < 4 << 20
    assert (tmp_path / "out/usr/lib/sparse").stat().st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("names", [1500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_what_a_kernel_wrote_comes_out_as_it_was(tree: Path, tmp_path: Path, names: int) -> None:
    """With a folder of thousands of names, and hard links of all kinds of files."""
    image = tmp_path / "fs"
    subprocess.run(["mkfs.ext4", "-q", image, "128M"], check=True)
    with mounted(image, tmp_path / "mnt") as mount:
        subprocess.run(["cp", "-a", f"{tree}/.", mount], check=True)
        os.link(mount / "etc/link5", mount / "etc/second-link", follow_symlinks=False)
        os.link(mount / "dev/large", mount / "dev/second")
        (mount / "large").mkdir()
        for i in range(names):
            (mount / f"large/{i}-{'n' * (i % 200)}").symlink_to("x")
        (mount / "lost+found").rmdir()
        expected = tree_digest(mount)
    with image.open("rb") as f:
        extract(Ext4Volume(f.fileno()), tmp_path / "data")
    assert tree_digest(tmp_path / "data") == expected


def test_sockets_are_left_out_and_what_is_skipped_with_all_below_it(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "tree/scratch/deep").mkdir(parents=True)
    (tmp_path / "tree/scratch/deep/file").touch()
    (tmp_path / "tree/scratch.not").touch()
    os.mkfifo(tmp_path / "tree/fifo")
    plant_socket(tmp_path / "tree/socket")
    done = extract(FolderVolume(tmp_path / "tree"), tmp_path / "out", skip=lambda path: path == b"/scratch")
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == ["fifo", "scratch.not"]
    assert done.sockets == 1


def test_the_first_name_that_is_not_skipped_carries_the_content(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/a").write_bytes(b"content")
    for name in ("b", "c"):
        (tmp_path / "tree" / name).hardlink_to(tmp_path / "tree/a")
    extract(FolderVolume(tmp_path / "tree"), tmp_path / "out", skip=lambda path: path == b"/a")
    assert (tmp_path / "out/b").read_bytes() == b"content"
    assert (tmp_path / "out/b").samefile(tmp_path / "out/c")


def test_a_folder_that_hands_down_its_rights_changes_nothing(tree: Path, tmp_path: Path) -> None:
    os.setxattr(tmp_path, "system.posix_acl_default", os.getxattr(tree / "usr", "system.posix_acl_default"))
    tmp_path.chmod(0o2755)
    os.chown(tmp_path, 0, 12345)
    extract(FolderVolume(tree), tmp_path / "out")
    assert tree_digest(tmp_path / "out") == tree_digest(tree)


@dataclass
class Lies:
    """A volume that breaks every promise."""

    said: list[Node]

    def nodes(self) -> Iterator[Node]:
        yield Node(b"/", stat.S_IFDIR | 0o755, 0, 0, 0, 0, 1)
        yield from self.said

    def read(self, node: Node) -> Iterator[bytes]:
        yield b"evil"


def link(path: bytes, target: bytes) -> Node:
    return Node(path, stat.S_IFLNK | 0o777, 0, 0, len(target), 0, 50, target=target)


def file(path: bytes, inode: int = 60, links: int = 1) -> Node:
    return Node(path, stat.S_IFREG | 0o644, 0, 0, 4, 0, inode, links)


@pytest.mark.parametrize("through", ["relative", "absolute", "a name twice", "a hard link", "dots"])
def test_nothing_is_written_through_a_link(tmp_path: Path, through: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_bytes(b"good")
    there = os.fsencode(outside)
    said = {
        "relative": [link(b"/etc", b"../outside"), file(b"/etc/passwd")],
        "absolute": [link(b"/etc", there), file(b"/etc/new")],
        "a name twice": [link(b"/passwd", there + b"/passwd"), file(b"/passwd")],
        "dots": [file(b"/../outside/new")],
        "a hard link": [link(b"/etc", there), file(b"/etc/passwd", 7, 2), file(b"/b", 7, 2)],
    }[through]
    with pytest.raises((StorageError, CorruptError)):
        extract(Lies(said), tmp_path / "out")
    assert [p.name for p in outside.iterdir()] == ["passwd"]
    assert (outside / "passwd").read_bytes() == b"good"


def test_a_full_disk_and_a_folder_in_use_are_clear_errors(tree: Path, tmp_path: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", tmp_path / "small", "2M"], check=True)
    with mounted(tmp_path / "small", tmp_path / "mnt") as mount:
        with pytest.raises(StorageError, match="No space left"):
            extract(FolderVolume(tree), mount / "out")
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(UsageError, match="not empty"):
        extract(FolderVolume(tree), tmp_path)
