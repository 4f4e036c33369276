"""A layer that is not what its owner signed keeps the node from coming up, and the report says why.

Each bundle below is one that an attacker could make who has the host, the repository, and its online keys
(snapshot and timestamp): only the layer's own key is not his.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp

from kiosk.cli.vm_start import make_bundle
from kiosk.cloud.api import VmState
from kiosk.trust.signing.keys import Keys
from kiosk.trust.signing.repository import to_bytes
from tests.boot.farm import PASSPHRASE, READY_LIMIT, Farm, settled, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
LAYER = "experiment/demo/software"
ROLE = "experiment-demo"


def described(data: bytes, before: MetaFile) -> MetaFile:
    """The line of a metadata file, with digest and length where it had them before."""
    made = MetaFile.from_data(before.version, data, list(before.hashes or ["sha256"]))
    return MetaFile(
        before.version, made.length if before.length else None, made.hashes if before.hashes else None
    )


@dataclass
class Forger:
    """Changes a bundle's role and signs everything above it with the true online keys."""

    metadata: Path
    keys: Keys

    def signer(self, name: str):  # type: ignore[no-untyped-def]
        return self.keys.signer(name, lambda _: PASSPHRASE)

    def file(self, role: str) -> Path:
        (found,) = self.metadata.glob(f"*{role}.json")
        return found

    def replace(self, change: Callable[[Metadata[Targets]], None]) -> None:
        role = Metadata[Targets].from_file(str(self.file(ROLE)))
        change(role)
        data = to_bytes(role)
        self.file(ROLE).write_bytes(data)
        snapshot = Metadata[Snapshot].from_file(str(self.file("snapshot")))
        meta = snapshot.signed.meta
        meta[f"{ROLE}.json"] = described(data, meta[f"{ROLE}.json"])
        snapshot.sign(self.signer("snapshot"))
        data = to_bytes(snapshot)
        self.file("snapshot").write_bytes(data)
        timestamp = Metadata[Timestamp].from_file(str(self.metadata / "timestamp.json"))
        timestamp.signed.snapshot_meta = described(data, timestamp.signed.snapshot_meta)
        timestamp.sign(self.signer("timestamp"))
        (self.metadata / "timestamp.json").write_bytes(to_bytes(timestamp))


@pytest.fixture(scope="module")
def states(farm: Farm, folder: Path) -> dict[str, VmState]:
    """The nodes of all attacks, started together and waited for together."""
    image, layer = farm.image(), farm.layer(LAYER)
    keys = Keys(farm.home / "kiosk-host/keys")
    for name in ("altered", "wrong-role", "unsigned"):
        make_bundle(farm.cache, farm.settings.host / "metadata", (image, layer), folder / name)
    host = folder / "host"
    shutil.copytree(farm.settings.host / "layers", host / "layers", symlinks=True)
    (host / "images").symlink_to(farm.settings.host / "images")
    altered, honest = farm.cloud(folder / "vms", host), farm.cloud(folder / "vms")
    squashfs = altered.cache.file(altered.cache.layer(layer), "layer")
    data = bytearray(squashfs.read_bytes())
    data[len(data) // 2] ^= 1
    squashfs.write_bytes(data)

    wrong = Forger(folder / "wrong-role/metadata", keys)
    wrong.replace(lambda role: role.sign(wrong.signer("site-example")) and None)
    Forger(folder / "unsigned/metadata", keys).replace(lambda role: role.signatures.clear())

    started_vms = {
        name: started(altered if name == "altered" else honest, image, (layer,), folder / name, name)
        for name in ("altered", "wrong-role", "unsigned")
    }
    return {name: settled(honest, vm.id, READY_LIMIT * 2) for name, vm in started_vms.items()}


def test_one_bit_of_a_layer_changed(states: dict[str, VmState]) -> None:
    state = states["altered"]
    assert (state.phase, state.stage) == ("failed", "verify"), state
    assert LAYER in str(state.reason) and "digest" in str(state.reason)


@pytest.mark.parametrize("attack", ["wrong-role", "unsigned"])
def test_a_layer_signed_by_another_role_or_by_nobody(states: dict[str, VmState], attack: str) -> None:
    state = states[attack]
    assert (state.phase, state.stage) == ("failed", "verify"), state
    assert ROLE in str(state.reason)
