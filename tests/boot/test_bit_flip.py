"""One bit of the base changes under a running node: its kernel refuses the block, whatever the host says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.files import copy_sparse
from kiosk.order import make_bundle
from kiosk.run import run
from tests.boot.farm import Farm, inside, settled, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
VICTIM = "/usr/share/common-licenses/GPL-2"
BLOCK = 4096


def private_cache(farm: Farm, host: Path) -> None:
    """A host cache of its own with a copy of the image, so that the farm's stays whole."""
    image = farm.image()
    folder = host / "images" / image.name / str(image.version)
    folder.mkdir(parents=True)
    for file in farm.cache.folder(image).iterdir():
        copy_sparse(file, folder / file.name)
    shutil.copytree(farm.settings.host / "layers", host / "layers", symlinks=True)


def first_block(disk: Path, offset: int, path: str) -> int:
    """Where the first block of a file of the root file system is on the disk, in bytes."""
    found = run(["debugfs", "-R", f"blocks {path}", f"{disk}?offset={offset}"], timeout=30).split()
    return offset + int(found[0]) * BLOCK


def test_a_flipped_bit_in_the_base_is_an_io_error_in_the_guest(farm: Farm, folder: Path) -> None:
    private_cache(farm, folder / "host")
    cloud: QemuCloud = farm.cloud(folder / "vms", folder / "host")
    image = farm.image()
    make_bundle(farm.cache, farm.settings.host / "metadata", (image,), folder / "bundle")
    vm = started(cloud, image, (), folder / "bundle", "victim")
    state = settled(cloud, vm.id)
    assert state.phase == "ready", state
    assert inside(cloud, vm.id, "cat", "/usr/share/common-licenses/BSD").status == 0

    manifest = cloud.cache.image(image)
    disk = cloud.cache.file(manifest, "disk")
    root = next(p for p in manifest.partitions if p.label == manifest.verity.data)
    at = first_block(disk, root.offset, VICTIM)
    with disk.open("r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 1]))

    read = inside(cloud, vm.id, "cat", VICTIM)
    assert read.status != 0 and b"Input/output error" in read.stderr
    kernel = inside(cloud, vm.id, "dmesg").stdout.decode(errors="replace")
    block = (at - root.offset) // BLOCK
    assert "device-mapper: verity" in kernel and f"data block {block} is corrupted" in kernel
    cloud.stop(vm.id, now=True)
