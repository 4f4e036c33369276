"""Files are replaced whole or not at all, locks exclude, and leftovers of a killed process go away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kiosk import files
from kiosk.errors import BusyError, StorageError


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "a"
    files.write(target, b"old")
    with pytest.raises(RuntimeError), files.replacing(target) as f:
        f.write(b"new, but half")
        raise RuntimeError
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_named_and_nothing_is_half_written(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    try:
        files.write(disk / "a", b"old")
        with pytest.raises(StorageError, match="No space left") as caught:
            files.write(disk / "a", b"x" * 200_000)
        assert caught.value.exit_code == 7
        assert (disk / "a").read_bytes() == b"old"
        assert [p.name for p in disk.iterdir()] == ["a"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_link_is_switched_whatever_it_was(tmp_path: Path) -> None:
    link = tmp_path / "current"
    files.point(link, "1")
    files.point(link, "2")
    assert link.readlink() == Path("2")
    assert [p.name for p in tmp_path.iterdir()] == ["current"]


HOLDER = """
import sys, time
from pathlib import Path
from kiosk import files
with files.locked(Path(sys.argv[1]) / "lock", what="the test"), files.scratch(Path(sys.argv[1])) as folder:
    (folder / "inside").write_text("x")
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_and_a_killed_one_leaves_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match="the test"), files.locked(tmp_path / "lock", what="the test"):
            pass
        holder.send_signal(signal.SIGKILL)
    assert list(tmp_path.glob("scratch-*/inside"))
    with files.locked(tmp_path / "lock", what="the test"), files.scratch(tmp_path) as mine:
        assert list(tmp_path.glob("scratch-*")) in (
            [mine, mine.with_suffix(".lock")],
            [mine.with_suffix(".lock"), mine],
        )
    assert not list(tmp_path.glob("scratch-*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a file immutable or mount")
@pytest.mark.parametrize("what", ["immutable", "mounted"])
def test_a_leftover_that_cannot_be_removed_is_a_warning_and_no_obstacle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    left = tmp_path / "scratch-killed"
    (left / "below").mkdir(parents=True)
    (left / "below/file").touch()
    left.with_suffix(".lock").touch()
    on, off = (
        (["chattr", "+i", left / "below/file"], ["chattr", "-i", left / "below/file"])
        if what == "immutable"
        else (["mount", "-t", "tmpfs", "none", left / "below"], ["umount", left / "below"])
    )
    subprocess.run(on, check=True)
    try:
        with files.scratch(tmp_path) as mine:
            assert mine.is_dir()
    finally:
        subprocess.run(off, check=True)
    assert str(left) in caplog.text
    with files.scratch(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_sparse_copy_keeps_content_and_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "s", tmp_path / "t"
    with source.open("wb") as f:
        f.truncate(64 << 20)
        f.seek(10 << 20)
        f.write(b"data" * 1000)
        f.seek((64 << 20) - 3)
        f.write(b"end")
    files.copy_sparse(source, target)
    assert files.sha256(source) == files.sha256(target)
    assert target.stat().st_blocks * 512 < 1 << 20


def test_locks_are_quick_to_refuse(tmp_path: Path) -> None:
    with files.locked(tmp_path / "l", what="x"):
        start = time.monotonic()
        with pytest.raises(BusyError), files.locked(tmp_path / "l", what="x"):
            pass
        assert time.monotonic() - start < 1


def test_a_private_folder_is_never_taken_for_a_leftover_by_one_who_comes_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, waiting = files.fcntl.flock, [True]

    def another_comes_first(file: int, how: int) -> None:
        if waiting:
            waiting.clear()
            with files.scratch(tmp_path):
                pass
        flock(file, how)

    monkeypatch.setattr(files.fcntl, "flock", another_comes_first)
    with files.scratch(tmp_path) as folder:
        assert folder.with_suffix(".lock").exists()  # without it, the next one would remove the folder
        with files.scratch(tmp_path):
            assert folder.is_dir()
