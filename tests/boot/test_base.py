"""The built image boots, under UEFI firmware and by its kernel alone, on a verified root, with nothing failed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kiosk.model.manifest import ImageManifest
from tests.simulators.guest import Guest, started
from tests.simulators.images import built_image, kept_home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ALONE = "systemd.mask=kiosk-contextualize.service systemd.mask=kiosk-ready.target"


@pytest.fixture(scope="module")
def built() -> Path:
    """A version of debian-12-minimal."""
    return built_image(kept_home())


@contextmanager
def booted(built: Path, tmp_path: Path, **how: str) -> Iterator[tuple[Guest, ImageManifest]]:
    manifest = ImageManifest.from_json((built / "manifest.json").read_bytes(), where=str(built))
    with started(built, manifest.cmdline, tmp_path, **how) as guest:
        yield guest, manifest


def test_direct_kernel_boot_reaches_multi_user_with_nothing_failed(built: Path, tmp_path: Path) -> None:
    with booted(built, tmp_path, append=ALONE) as (guest, _):
        assert guest.shell("systemctl is-system-running --wait") == "running"
        assert guest.shell("systemctl is-active multi-user.target") == "active"
        assert guest.shell("systemctl --failed --no-legend") == ""
        assert guest.shell("systemctl list-jobs --no-legend") == ""
        assert guest.shell("getent hosts localhost").split()[1] == "localhost"
        assert guest.shell("ip -4 -br address show scope global | wc -l") == "1"
        assert guest.shell("passwd --status root").split()[1] in ("L", "LK")


def test_uefi_boot_has_a_verified_root_under_a_volatile_overlay(built: Path, tmp_path: Path) -> None:
    with booted(built, tmp_path, firmware="uefi") as (guest, manifest):
        assert manifest.verity.root_hash in guest.shell("cat /proc/cmdline")
        assert guest.shell("findmnt -no FSTYPE /") == "overlay"
        table = guest.shell("dmsetup table root")
        assert manifest.verity.root_hash in table
        assert guest.shell("blockdev --getro /dev/mapper/root") == "1"
        assert guest.shell("systemctl --failed --no-legend") == ""
        assert guest.shell("touch /usr/bin/written && ls /usr/bin/written") == "/usr/bin/written"
        identity = json.loads(guest.shell("cat /usr/lib/kiosk/image.json"))
        assert (identity["name"], identity["version"]) == (manifest.name, manifest.version)
        imports = "import tuf.ngclient, securesystemslib, cryptography.hazmat.bindings._rust, contextualize"
        assert (
            guest.shell(f"PYTHONPATH=/usr/lib/kiosk/python python3 -c '{imports}' && echo imported")
            == "imported"
        )
