"""Since when each file of the repository has been needed by nothing: a small file beside the repository.

A reader that holds metadata of an hour ago still fetches what that names. So a file is removed only when the
journal has known it as unneeded for the whole grace period; its own times say nothing of that. Lost or
damaged, the journal begins anew, and everything waits once more.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field

from kiosk import files
from kiosk.errors import VerificationError
from kiosk.log import logger
from kiosk.model.base import Document

log = logger(__name__)


class Journal(Document):
    """Paths below the repository, and since when nothing has needed them."""

    schema_: Literal["kiosk.unneeded/1"] = Field("kiosk.unneeded/1", alias="schema")
    since: dict[str, datetime] = Field({})

    def updated(self, unneeded: Iterable[str], now: datetime) -> Journal:
        """The journal for what is unneeded now. What was needed again in between begins anew."""
        known = self.since
        return Journal(since={path: min(known.get(path, now), now) for path in unneeded})

    def due(self, grace: timedelta, now: datetime) -> list[str]:
        """What has been unneeded for the grace period."""
        return [path for path, since in self.since.items() if now - since >= grace]


def read(path: Path) -> Journal:
    """The journal in a file; an empty one where there is none."""
    try:
        return Journal.from_json(path.read_bytes(), where=str(path))
    except FileNotFoundError:
        return Journal()
    except VerificationError as e:
        log.warning("%s; it begins anew, and what is unneeded waits once more", e)
        return Journal()


def write(path: Path, journal: Journal) -> None:
    """Replaces the journal."""
    files.write(path, journal.to_json())
