"""A disk that nothing writes: copied as what it is told to be, with its holes, or refused."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kiosk.cloud.qemu.wire import monitor
from kiosk.errors import (
    BuildError,
    BusyError,
    GuestError,
    NotFoundError,
    PolicyError,
    StorageError,
    UsageError,
)
from kiosk.golden.disk import DiskSource
from kiosk.golden.settings import DiskSettings
from kiosk.run import run, tool

SIZE = 8 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "capture"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """A raw disk: a megabyte of data at its start, one in its middle, holes elsewhere."""
    path = tmp_path / "content.raw"
    with path.open("wb") as f:
        f.write(os.urandom(1 << 20))
        f.seek(SIZE // 2)
        f.write(os.urandom(1 << 20))
        f.truncate(SIZE)
    return path


def source(path: Path, format: str = "raw", **more: Any) -> DiskSource:
    return DiskSource(DiskSettings.model_validate({"kind": "disk", "path": path, "format": format, **more}))


def qcow2(path: Path, *options: str | Path) -> Path:
    run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path], timeout=60)
    return path


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_disk_is_copied_with_its_holes(format: str, content: Path, folder: Path, tmp_path: Path) -> None:
    disk = content
    if format == "qcow2":
        disk = tmp_path / "disk.qcow2"
        run(["qemu-img", "convert", "-c", "-O", "qcow2", content, disk], timeout=60)
    found = source(disk, format).capture(folder)
    assert found.disk is not None and found.format == "raw" and found.tree is None
    assert found.disk.read_bytes() == content.read_bytes()
    assert found.disk.stat().st_blocks * 512 < 3 << 20
    assert found.frozen_seconds is None and format in found.method


def test_a_raw_disk_whose_guest_wrote_a_header_is_still_a_raw_disk(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "secret"
    victim.write_bytes(b"s" * SIZE)
    disk = qcow2(tmp_path / "disk", "-b", victim, "-F", "raw")
    found = source(disk).capture(folder)
    assert found.disk is not None
    assert found.disk.read_bytes()[: disk.stat().st_size] == disk.read_bytes()


def test_a_qcow2_needs_its_backing_file_named(content: Path, folder: Path, tmp_path: Path) -> None:
    disk = qcow2(tmp_path / "top.qcow2", "-b", content, "-F", "raw")
    with pytest.raises(PolicyError, match="needs the backing file"):
        source(disk, "qcow2").capture(folder)
    with pytest.raises(PolicyError, match="and not"):
        source(disk, "qcow2", backing=tmp_path / "another").capture(folder)
    assert list(folder.iterdir()) == []
    found = source(disk, "qcow2", backing=content).capture(folder)
    assert found.disk is not None and found.disk.read_bytes() == content.read_bytes()


def test_a_chain_of_backing_files_is_refused(content: Path, folder: Path, tmp_path: Path) -> None:
    middle = qcow2(tmp_path / "middle.qcow2", "-b", content, "-F", "raw")
    disk = qcow2(tmp_path / "top.qcow2", "-b", middle, "-F", "qcow2")
    with pytest.raises(PolicyError, match="only one is taken"):
        source(disk, "qcow2", backing=middle, backing_format="qcow2").capture(folder)


def test_a_qcow2_that_keeps_its_content_elsewhere_or_encrypted_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    data = qcow2(tmp_path / "data.qcow2", "-o", f"data_file={tmp_path}/elsewhere.raw,size=1M")
    with pytest.raises(PolicyError, match="in another file"):
        source(data, "qcow2").capture(folder)
    secret = (
        "--object",
        "secret,id=s,data=abc",
        "-o",
        "encrypt.format=aes,encrypt.key-secret=s,size=1M",
    )
    locked = qcow2(tmp_path / "locked.qcow2", *secret)
    with pytest.raises(PolicyError, match="encrypted"):
        source(locked, "qcow2").capture(folder)
    assert list(folder.iterdir()) == []


def test_what_is_no_disk_of_the_format_is_refused(content: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="not a qcow2"):
        source(content, "qcow2").capture(folder)
    with pytest.raises(NotFoundError):
        source(tmp_path / "absent").capture(folder)
    with pytest.raises(UsageError, match="neither"):
        source(tmp_path).capture(folder)
    with pytest.raises(UsageError, match="can't be run"):
        source(content).run(["true"], timeout=1)


@contextlib.contextmanager
def held_by_qemu(disk: Path, format: str, folder: Path) -> Iterator[None]:
    """A QEMU that has the disk open to write, as a running VM has."""
    node = json.dumps({"driver": format, "node-name": "n", "file": {"driver": "file", "filename": str(disk)}})
    words = [tool("qemu-system-x86_64"), "-nodefaults", "-display", "none", "-machine", "q35", "-m", "16"]
    words += ["-blockdev", node, "-device", "virtio-blk-pci,drive=n"]
    words += ["-S", "-qmp", "unix:q.sock,server=on,wait=off"]
    process = subprocess.Popen(words, cwd=folder)
    try:
        while True:
            with contextlib.suppress(GuestError), monitor(folder / "q.sock"):
                break
            assert process.poll() is None
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_disk_that_a_running_qemu_has_is_refused(
    format: str, content: Path, folder: Path, tmp_path: Path
) -> None:
    disk = content if format == "raw" else qcow2(tmp_path / "disk.qcow2", "-o", "size=1M")
    with held_by_qemu(disk, format, tmp_path), pytest.raises(BusyError, match="locked"):
        source(disk, format).capture(folder)
    assert list(folder.iterdir()) == []
    source(disk, format).capture(folder)


def test_hooks_make_and_drop_the_snapshot_that_is_copied(content: Path, folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    hooks = {"before": ["cp", str(content), str(snapshot)], "after": ["rm", str(snapshot)]}
    found = source(snapshot, **hooks).capture(folder)
    assert found.disk is not None and found.disk.read_bytes() == content.read_bytes()
    assert not snapshot.exists()


@pytest.mark.parametrize("wrong", ["before", "the copy"])
def test_the_snapshot_is_dropped_whatever_fails(wrong: str, folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    script = f"touch {snapshot}; echo because; exit {1 if wrong == 'before' else 0}"
    hooks = {"before": ["sh", "-c", script], "after": ["rm", str(snapshot)]}
    with pytest.raises(BuildError, match="because" if wrong == "before" else "not a qcow2"):
        source(snapshot, "qcow2", **hooks).capture(folder)
    assert not snapshot.exists() and list(folder.iterdir()) == []


def test_a_snapshot_that_can_not_be_dropped_is_an_error_and_nothing_is_kept(
    content: Path, folder: Path
) -> None:
    with pytest.raises(BuildError, match="`after` ended with status 1"):
        source(content, after=["false"]).capture(folder)
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a mount")
def test_a_full_disk_is_said_and_leaves_nothing(content: Path, folder: Path) -> None:
    run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", folder], timeout=20)
    try:
        with pytest.raises(StorageError, match="no space"):
            source(content).capture(folder)
        assert list(folder.iterdir()) == []
    finally:
        run(["umount", folder], timeout=20)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: loop devices")
def test_a_block_device_is_copied_unless_it_is_mounted(content: Path, folder: Path, tmp_path: Path) -> None:
    run(["mkfs.ext4", "-q", content], timeout=60)
    device = Path(run(["losetup", "--find", "--show", content], timeout=20).strip())
    mount = tmp_path / "mount"
    mount.mkdir()
    try:
        run(["mount", device, mount], timeout=20)
        try:
            with pytest.raises(BusyError, match="in use"):
                source(device).capture(folder)
        finally:
            run(["umount", mount], timeout=20)
        found = source(device).capture(folder)
        assert found.disk is not None and found.disk.read_bytes() == content.read_bytes()
        assert "block device" in found.method
    finally:
        run(["losetup", "-d", device], timeout=20)


def test_settings_that_make_no_sense_are_refused() -> None:
    known = {"kind": "disk", "path": "/a", "format": "raw"}
    for wrong in (
        {"path": "a"},
        {"path": "/a/../b"},
        {"format": "vmdk"},
        {"backing": "/b"},
        {"forced": True},
    ):
        with pytest.raises(ValidationError):
            DiskSettings.model_validate({**known, **wrong})
