"""Which version was current when, and which package was in it: from times and lists alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kiosk.errors import UsageError
from kiosk.model.census import Package
from kiosk.model.manifest import Declarations, LayerManifest
from kiosk.model.timeline import Pattern, during, parse_when, spans, timeline

DAY = timedelta(days=1)
START = datetime(2026, 11, 16, 2, tzinfo=UTC)  # a Monday


def manifest(version: str, created: datetime = START - DAY) -> LayerManifest:
    return LayerManifest(
        kind="site", owner="a", name="base", version=version, created=created, prefix="/opt/site",
        images=(), declares=Declarations(), artifacts={},
    )  # fmt: skip


def package(name: str, version: str, source: str | None = None) -> Package:
    return Package(name=name, version=version, architecture="amd64", source=source)


WEEK = timeline((manifest(str(n)), START + n * DAY, None) for n in (10, 2, 1, 0))


def test_a_version_is_current_until_the_next_is_published() -> None:
    assert [p.version for p in WEEK] == ["0", "1", "2", "10"]
    assert [p.until for p in WEEK] == [START + DAY, START + 2 * DAY, START + 10 * DAY, None]
    assert [p.version for p in during(WEEK, *parse_when("2026-11-17"))] == ["0", "1"]
    assert [p.version for p in during(WEEK, *parse_when("2026-11-20"))] == ["2"]
    assert [p.version for p in during(WEEK, *parse_when("2026-11-17T02:00"))] == ["1"]
    assert [p.version for p in during(WEEK, *parse_when("2026-11-17T02:30+01:00"))] == ["0"]
    assert [p.version for p in during(WEEK, *parse_when("2027-01-01"))] == ["10"]
    assert during(WEEK, *parse_when("2026-11-15")) == []


def test_without_a_time_of_publication_the_time_of_making_stands_in() -> None:
    found = timeline([(manifest("1", START), None, None), (manifest("2", START + DAY), START, None)])
    assert [(p.published, p.recorded) for p in found] == [(START, False), (START, True)]
    late = timeline([(manifest("1", START + 3 * DAY), None, None), (manifest("2"), START, None)])
    assert late[0].until == late[0].published  # never before it began


def test_a_version_that_is_listed_and_remembered_counts_once_as_listed() -> None:
    found = timeline([(manifest("1"), START, START + DAY), (manifest("1"), START, None)])
    assert [p.withdrawn for p in found] == [None]


@pytest.mark.parametrize("text", ["tuesday", "", "2026-13-01", "2026-11-20Tx", "20261120.1"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="neither a day nor a time"):
        parse_when(text)


def test_packages_come_change_go_and_come_back() -> None:
    lists = {
        "0": (package("libssl3", "3.0.11", "openssl"), package("less", "1")),
        "1": (package("libssl3", "3.0.11", "openssl"), package("openssl", "3.0.11")),
        "2": (package("libssl3", "3.0.13", "openssl"), package("less", "1")),
        "10": (package("libssl3", "3.0.13", "openssl"), package("less", "1")),
    }

    def told(pattern: str) -> list[tuple[str, str, str, str, bool]]:
        found = spans(WEEK, lists, Pattern.parse(pattern))
        return [(s.name, s.version, s.first, s.last, s.until is None) for s in found]

    assert told("openssl") == [
        ("libssl3", "3.0.11", "0", "1", False),
        ("libssl3", "3.0.13", "2", "10", True),
        ("openssl", "3.0.11", "1", "1", False),
    ]
    assert told("libssl*=3.0.11") == [("libssl3", "3.0.11", "0", "1", False)]
    assert told("less") == [("less", "1", "0", "0", False), ("less", "1", "2", "10", True)]
    assert told("openssl=3.2*") == []
    gap = spans(WEEK, {**lists, "1": None}, Pattern("libssl3"))
    assert [(s.first, s.last) for s in gap] == [("0", "0"), ("2", "10")]
    with pytest.raises(UsageError, match="names no package"):
        Pattern.parse("=1")
