"""Every test in this folder runs without waiting for the disk; several need a small file system."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kiosk.run import run
from tests.simulators.published import without_fsync

__all__ = ["without_fsync"]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], timeout=10)
    yield folder
    run(["umount", folder], timeout=10)
