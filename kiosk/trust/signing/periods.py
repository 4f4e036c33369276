"""How long signatures last, as chosen at `kiosk init` and kept beside the keys."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field

from kiosk.model.base import Document
from kiosk.trust.names import ROLLOUTS

Days = Annotated[int, Field(ge=1, le=3650)]


class Periods(Document):
    """Validity of what is signed: the timestamp in hours, all others in days.

    The timestamp bounds how long a mirror can show an old state as the newest (a freeze), and its key is
    online; root and targets are signed by people, so theirs are long. Roll-outs are signed by a machine, and last
    as long as the snapshot.
    """

    root: Days = 365
    targets: Days = 90
    snapshot: Days = 7
    timestamp_hours: Annotated[int, Field(ge=1, le=720)] = 24

    def of(self, role: str) -> timedelta:
        """The period of a role; other delegated roles than roll-outs last as long as targets."""
        if role == "timestamp":
            return timedelta(hours=self.timestamp_hours)
        return timedelta(
            days={"root": self.root, "snapshot": self.snapshot, ROLLOUTS: self.snapshot}.get(
                role, self.targets
            )
        )

    def is_near(self, role: str, expires: datetime, now: datetime) -> bool:
        """Whether less than a third of the period is left, or nothing."""
        return expires - now < self.of(role) / 3


def read_periods(path: Path) -> Periods:
    """The periods of a folder of keys; the defaults where none were chosen."""
    return Periods.from_json(path.read_bytes(), where=str(path)) if path.exists() else Periods()
