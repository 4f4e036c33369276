"""Two kiosks at once: one works, the other is told so or comes after it; never do they mix."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiosk.errors import BusyError
from kiosk.publish import publish
from kiosk.sync import HostCache
from tests.failures.interrupted import beside
from tests.simulators.published import ask, behind, build_image, ready


def test_a_second_publish_is_told_that_the_first_is_working(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    with kiosk.repository().locked(), pytest.raises(BusyError, match="another kiosk"):
        kiosk.image(version="2")


def test_a_second_sync_is_told_that_the_first_is_working(tmp_path: Path) -> None:
    kiosk = behind(tmp_path)
    with HostCache(kiosk.hypervisor.host).locked(), pytest.raises(BusyError, match="another kiosk"):
        kiosk.sync()


def test_several_publishes_and_syncs_race(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    folder = build_image(kiosk.settings, version="2")
    publishes = [beside(lambda: publish(kiosk.settings, folder, ask)) for _ in range(3)]
    syncs = [beside(kiosk.sync) for _ in range(3)]
    went_well = [wait() for wait in publishes]
    assert any(went_well)
    synced_well = [wait() for wait in syncs]
    assert any(synced_well)
    assert publish(kiosk.settings, folder, ask).already
    assert kiosk.sync("worker").failure is None
    cache = HostCache(kiosk.hypervisor.host)
    for installed in cache.installed():
        cache.check(installed)
    assert kiosk.held()["images/worker/current"] == "2"
