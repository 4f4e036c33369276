"""The farm on which VMs are booted, and VMs that are always ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kiosk import files
from tests.boot.farm import Farm, made


@pytest.fixture(scope="session")
def farm() -> Iterator[Farm]:
    """A hypervisor that synced debian-12-minimal and the two example layers."""
    with made() as found:
        yield found


@pytest.fixture(scope="module")
def folder(farm: Farm) -> Iterator[Path]:
    """A folder for the tests of one module: VMs are in `vms` below it, and ended before it is removed.

    Not pytest's temporary folder: that is removed under a long test by other test runs beside this one.
    """
    with files.scratch(farm.home / "tests") as found:
        try:
            yield found
        finally:
            cloud = farm.cloud(found / "vms")
            for state in cloud.list_vms():
                cloud.stop(state.id, now=True)
