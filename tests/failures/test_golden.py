"""What can be wrong with a golden node: the command says what and where, nothing is built, nothing stays behind."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kiosk.run import run
from tests.publish.test_commands import Terminal

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a snapshot needs root")
MIB = 1 << 20
DEFINITION = """
name = "batch"
os = "debian"
release = "bookworm"
architecture = "x86_64"
base = "debian-12"
{more}
[source]
kind = "disk"
path = "{disk}"
format = "{format}"
"""


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Terminal:
    made = Terminal(monkeypatch, capsys, tmp_path / "home")
    made.set("KIOSK_RECIPES", tmp_path / "recipes")
    return made


def define(folder: Path, *, format: str = "raw", more: str = "") -> None:
    (folder / "recipes/golden").mkdir(parents=True, exist_ok=True)
    text = DEFINITION.format(disk=folder / "disk", format=format, more=more)
    (folder / "recipes/golden/batch.toml").write_text(text)


def write_disk(folder: Path, release: str = "bookworm", *, kernel: bool = True) -> Path:
    """A GPT disk with one ext4 that holds as much of a Debian as is looked at."""
    tree = folder / "tree"
    files = {
        "etc/os-release": f'ID=debian\nVERSION_CODENAME={release}\nPRETTY_NAME="Debian ({release})"\n',
        "usr/lib/os-release": f'ID=debian\nVERSION_CODENAME={release}\nPRETTY_NAME="Debian ({release})"\n',
        "usr/bin/python3.11": "",
        "var/lib/dpkg/status": "",
        "usr/lib/filler": "x" * 300_000,
    }
    if kernel:
        files |= {"boot/vmlinuz-6.1.0-1-amd64": "k", "usr/lib/modules/6.1.0-1-amd64/modules.dep": ""}
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    disk = folder / "disk"
    with disk.open("wb") as f:
        f.truncate(64 * MIB)
    run(["sfdisk", "--quiet", disk], timeout=60, input=b"label: gpt\nstart=2048, type=linux\n")
    run(["mkfs.ext4", "-q", "-F", "-d", tree, "-E", f"offset={MIB}", disk, "60m"], timeout=60)
    shutil.rmtree(tree)
    return disk


def overwrite(disk: Path, at: int, data: bytes) -> None:
    with disk.open("r+b") as f:
        f.seek(at)
        f.write(data)


def corrupt(folder: Path) -> None:
    """The inode table is gone, the superblock is not."""
    overwrite(write_disk(folder), MIB + 40 * 4096, os.urandom(64 * 4096))


def encrypted(folder: Path) -> None:
    overwrite(write_disk(folder), MIB, b"LUKS\xba\xbe\x00\x02" + bytes(4096))


def wrong_format(folder: Path) -> None:
    disk = write_disk(folder)
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, folder / "qcow2"], timeout=60)
    (folder / "qcow2").rename(disk)


def not_qcow2(folder: Path) -> None:
    write_disk(folder)
    define(folder, format="qcow2")


def nothing_known(folder: Path) -> None:
    (folder / "disk").write_bytes(os.urandom(4 * MIB))


def other_release(folder: Path) -> None:
    write_disk(folder, "trixie")


def no_kernel(folder: Path) -> None:
    write_disk(folder, kernel=False)


def not_ready(folder: Path) -> None:
    write_disk(folder)
    define(folder, more='[ready]\nwhere = "builder"\nrun = ["sh", "-c", "echo 3 packages wait; exit 4"]\n')


STORIES: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "its file system is damaged": (corrupt, 5, "damaged"),
    "its disk is encrypted": (encrypted, 2, "encrypted"),
    "its disk is a qcow2 and not raw": (wrong_format, 2, "qcow2"),
    "its disk is raw and not a qcow2": (not_qcow2, 9, "is not a qcow2 disk"),
    "its disk holds nothing that is known": (nothing_known, 2, "no root file system"),
    "there is no such disk": (lambda _folder: None, 6, "there is no such disk"),
    "it runs another release": (other_release, 9, "the node runs Debian .trixie."),
    "it has no kernel": (no_kernel, 9, "no kernel in /boot"),
    "it is not up to date": (not_ready, 10, "3 packages wait"),
}


@pytest.mark.parametrize("story", STORIES)
def test_a_node_of_which_no_image_can_be_made(story: str, terminal: Terminal, tmp_path: Path) -> None:
    prepare, code, words = STORIES[story]
    define(tmp_path)
    prepare(tmp_path)
    before = (tmp_path / "disk").read_bytes() if (tmp_path / "disk").exists() else None
    found, _, err = terminal.run("snapshot", "batch")
    assert found == code, err
    assert re.search(words, err), err
    assert "Traceback" not in err
    home = tmp_path / "home"
    assert not (home / "built").exists()
    assert [p for p in (home / "scratch").rglob("*") if p.is_file()] == []
    assert before is None or (tmp_path / "disk").read_bytes() == before
