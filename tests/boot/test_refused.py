"""What is not as its owners signed it and its context specifies does not become a node: it never is ready, leaves no
attestation and no batch daemon, says why on its console and to its hypervisor, and powers itself off.

The metadata is such as an attacker could make who has the host, the repository, and its online keys (see `forger`);
the contexts are such as any cloud could give.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from kiosk.cloud import context_disk
from kiosk.cloud.api import VmSpec, VmState
from kiosk.cloud.qemu import argv
from kiosk.model.flavour import FLAVOURS
from kiosk.model.names import LayerRef, manifest_path
from kiosk.trust.bundle import export
from kiosk.trust.signing.keys import Keys
from tests.boot import trial
from tests.boot.crafted import NOTHING_LEFT, CraftedCloud, looking, powered_off, unchanged
from tests.boot.farm import READY_LIMIT, Farm, settled
from tests.boot.forger import Forger
from tests.simulators.lsf import alone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SOFTWARE, RIVAL = "experiment/demo/software", "experiment/demo/rival"
RIVAL_TOML = """
kind = "experiment"
owner = "demo"
name = "rival"
images = ["debian-12-minimal"]
"""
KEY = f"ssh-ed25519 {'A' * 68}"


@dataclass(frozen=True)
class Layers:
    """The layers of the tests, and where a hypervisor has them."""

    host: Path
    software: LayerRef
    site: LayerRef
    rival: LayerRef
    revoked: LayerRef


@dataclass(frozen=True)
class Case:
    """What is wrong, the stage that finds it, and words of the reason. `forge` changes the signed metadata, `hand_over`
    the layers on the hypervisor, `change` the document; `more` is what a user's context file says."""

    stage: str
    words: Sequence[str]
    layers: Callable[[Layers], tuple[LayerRef, ...]] = lambda layers: (layers.software,)
    forge: Callable[[Forger], None] = lambda forger: None
    hand_over: Callable[[Layers], None] = lambda layers: None
    change: Callable[[dict[str, Any]], None] = unchanged
    more: Mapping[str, Any] = field(default_factory=dict)
    two_disks: bool = False


def alter(layers: Layers) -> None:
    """One bit in the midst of the layer is another."""
    ref = layers.software
    file = layers.host / "layers" / ref.base / str(ref.version) / "layer.squashfs"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


CASES = {
    "one-bit-of-a-layer-is-another": Case(
        "verify", (SOFTWARE, "the content has the digest"), hand_over=alter
    ),
    "a-layer-is-signed-by-another-role": Case(
        "verify",
        ("experiment-demo",),
        forge=lambda forger: forger.signed_by("experiment-demo", "site-example"),
    ),
    "the-metadata-has-expired": Case("verify", ("timestamp", "expired"), forge=Forger.expired),
    "a-layer-is-older-than-its-floor": Case(
        "verify", (RIVAL, "was revoked: nothing below", "(a hole)"), lambda layers: (layers.revoked,)
    ),
    "the-context-has-a-key-that-nobody-knows": Case(
        "context", ("'colour': unknown key",), change=lambda document: document.update(colour="red")
    ),
    "two-disks-look-like-the-source": Case(
        "context", ("more than one disk looks like a source", "CIDATA", "config-2"), two_disks=True
    ),
    "two-layers-want-one-place": Case(
        "layers",
        (SOFTWARE, RIVAL, "would both be mounted at /opt/experiment/demo"),
        lambda layers: (layers.software, layers.rival),
    ),
    "there-is-no-scratch-disk": Case(
        "scratch",
        ("virtio-elsewhere", "did not appear within 30 s"),
        change=lambda document: document["scratch"].update(device="elsewhere"),
    ),
    "root-keys-for-an-image-without-an-ssh-server": Case(
        "access", ("this image has no ssh server",), lambda layers: (layers.site,), more={"root_keys": [KEY]}
    ),
    "unanswered-master": Case(
        "join",
        ("farm batch did not take this node", f"{alone.MASTER} can't be reached: Cannot connect to LSF"),
        lambda layers: (layers.site,),
        more={"farm": trial.lsf(timeout=15)},
    ),
}


@pytest.fixture(scope="module")
def layers(farm: Farm, folder: Path) -> Layers:
    """The layers, of which one had to be revoked while this hypervisor kept it."""
    host = folder / "host"
    (host / "layers").mkdir(parents=True)
    (host / "images").symlink_to(farm.settings.host / "images")
    recipe = folder / "rival"
    (recipe / "files").mkdir(parents=True)
    (recipe / "files/about").write_text("rival\n")
    (recipe / "layer.toml").write_text(RIVAL_TOML)
    old = trial.publish(farm, recipe, RIVAL)
    shutil.copytree(farm.cache.folder(old), host / "layers" / old.base / str(old.version))
    site, new = trial.published(farm, folder), trial.publish(farm, recipe, RIVAL)
    farm.kiosk("kiosk-host", "revoke", RIVAL, "--below", str(new.version), "--reason", "a hole")
    farm.kiosk("hypervisor", "sync")
    software = farm.layer(SOFTWARE)
    for ref in (software, site, new):
        shutil.copytree(farm.cache.folder(ref), host / "layers" / ref.base / str(ref.version))
    return Layers(host, software, site, new, old)


@pytest.fixture(scope="module")
def nodes(farm: Farm, folder: Path, layers: Layers) -> dict[str, tuple[VmState, bool, str]]:
    """All nodes, two at a time: their last states, whether they powered off, and their consoles."""
    image = farm.image()
    cloud = farm.cloud(folder / "vms", layers.host)
    (folder / "look").mkdir()
    crafted = CraftedCloud(
        cloud.vms,
        cloud.cache,
        boot="direct-kernel",
        initrd=looking(cloud.cache.file(cloud.cache.image(image), "initrd"), folder / "look"),
    )

    def node(item: tuple[str, Case]) -> tuple[VmState, bool, str]:
        name, case = item
        own, refs = folder / name, case.layers(layers)
        export(
            farm.settings.host / "metadata", [manifest_path(ref) for ref in (image, *refs)], own / "bundle"
        )
        case.forge(Forger(own / "bundle", Keys(farm.home / "kiosk-host/keys")))
        shutil.copytree(layers.host, own / "host", symlinks=True)
        case.hand_over(replace(layers, host=own / "host"))
        spec = VmSpec(
            name=name[:60], image=image, layers=refs, flavour=FLAVOURS["tiny"], bundle=own / "bundle",
            context=case.more,
        )  # fmt: skip
        more: tuple[Path, ...] = ()
        if case.two_disks:
            more = (own / "second.img",)
            document = {"node": {"id": "second", "name": "second"}}
            context_disk.make_disk(more[0], document, own / "bundle", "configdrive")
        here = replace(
            crafted, cache=farm.cloud(cache=own / "host").cache, change=case.change, more_disks=more
        )
        started = here.start(spec)
        state = settled(here, started.id, READY_LIMIT)
        off = powered_off(state)
        console = (here.folder(started.id) / argv.CONSOLE_LOG).read_text(errors="replace")
        here.stop(started.id, now=True)
        return state, off, console

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(CASES, pool.map(node, CASES.items()), strict=True))


@pytest.mark.parametrize("what", CASES)
def test_no_node_where(nodes: dict[str, tuple[VmState, bool, str]], what: str) -> None:
    case, (state, off, console) = CASES[what], nodes[what]
    assert (state.phase, state.stage) == ("failed", case.stage), (state, console[-3000:])
    for words in case.words:
        assert words in str(state.reason), state.reason
    assert f"kiosk: failed in {case.stage}: " in console
    assert "kiosk: ready" not in console and "kiosk-ready.target" not in console
    assert NOTHING_LEFT in console, console[-3000:]
    assert off
