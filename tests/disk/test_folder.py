"""A folder tree is read as what it is: no link is followed, nothing is left out, damage has a name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from kiosk.disk import descent
from kiosk.disk.folder import FolderVolume
from kiosk.disk.volume import Node, SparseVolume
from kiosk.errors import StorageError, UsageError


def by_path(volume: FolderVolume) -> dict[bytes, Node]:
    return {node.path: node for node in volume.nodes()}


def test_all_kinds_of_files_are_found_in_byte_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/z").write_bytes(b"content")
    (tmp_path / "b.x").write_bytes(b"")
    os.link(tmp_path / "b/z", tmp_path / "second")
    (tmp_path / "link").symlink_to("b/z")
    os.mkfifo(tmp_path / "fifo")
    os.mknod(tmp_path / "disk", stat.S_IFBLK | 0o600, os.makedev(259, 1048575))
    (tmp_path / os.fsdecode(b"\xff\n")).mkdir()
    os.setxattr(tmp_path / "b/z", "user.note", b"n")
    os.chown(tmp_path / "link", 70000, 70001, follow_symlinks=False)
    os.utime(tmp_path / "b/z", ns=(0, -1_500_000_000))
    volume = FolderVolume(tmp_path)
    found = by_path(volume)
    assert list(found) == [
        b"/", b"/b", b"/b/z", b"/b.x", b"/disk", b"/fifo", b"/link", b"/second", b"/\xff\n",
    ]  # fmt: skip
    file, link = found[b"/b/z"], found[b"/link"]
    assert (file.size, file.links, file.mtime, dict(file.xattrs)) == (7, 2, -2, {"user.note": b"n"})
    assert file.inode == found[b"/second"].inode != found[b"/b.x"].inode
    assert (link.target, link.uid, link.gid) == (b"b/z", 70000, 70001)
    assert found[b"/disk"].device == (259, 1048575)
    assert stat.S_ISFIFO(found[b"/fifo"].mode)
    assert b"".join(volume.read(found[b"/second"])) == b"content"


def test_holes_are_zeros_and_are_told_from_data(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as f:
        f.truncate(5 << 30)
        f.seek(3 << 30)
        f.write(b"middle")
    volume: SparseVolume = FolderVolume(tmp_path)
    assert isinstance(volume, SparseVolume)
    node = next(n for n in volume.nodes() if n.path == b"/sparse")
    pieces = list(volume.data(node))
    assert sum(len(piece) for _, piece in pieces) < 1 << 20
    assert pieces[0][0] == 3 << 30 and pieces[0][1].startswith(b"middle")
    assert sum(map(len, volume.read(node))) == 5 << 30


def test_a_link_to_a_folder_is_not_entered_and_a_file_that_became_one_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"secret")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/secret").write_bytes(b"public")
    (root / "out").symlink_to(tmp_path / "outside")
    volume = FolderVolume(root)
    found = by_path(volume)
    assert list(found) == [b"/", b"/etc", b"/etc/secret", b"/out"]
    (root / "etc").rename(root / "was")
    (root / "etc").symlink_to(tmp_path / "outside")
    with pytest.raises(StorageError, match="can't be read"):
        list(volume.read(found[b"/etc/secret"]))


def test_folders_too_deep_are_told_with_the_beginning_of_their_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descent, "MAX_DEPTH", 30)
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(31):
        os.mkdir("d" * 20, dir_fd=fd)
        below = os.open("d" * 20, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with pytest.raises(UsageError, match="nested more than 30 deep") as e:
        list(FolderVolume(tmp_path).nodes())
    assert e.value.where == ("/" + "d" * 20) * 4 + "/" + "d" * 15 + "..."


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        FolderVolume(tmp_path / "missing")
