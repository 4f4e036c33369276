"""What people see of hosts and pushes follows from their rows and the clock."""

from __future__ import annotations

import pytest

from kiosk.fleet.catalogue import Catalogue
from kiosk.fleet.database import Host
from kiosk.fleet.pushes import Push, State, progress
from kiosk.fleet.status import status, statuses, summary
from kiosk.model.report import Report
from kiosk.model.rollout import Rollout

NEWEST = Catalogue(timestamp=1, newest={"worker": "2", "site/a/base": "1"})


def host(name: str = "hv-1", at: float | None = 1000, held: str = "", **more: object) -> Host:
    words = {"host": name, "sequence": 1, "agent": "0.1", "since": 0, "state": "idle", **more}
    found = [dict(zip(("name", "version"), v.split("@"), strict=True)) for v in held.split()]
    report = Report.model_validate({**words, "held": found})
    return Host(name, 1, 0, "::1", at, None if at is None else report)


@pytest.mark.parametrize(
    ("age", "state"),
    [(-50, "online"), (0, "online"), (449, "online"), (451, "late"), (1199, "late"), (1201, "lost")],
)
def test_a_host_is_online_late_or_lost_by_the_age_of_its_report(age: float, state: str) -> None:
    found = status(host(), NEWEST, 1000 + age)
    assert found.state == state
    assert found.age == max(0, age)
    assert status(host(at=None), NEWEST, 0).state == "silent"


def test_a_host_is_behind_when_it_lacks_what_it_is_offered() -> None:
    assert status(host(held="worker@1 site/a/base@1"), NEWEST, 1000).behind == ("worker",)
    assert status(host(held="worker@1 worker@2"), NEWEST, 1000).behind == ()
    assert status(host(held="gone@1"), NEWEST, 1000).behind == ()
    rollout = Rollout(name="worker", version="2", before="1", share=0, hosts=("canary-*",))
    half = Catalogue(timestamp=1, newest={"worker": "2"}, rollouts={"worker": rollout})
    assert status(host(held="worker@1"), half, 1000).behind == ()
    assert status(host("canary-1", held="worker@1"), half, 1000).behind == ("worker",)


def test_the_fleet_in_numbers_names_those_first_that_need_a_look() -> None:
    rows = [
        host("a", held="worker@2", origin_bytes=5),
        host("b", held="worker@1", error="disk full"),
        host("c", at=-5000, held="worker@2"),
        host("d", at=None),
    ]
    found = statuses(rows, NEWEST, 1000)
    assert [h.host for h in found] == ["b", "c", "d", "a"]
    s = summary(found)
    assert s.states == {"online": 2, "late": 0, "lost": 1, "silent": 1}
    assert (s.hosts, s.behind, s.failing, s.origin_bytes) == (4, 1, 1, 5)
    assert s.holding == {"worker@2": 1, "worker@1": 1}, "the lost one's are not counted"


def test_a_wave_only_ever_adds_hosts_and_the_last_has_all() -> None:
    push = Push(7, ("worker",), waves=(10, 50, 100), every=60, created=0, expires=1000)
    names = [f"hv-{n}" for n in range(500)]
    asked = [{n for n in names if push.asks(n, now)} for now in (0, 59, 60, 120, 999)]
    assert asked[0] == asked[1] < asked[2] < asked[3] == set(names) == asked[4]
    assert 25 < len(asked[0]) < 80
    assert 200 < len(asked[2]) < 300
    assert not any(push.asks(n, 1000) for n in names)
    other = Push(8, ("worker",), waves=(10, 100), every=60, created=0, expires=1000)
    assert {n for n in names if other.asks(n, 0)} != asked[0], "not always the same hosts first"
    assert not Push(7, ("worker",), hosts=("a-*",), expires=9).asks("b-1", 0)


@pytest.mark.parametrize(
    ("row", "state"),
    [
        (host(at=150, held="worker@2"), "done"),
        (host(at=50, held="worker@2"), "done"),
        (host(at=150, held="worker@1"), "asked"),
        (host(at=50, failed=["worker@2"]), "asked"),
        (host(at=150, failed=["worker@2"]), "failed"),
        (host(at=150, failed=["other@2"]), "asked"),
        (host(at=None), "asked"),
        (
            host(
                at=150,
                fetching={"name": "worker", "version": "2", "done": 1, "size": 2, "transport": "swarm"},
            ),
            "fetching",
        ),
    ],
)
def test_how_far_a_host_is_with_a_push(row: Host, state: State) -> None:
    push = Push(1, ("worker",), created=100, expires=1000)
    assert progress(push, row.host, row.report, row.reported, [("worker", "2")], 200) == state
    later = Push(1, ("worker",), waves=(1, 100), every=500, created=100, expires=1000)
    if state != "done" and not later.asks(row.host, 200):
        assert progress(later, row.host, row.report, row.reported, [("worker", "2")], 200) == "later"


def test_a_host_that_was_asked_and_says_nothing_is_silent_until_it_speaks() -> None:
    push = Push(1, ("worker",), waves=(1, 100), every=1000, created=100, expires=9000)
    name = next(n for n in map(str, range(100)) if push.asked_at(n) == 1100)

    def after(now: float, reported: float | None) -> State:
        report = host(at=1).report
        return progress(push, name, report if reported else None, reported, [("worker", "2")], now)

    assert [after(now, 200) for now in (1099, 1101, 1161)] == ["later", "asked", "silent"]
    assert [after(now, None) for now in (1101, 1161)] == ["asked", "silent"]
    assert after(1161, 800) == "asked", "it still reports as often as it has to"
    assert after(1300, 800) == "silent"
    assert after(1301, 1301) == "asked"
