"""Layers whose every block the guest's kernel checks: what it is told, and what a changed byte does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contextualize.stages import verify
from kiosk.build import layer_verity
from kiosk.model.names import LayerRef
from tests.contextualize.guest import Guest

Squashfs = Callable[[dict[str, str]], bytes]
NAME = "experiment/demo/software"
DISK = "dev/disk/by-id/virtio-layer-0"


@pytest.fixture
def demo(guest: Guest, squashfs: Squashfs, tmp_path: Path) -> Guest:
    """A guest with dmsetup and one experiment layer that has a hash tree."""
    guest.write("/usr/sbin/dmsetup", b"")
    image = tmp_path / "image"
    image.write_bytes(squashfs({"share/version": "4.2\n"}))
    tree = layer_verity.add(image, LayerRef("experiment", "demo", "software"))
    guest.add_layer(NAME, image.read_bytes(), verity=tree.model_dump())
    return guest


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """No layer is so small that it is read as a whole."""
    monkeypatch.setattr(verify, "WHOLE", 0)


def checked(guest: Guest) -> str:
    attestation = json.loads(guest.text("/run/kiosk/attestation.json"))
    assert attestation["layers"][0]["name"] == NAME
    return str(attestation["layers"][0]["checked"])


def flip(guest: Guest, at: int) -> None:
    disk = guest.root / DISK
    data = bytearray(disk.read_bytes())
    data[at] ^= 1
    disk.write_bytes(data)


def test_the_kernel_checks_what_is_mounted(demo: Guest, large: None) -> None:
    assert demo.boot() == 0
    assert checked(demo) == "verity"
    assert demo.text("/opt/experiment/demo/share/version") == "4.2\n"
    made = next(words for words in demo.machine.asked if words[0] == "dmsetup")
    assert made[1:3] == ("create", "--readonly") and "kiosk-layer-0" in made


def test_an_image_without_dmsetup_reads_the_layer_as_a_whole(demo: Guest, large: None) -> None:
    (demo.root / "usr/sbin/dmsetup").unlink()
    assert demo.boot() == 0
    assert checked(demo) == "digest"


def test_a_layer_without_a_tree_is_read_as_a_whole(guest: Guest, squashfs: Squashfs, large: None) -> None:
    guest.write("/usr/sbin/dmsetup", b"")
    guest.add_layer(NAME, squashfs({"share/version": "4.2\n"}))
    assert guest.boot() == 0
    assert checked(guest) == "digest"


def test_a_changed_byte_of_a_small_layer_is_seen_before_any_of_it_is_used(demo: Guest) -> None:
    flip(demo, 5000)
    assert demo.boot() == 1
    assert demo.refused().startswith(f"verify: {NAME}@1 on the disk layer-0: the content has the digest")
    assert demo.machine.asked == []


def test_a_changed_superblock_of_a_large_layer(demo: Guest, large: None) -> None:
    flip(demo, 4)
    assert demo.boot() == 1
    assert demo.refused() == f"layers: {NAME}@1 on the disk layer-0: is not a SquashFS image"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hash_start": 1}, "hash_start: 1 is not a whole number from 2"),
        ({"hash_start": 1 << 20}, "hash_start: is not behind the data, inside the image"),
        ({"data_blocks": 9}, "hash_start: is not behind the data, inside the image"),
        ({"salt": "00 0 / /dev/vda"}, "salt: "),
        ({"root_hash": "ab"}, "root_hash: "),
        ({"options": "ignore_corruption"}, "'options': unknown key"),
    ],
)
def test_parameters_that_no_build_makes(
    guest: Guest, squashfs: Squashfs, change: dict[str, Any], expected: str
) -> None:
    tree = {"root_hash": "ab" * 32, "salt": "00", "data_blocks": 2, "hash_start": 2, **change}
    guest.add_layer(NAME, squashfs({"x": "x"}) + bytes(8192), verity=tree)
    assert guest.boot() == 1
    assert expected in guest.refused()


def test_a_tree_of_other_data(demo: Guest, squashfs: Squashfs, large: None) -> None:
    other = squashfs({"share/version": "6.6\n"})
    disk = demo.root / DISK
    disk.write_bytes(other + disk.read_bytes()[len(other) :])
    assert demo.boot() == 1
    assert demo.refused().startswith("layers: ")
