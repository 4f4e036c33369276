"""Slow tests in two processes: real VMs on the farm of `tests.boot`, and all others."""

from __future__ import annotations

from pathlib import Path

import pytest

BOOT = Path(__file__).parent / "boot"


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist loadgroup` the tests of one group run in one process, one after the other: those in `boot` share a
    farm that one process holds at a time, and among the others many share an image or a port."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("boot" if item.path.is_relative_to(BOOT) else "others"))
