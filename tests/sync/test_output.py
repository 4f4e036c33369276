"""`kiosk fetch`: an image to a file, raw or qcow2, or to a device; complete and verified, or it says so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiosk.errors import StorageError
from kiosk.files import sha256
from kiosk.model.manifest import Artifact
from kiosk.model.names import parse_ref
from kiosk.store.api import DirectoryStore
from kiosk.store.locate import source as objects
from kiosk.store.objects import ObjectSource
from kiosk.sync import output
from kiosk.trust.client import TrustedRepository
from tests.failures.interrupted import killed_at
from tests.publish.test_commands import Terminal
from tests.publish.test_commands import terminal as terminal
from tests.simulators import published
from tests.simulators.published import MEGABYTE, Kiosk, behind, bytes_of, disk_bytes


@pytest.fixture
def kiosk(tmp_path: Path, terminal: Terminal) -> Kiosk:
    """A kiosk with worker@1 and worker@2, and the settings of somebody who reads from it."""
    made = behind(tmp_path)
    terminal.set("KIOSK_HOME", tmp_path / "reader")
    terminal.set("KIOSK_URL", made.settings.repository)
    terminal.set("KIOSK_ROOT", made.root)
    return made


def disk(kiosk: Kiosk, version: str = "2") -> tuple[Artifact, ObjectSource]:
    """A version's disk and where it is read."""
    reader = TrustedRepository(kiosk.home / "check", kiosk.settings.repository, kiosk.root.read_bytes())
    return reader.manifest(parse_ref(f"worker@{version}")).artifacts["disk"], objects(
        str(kiosk.settings.repository), None
    )


def other_bytes(version: str) -> bytes:
    """A disk that shares nothing with the versions before, and most of its blocks with those after."""
    return b"".join(bytes_of(f"{version if i % 8 == 0 else 'other'}-{i}", 4096) for i in range(1024, 2048))


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def as_raw(qcow2: Path) -> bytes:
    """What a guest would see."""
    raw = qcow2.with_name("as.raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", qcow2, raw], check=True)
    data = raw.read_bytes()
    raw.unlink()
    return data


def test_to_a_file_and_from_one_version_to_the_next(kiosk: Kiosk, terminal: Terminal, tmp_path: Path) -> None:
    target = tmp_path / "out" / "worker.raw"
    target.parent.mkdir()
    told = terminal.json("fetch", "worker@1", "--output", target, "--dry-run")
    assert (told["version"], told["dry_run"], names(target.parent)) == ("1", True, set())
    first = terminal.json("fetch", "worker@1", "-o", target)
    assert target.read_bytes() == disk_bytes("1")
    assert (first["reused"], first["already"]) == (0, False)
    second = terminal.json("fetch", "worker", "-o", target)
    assert target.read_bytes() == disk_bytes("2")
    assert second["moved"] < first["moved"] / 5
    assert names(target.parent) == {"worker.raw", ".worker.raw.index"}
    third = terminal.json("fetch", "worker", "-o", target)
    assert (third["already"], third["moved"], third["requests"]) == (True, 0, 0)
    code, out, _ = terminal.run("fetch", "worker", "-o", tmp_path / "kernel", "--file", "vmlinuz")
    assert (code, "verified" in out) == (0, True)
    assert (tmp_path / "kernel").stat().st_size == 200_000


def test_to_a_qcow2(kiosk: Kiosk, terminal: Terminal, tmp_path: Path) -> None:
    target = tmp_path / "out" / "worker.qcow2"
    target.parent.mkdir()
    target.write_bytes(b"what was there before")
    terminal.json("fetch", "worker", "-o", target, "--format", "qcow2")
    assert target.read_bytes()[:4] == b"QFI\xfb"
    assert as_raw(target) == disk_bytes("2")
    assert names(target.parent) == {"worker.qcow2"}


def test_to_a_qcow2_killed_at_every_step(kiosk: Kiosk, tmp_path: Path) -> None:
    artifact, source = disk(kiosk)
    target = tmp_path / "out" / "worker.qcow2"
    target.parent.mkdir()
    steps = 0
    while killed_at(steps + 1, lambda: output.put(artifact, source, target, format="qcow2")):
        steps += 1
        assert not target.exists()
    assert steps == 3  # the index beside the raw file, the raw file, the qcow2
    assert as_raw(target) == disk_bytes("2")
    assert names(target.parent) == {"worker.qcow2"}


def test_what_can_not_be_an_output_is_refused(kiosk: Kiosk, terminal: Terminal, tmp_path: Path) -> None:
    for words, code, says in [
        (["-o", "/dev/null"], 2, "neither a file nor a block device"),
        (["-o", tmp_path], 2, "neither a file nor a block device"),
        (["-o", tmp_path / "none" / "a"], 6, "no such folder"),
        (["-o", tmp_path / "a", "--format", "vmdk"], 2, "raw"),
        (["-o", tmp_path / "a", "--file", "nothing"], 6, "disk, files, initrd"),
    ]:
        found, _, err = terminal.run("fetch", "worker", *words)
        assert (found, says in err) == (code, True), (words, err)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A loop device of 3 MiB."""
    (tmp_path / "backing").write_bytes(os.urandom(3 * MEGABYTE))
    argv = ["losetup", "--find", "--show", tmp_path / "backing"]
    loop = Path(subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip())
    yield loop
    subprocess.run(["losetup", "--detach", loop], check=True)


root = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices and mounts take root")


@root
def test_to_a_device(kiosk: Kiosk, terminal: Terminal, device: Path, tmp_path: Path) -> None:
    (tmp_path / "lv").symlink_to(device)  # as LVM's names are
    code, _, err = terminal.run("fetch", "worker@1", "-o", tmp_path / "lv", "--format", "qcow2")
    assert (code, "can't hold qcow2" in err) == (2, True)
    terminal.json("fetch", "worker@1", "-o", tmp_path / "lv")
    size = len(disk_bytes("1"))
    assert device.read_bytes()[:size] == disk_bytes("1")
    again = terminal.json("fetch", "worker@1", "-o", device)
    assert again["requests"] == 1
    subprocess.run(["losetup", "--set-capacity", device], check=True)
    os.truncate(tmp_path / "backing", MEGABYTE)
    subprocess.run(["losetup", "--set-capacity", device], check=True)
    code, _, err = terminal.run("fetch", "worker", "-o", device)
    assert (code, "lvextend" in err) == (7, True)


@root
def test_a_device_that_fails_is_said_to(kiosk: Kiosk, device: Path) -> None:
    with pytest.raises(StorageError, match="Input/output error"), output.device_errors(device):
        raise OSError(5, "Input/output error")


@root
@pytest.mark.parametrize("free", [MEGABYTE, 3 * MEGABYTE, 5 * MEGABYTE - 900_000])
def test_a_full_disk_is_left_as_it_was(kiosk: Kiosk, tmp_path: Path, free: int) -> None:
    """No room for the raw file; none for the qcow2 beside it; less than a qcow2 takes."""
    artifact, source = disk(kiosk)
    folder = tmp_path / "small"
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", f"size={free}", "tmpfs", folder]
    subprocess.run(argv, check=True)
    try:
        (folder / "a").write_bytes(b"before")
        with pytest.raises(StorageError):
            output.put(artifact, source, folder / "a", format="qcow2")
        assert names(folder) == {"a"}
        assert (folder / "a").read_bytes() == b"before"
    finally:
        subprocess.run(["umount", folder], check=True)


@root
def test_a_disk_that_is_filled_by_others_during_the_conversion(
    kiosk: Kiosk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_room", lambda *_: None)  # there seemed to be room
    test_a_full_disk_is_left_as_it_was(kiosk, tmp_path, 3 * MEGABYTE)


def test_a_local_file_named_as_seed_saves_a_sync_most_of_the_bytes(
    kiosk: Kiosk, terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hypervisor that has nothing but a qcow2 which somebody once copied there."""
    monkeypatch.setattr(sys.modules["kiosk.publish.publish"], "SUMS_FROM", MEGABYTE)
    monkeypatch.setattr(published, "disk_bytes", other_bytes)
    for version in ("3", "4"):
        kiosk.image(version=version)
    seed = tmp_path / "seed.qcow2"
    (tmp_path / "seed.raw").write_bytes(other_bytes("3"))
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", tmp_path / "seed.raw", seed], check=True)
    terminal.set("KIOSK_HOME", tmp_path / "fresh")
    done = terminal.json("sync", "worker@4", "--seed", seed)["results"][0]
    assert done["state"] == "fetched"
    assert done["reused"] > 3 * MEGABYTE
    assert done["moved"] < 1_200_000
    fetched = terminal.json("fetch", "worker@4", "-o", tmp_path / "a", "--seed", seed)
    assert fetched["reused"] > 3 * MEGABYTE
    assert sha256(tmp_path / "a") == fetched["digest"]
    assert isinstance(objects(str(kiosk.settings.repository), None), DirectoryStore)
