"""What the kiosk offers, as its own metadata says."""

from __future__ import annotations

from pathlib import Path

from kiosk.fleet.catalogue import current
from tests.simulators.published import behind, disk_bytes
from tests.simulators.published import without_fsync as without_fsync


def test_the_size_of_each_version_is_that_of_its_files(tmp_path: Path) -> None:
    kiosk = behind(tmp_path)
    found = current(kiosk.settings.repository)
    assert set(found.sizes) == found.versions
    least = len(disk_bytes("1")) + 200_000
    assert least <= found.sizes["worker@1"] < 2 * least
