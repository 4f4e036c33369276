"""The whole tree is read as the kernel shows it, whatever the layout; whatever else stands there is an error."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiosk.disk import ext4
from kiosk.disk.ext4 import Ext4Volume
from kiosk.disk.folder import FolderVolume
from kiosk.disk.volume import SparseVolume
from kiosk.errors import CorruptError, KioskError, UsageError
from tests.disk.trees import listing, mkfs, mounted, plant

Listing = dict[bytes, tuple[object, ...]]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def planted(tree: Path) -> Listing:
    return listing(FolderVolume(tree))


@contextlib.contextmanager
def opened(image: Path, offset: int = 0) -> Iterator[Ext4Volume]:
    with image.open("rb") as f:
        yield Ext4Volume(f.fileno(), offset, where=image.name)


LAYOUTS: dict[str, tuple[str, ...]] = {
    "as mkfs makes it": (),
    "blocks of 1024 bytes": ("-b", "1024"),
    "blocks of 2048 bytes": ("-b", "2048"),
    "32 bits": ("-O", "^64bit,^metadata_csum"),
    "no journal": ("-O", "^has_journal,^resize_inode,uninit_bg,^metadata_csum"),
    "descriptors with their groups": ("-b", "1024", "-O", "meta_bg,^resize_inode"),
    "two superblocks": ("-O", "sparse_super2,^resize_inode"),
    "large inodes": ("-I", "1024"),
    "clusters": ("-O", "bigalloc", "-C", "16384"),
}


@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_of_ext4_is_read_as_the_tree_it_was_made_of(
    tree: Path, planted: Listing, tmp_path: Path, options: tuple[str, ...]
) -> None:
    with opened(mkfs(tree, tmp_path / "fs", *options)) as volume:
        assert isinstance(volume, SparseVolume)
        assert listing(volume) == planted


def test_content_in_inodes_is_read_as_the_kernel_shows_it(tree: Path, tmp_path: Path) -> None:
    """Small files, folders, and links in the inode itself (where mkfs forgets a hole at a file's end)."""
    image = mkfs(tree, tmp_path / "fs", "-O", "inline_data")
    with mounted(image, tmp_path / "mnt", "loop,ro") as mount:
        shown = listing(FolderVolume(mount))
    with opened(image) as volume:
        assert listing(volume) == shown


@pytest.mark.parametrize("kind", ["ext2", "ext3"])
@pytest.mark.parametrize("block", ["1024", "4096"])
def test_block_maps_and_small_inodes_are_read(
    tree: Path, planted: Listing, tmp_path: Path, kind: str, block: str
) -> None:
    with opened(mkfs(tree, tmp_path / "fs", "-b", block, "-I", "128", kind=kind)) as volume:
        assert listing(volume) == planted


def test_a_file_with_three_levels_of_indirection_is_read(tmp_path: Path) -> None:
    with (tmp_path / "wide").open("wb") as f:
        f.truncate(70 << 20)
        for at in (0, 3 << 20, 66 << 20, (70 << 20) - 5):
            f.seek(at)
            f.write(b"here!")
    image = tmp_path / "image"
    (tmp_path / "tree").mkdir()
    (tmp_path / "wide").rename(tmp_path / "tree/wide")
    mkfs(tmp_path / "tree", image, "-b", "1024", kind="ext2")
    with opened(image) as volume:
        node = next(n for n in volume.nodes() if n.path == b"/wide")
        assert {at: piece[:5] for at, piece in volume.data(node)} == {
            0: b"here!", 3 << 20: b"here!", 66 << 20: b"here!", (70 << 20) - 1024: bytes(5),
        }  # fmt: skip
        assert b"".join(volume.read(node)) == (tmp_path / "tree/wide").read_bytes()


@pytest.mark.parametrize("inode", ["128", "256"])
def test_what_a_kernel_wrote_is_read_as_the_kernel_shows_it(tree: Path, tmp_path: Path, inode: str) -> None:
    """Hash trees, extent trees with several levels, preallocated extents, shared blocks of attributes, years
    after 2038 where there is room for them."""
    image = tmp_path / "fs"
    subprocess.run(["mkfs.ext4", "-q", "-b", "1024", "-I", inode, image, "96M"], check=True)
    with mounted(image, tmp_path / "mnt") as mount:
        subprocess.run(["cp", "-a", f"{tree}/.", mount], check=True)
        os.utime(mount / "usr/lib/none", (0, 5_000_000_000))
        os.link(mount / "etc/link5", mount / "etc/second-link", follow_symlinks=False)
        (mount / "large").mkdir()
        for i in range(3000):
            (mount / f"large/{'n' * 60}{i}").touch()
        for i in range(0, 3000, 7):
            (mount / f"large/{'n' * 60}{i}").unlink()
        with (mount / "pieces").open("wb") as f:
            for i in range(600):
                f.seek(i * 8192)
                f.write(b"%d" % i)
        with (mount / "preallocated").open("wb") as f:
            os.posix_fallocate(f.fileno(), 0, 3 << 20)
            os.pwrite(f.fileno(), b"written", 1 << 20)
        subprocess.run(["fallocate", "--keep-size", "-l", "1M", mount / "usr/lib/short"], check=True)
        os.sync()
        shown = listing(FolderVolume(mount))
    with opened(image) as volume:
        assert listing(volume) == shown
        preallocated = next(n for n in volume.nodes() if n.path == b"/preallocated")
        assert [(at, len(p)) for at, p in volume.data(preallocated)] == [(1 << 20, 1024)]


def test_the_file_system_in_a_partition_is_read(tree: Path, planted: Listing, tmp_path: Path) -> None:
    mkfs(tree, tmp_path / "fs")
    with (tmp_path / "disk").open("wb") as f:
        f.seek(63 * 512)
        f.write((tmp_path / "fs").read_bytes())
    with opened(tmp_path / "disk", 63 * 512) as volume:
        assert listing(volume) == planted


def copy_while_in_use(image: Path, mount: Path, copy: Path, *, freeze: bool) -> None:
    """Copies a file system with a file that was removed and is still open, as on every running machine."""
    with mounted(image, mount), (mount / "removed").open("wb") as f:
        f.write(b"x" * 100_000)
        f.flush()
        (mount / "removed").unlink()
        (mount / "kept").write_bytes(b"kept")
        os.sync()
        if freeze:
            subprocess.run(["fsfreeze", "--freeze", mount], check=True)
        shutil.copyfile(image, copy)
        if freeze:
            subprocess.run(["fsfreeze", "--unfreeze", mount], check=True)


@pytest.mark.parametrize("freeze", [True, False], ids=["frozen", "running"])
@pytest.mark.parametrize("offset", [0, 1 << 20], ids=["whole", "partition"])
@pytest.mark.parametrize("orphans", ["orphan_file", "^orphan_file"])
def test_a_disk_that_was_copied_while_in_use_is_recovered(
    tmp_path: Path, freeze: bool, offset: int, orphans: str
) -> None:
    subprocess.run(["mkfs.ext4", "-q", "-O", orphans, tmp_path / "fs", "24M"], check=True)
    copy_while_in_use(tmp_path / "fs", tmp_path / "mnt", tmp_path / "copy", freeze=freeze)
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(offset) + (tmp_path / "copy").read_bytes() + bytes(1 << 20))
    if not freeze:
        with pytest.raises(ext4.UnrecoveredError, match="journal"), opened(disk, offset):
            pass
    with pytest.raises(CorruptError, match=r"Deleted inode|Orphan file"):
        ext4.check(disk, offset)
    ext4.recover(disk, offset, 24 << 20)
    ext4.check(disk, offset)
    with opened(disk, offset) as volume:
        assert [n.path for n in volume.nodes()] == [b"/", b"/kept", b"/lost+found"]


def test_a_damaged_file_system_is_named_with_what_is_wrong(tree: Path, tmp_path: Path) -> None:
    image = mkfs(tree, tmp_path / "fs")
    ext4.check(image)
    subprocess.run(["debugfs", "-w", "-R", "clri /usr/bin", image], check=True, capture_output=True)
    with pytest.raises(CorruptError, match=r"(?s)damaged; e2fsck says:.*usr.*deleted/unused") as caught:
        ext4.check(image)
    assert "Pass 1" not in str(caught.value)
    before = image.read_bytes()
    with pytest.raises(CorruptError, match=r"(?s)damaged; e2fsck says:.*usr.*deleted/unused"):
        ext4.recover(image)
    assert image.read_bytes() == before
    with pytest.raises(CorruptError, match=r"fs: /usr/bin: .*not in use"), opened(image) as volume:
        list(volume.nodes())


def test_folders_too_deep_are_no_damage_and_told_with_the_beginning_of_their_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ext4.volume, "MAX_DEPTH", 30)
    (tmp_path / "tree").joinpath(*["nested"] * 32).mkdir(parents=True)
    image = mkfs(tmp_path / "tree", tmp_path / "image")
    with opened(image) as volume, pytest.raises(UsageError, match="nested more than 30 deep") as e:
        list(volume.nodes())
    assert e.value.where is not None
    assert e.value.where.endswith("...")
    assert "/nested/nested" in e.value.where


def test_paths_that_would_fill_the_memory_end_the_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ext4.volume, "MAX_TEXT", 20_000)
    folder = (tmp_path / "tree").joinpath(*["nested" * 20] * 10)
    folder.mkdir(parents=True)
    for number in range(20):
        (folder / str(number)).touch()
    image = mkfs(tmp_path / "tree", tmp_path / "image")
    with opened(image) as volume, pytest.raises(CorruptError, match="longer names than can be"):
        list(volume.nodes())


def rename(image: Path, old: bytes, new: bytes) -> None:
    data = image.read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    image.write_bytes(data.replace(old, new))


def point(image: Path, name: bytes, inode: int) -> None:
    """Makes the entry `name` of a folder name another inode."""
    data = image.read_bytes()
    at = data.index(name) - 8
    image.write_bytes(data[:at] + struct.pack("<I", inode) + data[at + 4 :])


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a name with a slash": (lambda i: rename(i, b"harmless", b"../../x/"), "name that can't be"),
    "a name with a NUL": (lambda i: rename(i, b"harmless", b"harm\0ess"), "name that can't be"),
    "a name twice": (lambda i: rename(i, b"harmless", b"innocent"), "holds a name twice"),
    "a folder in itself": (lambda i: point(i, b"harmless", 2), "more names than it can have"),
    "a second name that isn't counted": (lambda i: point(i, b"harmless", 13), "more names than"),
    "an inode that isn't used": (lambda i: point(i, b"harmless", 200), "not in use"),
    "an inode that isn't there": (lambda i: point(i, b"harmless", 1 << 30), "name that can't be"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_entries_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/harmless").write_bytes(b"h")
    (tmp_path / "tree/innocent").write_bytes(b"i")
    image = mkfs(tmp_path / "tree", tmp_path / "fs", size="4M")
    change, message = HOSTILE[name]
    change(image)
    with pytest.raises(CorruptError, match=message), opened(image) as volume:
        list(volume.nodes())


def test_files_that_share_their_blocks_end_the_reading(tmp_path: Path) -> None:
    """A hundred files that all claim one large extent: no more is read than there are blocks."""
    (tmp_path / "tree").mkdir()
    for i in range(100):
        (tmp_path / f"tree/{i:04}").write_bytes(b"x" * 100)
    image = mkfs(tmp_path / "tree", tmp_path / "fs", "-b", "4096", size="16M")
    data = bytearray(image.read_bytes())
    one = struct.pack("<HHHHIIHHI", 0xF30A, 1, 4, 0, 0, 0, 1, 0, 0)[:-4]
    size, many = struct.pack("<I", 100), struct.pack("<HHHHIIHHI", 0xF30A, 1, 4, 0, 0, 0, 3000, 0, 500)
    at = data.find(one)
    while at >= 0:
        begin = at - 40
        if data[begin + 4 : begin + 8] == size:
            data[at : at + len(many)] = many
            data[begin + 4 : begin + 8] = struct.pack("<I", 3000 * 4096)
        at = data.find(one, at + 1)
    image.write_bytes(data)
    with opened(image) as volume:
        read = 0
        with pytest.raises(CorruptError, match="more blocks than there are"):
            for node in volume.nodes():
                if stat.S_ISREG(node.mode):
                    read += sum(len(piece) for piece in volume.read(node))
        assert read <= 16 << 20


def test_encrypted_content_and_unknown_features_are_named(tree: Path, tmp_path: Path) -> None:
    image = mkfs(tree, tmp_path / "fs", "-O", "encrypt")
    subprocess.run(
        ["debugfs", "-w", "-R", "set_inode_field /etc flags 0x80800", image], check=True, capture_output=True
    )
    with pytest.raises(CorruptError, match=r"/etc: .*encrypted"), opened(image) as volume:
        list(volume.nodes())
    subprocess.run(["debugfs", "-w", "-R", "ssv feature_incompat 0x800002c2", image], check=True)
    with pytest.raises(CorruptError, match="features that kiosk does not know"), opened(image):
        pass


@pytest.fixture(scope="module", params=["ext4", "ext2", "inline"])
def small(request: pytest.FixtureRequest, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"ext4": (), "ext2": ("-I", "128"), "inline": ("-O", "inline_data")}[request.param]
    kind = "ext2" if request.param == "ext2" else "ext4"
    image = tmp_path_factory.mktemp("small") / "fs"
    return mkfs(tree, image, *options, "-b", "4096", kind=kind, size="24M")


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_any_damage_is_a_corrupt_error_or_a_readable_tree(small: Path, seed: int) -> None:
    """Bytes changed in the metadata: a walk and a reading of all content end, with no other error."""
    chance = random.Random(seed)
    with small.open("r+b", buffering=0) as f:
        fd = f.fileno()
        places = [1024 + chance.randrange(400)] if chance.random() < 0.3 else []
        places += [chance.randrange(4096, 4096 + 64)] if chance.random() < 0.3 else []
        places += [chance.randrange(16 * 4096, 1 << 20) for _ in range(chance.choice([1, 20, 400]))]
        before = [(at, os.pread(fd, 1, at)) for at in dict.fromkeys(places)]
        try:
            for at, _ in before:
                os.pwrite(fd, bytes([chance.choice([0, 1, 255, chance.randrange(256)])]), at)
            with contextlib.suppress(CorruptError):
                read_all(Ext4Volume(fd))
        finally:
            for at, byte in before:
                os.pwrite(fd, byte, at)


def read_all(volume: Ext4Volume) -> None:
    for node in volume.nodes():
        assert b"/" not in node.path.rpartition(b"/")[2] and b"\0" not in node.path
        if stat.S_ISREG(node.mode):
            end = 0
            try:
                for at, piece in volume.data(node):
                    assert end <= at < at + len(piece) <= node.size
                    end = at + len(piece)
            except KioskError as e:
                assert isinstance(e, CorruptError), e
