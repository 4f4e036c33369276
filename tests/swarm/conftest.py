"""Every test in this folder runs without waiting for the disk."""

from tests.simulators.published import without_fsync

__all__ = ["without_fsync"]
