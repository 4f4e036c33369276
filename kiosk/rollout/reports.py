"""The fleet's reports as the health rule reads them: from the database that `kiosk serve` fills."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from kiosk.config import Settings
from kiosk.fleet.database import Database
from kiosk.rollout.health import Heard


class FleetReports:
    """The reports in the fleet's database, opened anew for each look: a database that was away comes back."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def latest(self) -> Sequence[Heard]:
        """The last report of every host. StorageError when the database can't be used."""
        if self._settings.fleet_database is None and not self._settings.fleet_file.exists():
            return ()  # nobody has reported yet
        database = Database.of(self._settings)
        try:
            return [
                Heard(found.report, datetime.fromtimestamp(found.reported, UTC))
                for found in database.hosts()
                if found.report is not None and found.reported is not None
            ]
        finally:
            database.close()
