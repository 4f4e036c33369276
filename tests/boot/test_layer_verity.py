"""A large layer in real nodes: not read as a whole, and yet no changed byte of it is ever read as if it were right."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from kiosk.cloud.api import VmState
from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.files import copy_sparse
from kiosk.model.names import LayerRef
from kiosk.order import make_bundle
from tests.boot.farm import Farm, inside, settled, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
NAME = "experiment/demo/large"
DATA = 80 << 20
TOML = """
kind = "experiment"
owner = "demo"
name = "large"
images = ["debian-12-minimal"]
"""


@pytest.fixture(scope="module")
def layer(farm: Farm, folder: Path) -> LayerRef:
    """A layer that is too large to be read as a whole at boot, published and synced."""
    recipe = folder / "large"
    (recipe / "files").mkdir(parents=True)
    (recipe / "layer.toml").write_text(TOML)
    (recipe / "files/data").write_bytes(Random(1).randbytes(DATA))
    farm.kiosk("kiosk-host", "layer", "build", str(recipe))
    farm.kiosk("kiosk-host", "layer", "publish", NAME)
    farm.kiosk("hypervisor", "sync", NAME)
    return farm.layer(NAME)


def node(farm: Farm, folder: Path, layer: LayerRef, name: str) -> tuple[QemuCloud, Path]:
    """A hypervisor with a copy of the layer's file, for a test to change."""
    host = folder / name
    host.mkdir()
    (host / "images").symlink_to(farm.settings.host / "images")
    copy = host / "layers" / layer.base / str(layer.version)
    copy.mkdir(parents=True)
    for file in farm.cache.folder(layer).iterdir():
        copy_sparse(file, copy / file.name)
    return farm.cloud(folder / "vms", host), copy / "layer.squashfs"


def flip(file: Path, at: int) -> None:
    with file.open("r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 1]))


@pytest.fixture(scope="module")
def nodes(farm: Farm, folder: Path, layer: LayerRef) -> dict[str, tuple[QemuCloud, Path, VmState]]:
    """A node on an honest hypervisor, and one on whose disk a byte of the layer's list of files is another."""
    make_bundle(farm.cache, farm.settings.host / "metadata", (farm.image(), layer), folder / "bundle-large")
    found = {}
    for name in ("honest", "altered"):
        cloud, file = node(farm, folder, layer, name)
        if name == "altered":
            tree = farm.cache.layer(layer).verity
            assert tree is not None
            flip(file, tree.data_blocks * 4096 - 4096)
        vm = started(cloud, farm.image(), (layer,), folder / "bundle-large", name)
        found[name] = (cloud, file, vm)
    return {name: (cloud, file, settled(cloud, vm.id)) for name, (cloud, file, vm) in found.items()}


def test_the_kernel_checks_it_and_the_attestation_says_so(
    nodes: dict[str, tuple[QemuCloud, Path, VmState]],
) -> None:
    cloud, _, state = nodes["honest"]
    assert state.phase == "ready", state
    attestation = json.loads(inside(cloud, state.id, "cat", "/run/kiosk/attestation.json").stdout)
    assert [entry["checked"] for entry in attestation["layers"]] == ["verity"]
    print("seconds of the stages:", attestation["stage_seconds"])
    status = inside(cloud, state.id, "dmsetup", "status", "kiosk-layer-0").stdout.decode()
    assert status.split()[2:4] == ["verity", "V"]


def test_a_byte_that_is_changed_under_a_running_node_is_an_io_error(
    nodes: dict[str, tuple[QemuCloud, Path, VmState]],
) -> None:
    cloud, file, state = nodes["honest"]
    flip(file, DATA // 2)
    read = inside(cloud, state.id, "dd", "if=/opt/experiment/demo/data", "of=/dev/null", "bs=1M", timeout=300)
    assert read.status != 0 and b"Input/output error" in read.stderr
    status = inside(cloud, state.id, "dmsetup", "status", "kiosk-layer-0").stdout.decode()
    assert status.split()[2:4] == ["verity", "C"]
    found = inside(
        cloud, state.id, "env", "PYTHONPATH=/usr/lib/kiosk/python", "python3", "-c",
        "from contextualize import machine, verity; print(verity.corrupted(machine.Machine()))",
    )  # fmt: skip
    assert found.stdout.decode().strip() == "['layer-0']"
    cloud.stop(state.id, now=True)


def test_a_byte_that_was_changed_before_the_boot_keeps_the_node_away(
    nodes: dict[str, tuple[QemuCloud, Path, VmState]],
) -> None:
    _, _, state = nodes["altered"]
    assert state.phase == "failed", state
    assert state.stage in ("verify", "layers"), state
    assert NAME in str(state.reason) or "mount" in str(state.reason)
