"""docs/scheduler.md shows what the commands print, and explains every key that there is."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kiosk import data
from kiosk.scheduler import settings
from kiosk.scheduler.control import Memory
from kiosk.scheduler.plan import Plan
from kiosk.scheduler.settings import SchedulerSettings
from kiosk.scheduler.state import metrics, status
from kiosk.scheduler.tick import Decision
from tests.scheduler.page import PAGE, example, printed


def test_the_page_shows_what_the_commands_print() -> None:
    text = PAGE.read_text()
    assert printed(text) == text, "run: python -m tests.scheduler.page"


def test_the_example_is_read_and_has_every_key(tmp_path: Path) -> None:
    text = example(PAGE.read_text())
    path = tmp_path / "scheduler.toml"
    path.write_text(text)
    file = SchedulerSettings.read(path)
    assert file.node_types()["worker"].max_unavailable == 20
    tables = [value for value in vars(settings).values() if isinstance(value, type)]
    keys = {k for t in tables if issubclass(t, settings.Table) for k in t.model_fields}
    missing = {key for key in keys if key not in text}
    assert not missing


@pytest.mark.parametrize("link", ["scheduler-life.md", "placement.md", "batch.md", "scheduler-policies.md"])
def test_the_page_leads_to_the_others(link: str) -> None:
    assert f"]({link})" in PAGE.read_text()


def test_page_and_alarms_name_metrics_that_there_are() -> None:
    told = status(datetime(2026, 11, 25, tzinfo=UTC), Decision(Plan(), Memory()), [], {}, [], 0.1, 0, False)
    there = set(re.findall(r"^# TYPE (kiosk_scheduler_\w+)", metrics(told, []), re.MULTILINE))
    alarms = (data.folder("server") / "prometheus/kiosk.rules.yml").read_text()
    assert set(re.findall(r"kiosk_scheduler_\w+", alarms)) <= there
    text = PAGE.read_text().partition("Each tick replaces")[2].partition("`server/prometheus")[0]
    named = {f"kiosk_scheduler{n}" for n in re.findall(r"`(?:kiosk_scheduler)?(_\w+)`", text)}
    assert named == there
