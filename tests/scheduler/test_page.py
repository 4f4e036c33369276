"""docs/scheduler.md shows what the commands print, and explains every key that there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiosk.scheduler import settings
from kiosk.scheduler.settings import SchedulerSettings
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
