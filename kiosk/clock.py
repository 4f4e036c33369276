"""The one place that reads the wall clock, so that tests can set it."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def now() -> datetime:
    """The time now in UTC, whole seconds (signed metadata and manifests carry no fractions)."""
    return datetime.now(UTC).replace(microsecond=0)


def source_date_epoch() -> int | None:
    """SOURCE_DATE_EPOCH as reproducible-builds.org specifies it, or None where it is not set."""
    value = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(value) if value.isdecimal() else None
