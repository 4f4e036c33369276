"""The health rule's reports come from the database that the kiosk's server fills."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from kiosk.config import Settings
from kiosk.fleet.database import Database
from kiosk.model.rollout import Rollout
from kiosk.rollout.health import health
from kiosk.rollout.reports import FleetReports
from tests.simulators.fleet import report

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_what_hosts_reported_is_what_the_rule_sees(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    database = Database.of(settings)
    for number, host in enumerate(("hv1", "hv2", "hv3")):
        one = report(host, "worker", "2" if number else "1", ["worker@2"] if not number else [])
        database.accept(host, 10 + number, now=NOW.timestamp(), report=one)
    database.accept("hv4", 1, now=NOW.timestamp())  # it asked for a lease, and has not reported
    rollout = Rollout(name="worker", version="2", before="1", share=1000)
    found = health(rollout, FleetReports(settings).latest(), (), NOW, 600)
    assert (found.done, found.failed, found.working, found.silent) == (2, 1, 0, 0)
    assert found.hosts == ("hv1", "hv2", "hv3")
