"""Health: what reports come to. What is not known is never well, and no host decides for others."""

from __future__ import annotations

from datetime import timedelta

import pytest

from kiosk.model.rollout import Rollout
from kiosk.rollout.health import Health, Heard, health, judge
from kiosk.rollout.plan import Plan, Plans
from tests.simulators.fleet import BEGIN, Fleet, Time, report

WHOLE = Rollout(name="worker", version="2", before="1", share=1000)


def test_hosts_are_counted_by_what_they_hold_as_current() -> None:
    heard = [
        Heard(report("a", "worker", "2"), BEGIN),
        Heard(report("b", "worker", "1"), BEGIN),
        Heard(report("c", "worker", "1", ["worker@2"]), BEGIN),
        Heard(report("d", "other", "2"), BEGIN),
        Heard(report("e", "worker", "2"), BEGIN - timedelta(hours=1)),
        Heard(report("f", "worker", "2"), BEGIN + timedelta(hours=1)),
        Heard(report("g", "worker", "1", ["worker@2"]), BEGIN - timedelta(hours=1)),
    ]
    found = health(WHOLE, heard, ["gone"], BEGIN, 600)
    assert (found.done, found.working, found.failed, found.silent) == (1, 1, 2, 3)
    assert found.hosts == ("a", "b", "c", "e", "f", "g", "gone"), "d has nothing to do with it"


def test_only_hosts_that_are_offered_the_version_count() -> None:
    fleet = Fleet.of(Time(), 200)
    some = WHOLE.model_copy(update={"share": 100, "hosts": ("hv000.*",)})
    found = health(some, fleet.latest(), (), BEGIN, 600)
    assert "hv000.example.org" in found.hosts
    assert 5 < found.offered < 40
    assert set(found.hosts) == {h for h in fleet.has if some.offers(h) == "2"}


@pytest.mark.parametrize(
    ("found", "asked", "answer", "says"),
    [
        (Health(done=10), "good", "good", "10 of 10"),
        (Health(), "good", "unknown", "no host"),
        (Health(done=1, silent=9), "good", "unknown", "9 silent"),
        (Health(done=8, working=2), "good", "unknown", "90% must"),
        (Health(done=1, failed=1), "good", "unknown", "1 failed"),
        (Health(done=98, failed=2), "good", "good", "well"),
        (Health(done=88, failed=12), "good", "bad", "12 of 100"),
        (Health(failed=2), "good", "bad", "2 of 2"),
        (Health(done=10), "bad", "bad", "command"),
        (Health(done=10), "unknown", "unknown", "no answer"),
    ],
)
def test_what_the_counts_come_to(found: Health, asked: str, answer: str, says: str) -> None:
    verdict = judge(found, asked, Plan())  # type: ignore[arg-type]
    assert verdict.answer == answer
    assert says in verdict.why


def test_a_strict_plan_lets_one_failed_host_decide() -> None:
    plan = Plans().of("w", {"max_failed": "0%", "least_failed": 1})
    assert judge(Health(done=99, failed=1), "good", plan).answer == "bad"
