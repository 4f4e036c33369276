"""A hypervisor with a tiny synced image, and VMs that are always ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kiosk.cloud.api import VmSpec
from kiosk.cloud.hostcache import HostCache
from kiosk.cloud.qemu.driver import QemuCloud
from kiosk.model.flavour import FLAVOURS
from kiosk.model.names import ImageRef, LayerRef
from tests.simulators.published import Kiosk, ready


@pytest.fixture
def kiosk(tmp_path: Path) -> Kiosk:
    """worker@1 and site/a/base@1, published and synced. The bytes of the disk would not boot."""
    found = ready(tmp_path / "farm")
    assert found.sync().failure is None
    return found


@pytest.fixture
def cloud(kiosk: Kiosk) -> Iterator[QemuCloud]:
    """The driver on that hypervisor; emulating, so that no probe is needed."""
    found = QemuCloud(kiosk.hypervisor.vms, HostCache(kiosk.hypervisor.host), accel="tcg")
    yield found
    for folder in found.vms.glob("????????"):
        found.stop(folder.name, now=True)


@pytest.fixture
def spec(tmp_path: Path) -> Callable[[str], VmSpec]:
    """A VM to start, by name."""
    bundle = tmp_path / "bundle"
    (bundle / "metadata").mkdir(parents=True)
    (bundle / "metadata/timestamp.json").write_text("{}")

    def make(name: str) -> VmSpec:
        return VmSpec(
            name=name,
            image=ImageRef.parse("worker@1"),
            layers=(LayerRef.parse("site/a/base@1"),),
            flavour=FLAVOURS["tiny"],
            bundle=bundle,
        )

    return make
