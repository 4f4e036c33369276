"""Leases: few at a time, within a budget, none lost or doubled by a restart, and no stampede of those who wait."""

from __future__ import annotations

import heapq
import random

import pytest

from kiosk.model.report import Lease, LeaseRequest
from kiosk.serve.budget import Budget
from kiosk.serve.leases import BARRED, CALLS, FAIR, LONGEST, SECONDS, STALLED, USUAL, WANTED, Leases


def request(host: str, size: int = 100, version: str = "1", done: bool = False) -> LeaseRequest:
    return LeaseRequest(host=host, sequence=1, name="worker", version=version, bytes=size, done=done)


def desk(copies: int = 2, limit: int | None = None) -> Leases:
    return Leases(copies, Budget(limit), chance=lambda a, _b: a)


def granted(leases: Leases, now: float, *hosts: str, size: int = 100) -> list[str]:
    return [h for h in hosts if leases.ask(request(h, size), now).granted]


def test_as_many_hosts_as_copies_hold_a_lease_until_it_ends() -> None:
    leases = desk()
    assert granted(leases, 0, "a", "b", "c", "d") == ["a", "b"]
    assert granted(leases, SECONDS - 1, "a", "c") == ["a"]
    assert granted(leases, SECONDS, "c", "d") == ["c"], "b's has ended, a's was renewed"
    assert leases.ask(request("c", 0, done=True), SECONDS + 1) == Lease(granted=False)
    assert granted(leases, SECONDS + 1, "d") == ["d"]


def test_holders_have_different_slots() -> None:
    leases = desk(3)
    assert [leases.ask(request(h), 0).slot for h in "abc"] == [0, 1, 2]
    leases.ask(request("b", 0, done=True), 1)
    assert [leases.ask(request(h), 1).slot for h in "dac"] == [1, 0, 2]


def test_another_version_has_leases_of_its_own() -> None:
    leases = desk(1)
    assert leases.ask(request("a"), 0).granted
    assert leases.ask(request("b", version="2"), 0).granted
    assert not leases.ask(request("c", version="3"), 0, known=frozenset({"worker@1"})).granted, (
        "there is none"
    )


def test_a_restarted_server_grants_nothing_beyond_the_stored_leases() -> None:
    leases = desk()
    granted(leases, 0, "a", "b")
    again = Leases(2, Budget(None), leases.held(), now=5)
    many = [f"hv-{n}" for n in range(1000)]
    assert granted(again, 5, *many) == []
    assert granted(again, 6, "a", "b") == ["a", "b"]
    lost = desk()
    assert len(granted(lost, 5, *many)) == 2, "and one that lost everything grants no more than ever"


def test_the_budget_is_hard() -> None:
    leases = desk(10, limit=1000)
    assert granted(leases, 0, "a", "b", "c", size=400) == ["a", "b"]
    assert leases.budget.used(0) == 800
    assert leases.budget.over(0)
    assert granted(leases, 30, "a", size=300) == ["a"], "a renewal of what was granted takes no more"
    leases.ask(request("a", 150, done=True), 40)
    assert leases.budget.used(40) == 650, "what was not used is given back"
    assert granted(leases, 41, "c", size=350) == ["c"]
    assert granted(leases, 42, "d", size=1) == []
    assert granted(leases, 3600 + 60, "d", size=1000) == ["d"], "an hour later it is there again"


def test_a_version_larger_than_the_budget_goes_out_alone() -> None:
    leases = desk(2, limit=1000)
    assert granted(leases, 0, "a", "b", size=5000) == ["a"]
    assert granted(leases, 30, "a", "b", size=4000) == ["a"]


def test_what_hosts_read_counts_where_it_is_more_than_what_was_granted() -> None:
    budget = Budget(1000)
    budget.grant("a", 300, 0)
    budget.report("a", 250, 0)
    assert budget.used(0) == 300
    for host in "bcdefghijk":
        budget.report(host, 100, 60)
    assert budget.used(60) == 1250
    assert budget.over(60)
    assert not budget.keeps(60), "not even a renewal"
    assert budget.keeps(60 + 3600)


def test_one_host_can_not_use_up_the_budget_by_what_it_says() -> None:
    budget = Budget(1000)
    for _ in range(100):
        budget.report("liar", 1 << 40, 0)
    assert budget.used(0) == 100


def test_a_holder_that_gets_nowhere_loses_its_lease_while_others_wait() -> None:
    leases = desk(1)
    assert granted(leases, 0, "liar") == ["liar"]
    for now in range(0, int(STALLED) + 1, 30):
        assert granted(leases, now, "liar", "other") == ["liar"]
    assert granted(leases, STALLED + 1, "liar", "other") == ["other"]
    leases.ask(request("other", 0, done=True), STALLED + 2)
    assert granted(leases, STALLED + 3, "third", "liar") == ["third"]
    assert granted(leases, STALLED + BARRED + 100, "liar") == ["liar"]


GIGABYTE = 1 << 30


def test_a_holder_that_gets_on_by_a_byte_at_a_time_gets_nowhere() -> None:
    leases, now, size = desk(1), 0.0, GIGABYTE
    assert granted(leases, now, "liar", "other", size=size) == ["liar"]
    while now < STALLED:
        now, size = now + 30, size - 1
        found = granted(leases, now, "liar", size=size) + granted(leases, now, "other", size=GIGABYTE)
        assert found == ["liar"]
    assert granted(leases, now + 1, "liar", "other", size=size - 1) == ["other"]


def kept_for(leases: Leases, size: int, rate: float, until: float = 2 * LONGEST) -> float:
    """How long a host that says it reads at `rate` keeps a lease that another waits for."""
    assert granted(leases, 0, "holder", "other", size=size) == ["holder"]
    for now in range(30, int(until), 30):
        left = max(1, size - int(rate * now))
        if not granted(leases, now, "holder", size=left):
            return now
        assert granted(leases, now, "other") == []
    return until


def test_a_slow_holder_that_gets_on_keeps_its_lease_for_twice_the_time_that_is_fair() -> None:
    assert kept_for(desk(1), 50 * GIGABYTE, 6_000_000, 3600) == 3600
    assert kept_for(desk(1), 4 * GIGABYTE, 2_000_000) == pytest.approx(8 * GIGABYTE / FAIR, abs=30)
    assert kept_for(desk(1), 1000, 0.1) == pytest.approx(STALLED, abs=30)
    assert kept_for(desk(1, limit=10 * GIGABYTE), 2 * GIGABYTE, 1_000_000) == pytest.approx(4 * 360, abs=30)


def test_a_holder_that_lies_about_its_progress_can_not_starve_the_others() -> None:
    """It says that it gets on, never that it is done, and asks again at once, for hours."""
    leases, size, others = desk(1), 4 * GIGABYTE, 0
    left = size
    for now in range(0, 4 * 3600, 30):
        left = max(1, left - size // 90)
        if not granted(leases, now, "liar", size=left):
            left = size
        others += 30 * len(granted(leases, now, "other"))
    assert others > 0.4 * 4 * 3600


def test_who_loses_its_lease_at_the_deadline_takes_it_up_where_nobody_else_wants_it() -> None:
    leases = desk(1)
    kept_for(leases, GIGABYTE, 1_000_000)
    assert granted(leases, 240, "other") == ["other"]
    leases.ask(request("other", 0, done=True), 241)
    assert granted(leases, 242, "holder") == ["holder"]


def test_a_lease_that_ends_unheard_counts_for_what_it_may_have_given() -> None:
    size = 100 * GIGABYTE
    leases = desk(2, limit=1000 * GIGABYTE)
    granted(leases, 0, "dies-at-once", size=size)
    granted(leases, 0, "dies-later", size=size)
    granted(leases, 40, "dies-later", size=size - 40_000_000)
    assert leases.budget.used(40) == 2 * size
    leases.counts(40 + SECONDS)
    at_once, later = USUAL * SECONDS, 40_000_000 + 2 * 1_000_000 * SECONDS
    assert leases.budget.used(101) == at_once + later
    assert leases.budget.minutes() == [(0, int(at_once + later), 0)]


def test_a_small_lease_that_ends_unheard_counts_whole() -> None:
    leases = desk(2, limit=1000)
    granted(leases, 0, "a", size=800)
    leases.counts(SECONDS)
    assert leases.budget.used(SECONDS) == 800


def test_leases_that_ended_while_the_server_was_down_do_not_count_whole_either() -> None:
    leases = desk(2, limit=1000 * GIGABYTE)
    granted(leases, 600, "a", size=100 * GIGABYTE)
    again = Leases(2, leases.budget, leases.held(), now=900)
    assert again.counts(900) == (0, 0)
    assert again.budget.used(900) == USUAL * SECONDS


def test_a_lease_that_is_taken_away_counts_for_what_was_read() -> None:
    leases = desk(1, limit=10 * GIGABYTE)
    assert kept_for(leases, 4 * GIGABYTE, 0) == STALLED + 30
    assert leases.budget.used(STALLED + 30) == 0
    assert granted(leases, STALLED + 30, "other", size=4 * GIGABYTE) == ["other"]


def test_one_token_can_not_drain_the_budget_by_what_it_asks_for() -> None:
    leases, now = desk(2, limit=50 * GIGABYTE), 0.0
    for _ in range(200):
        leases.ask(request("liar", 50 * GIGABYTE), now, size=4 * GIGABYTE)
        now += 10
        leases.ask(request("liar", 0, done=True), now)
    assert leases.budget.used(now) <= 8 * GIGABYTE
    for _ in range(200):
        leases.ask(request("liar", 1), now, size=4 * GIGABYTE)
        leases.ask(request("liar", 4 * GIGABYTE), now, size=4 * GIGABYTE)
    assert leases.budget.used(now) <= 8 * GIGABYTE
    assert leases.ask(request("other", 4 * GIGABYTE), now, size=4 * GIGABYTE).granted


def test_what_is_given_back_at_once_was_not_read_whatever_is_said() -> None:
    leases = desk(2, limit=50 * GIGABYTE)
    leases.ask(request("a", 40 * GIGABYTE), 0)
    leases.ask(request("a", 0, done=True), 1)
    assert leases.budget.used(1) <= 2 * GIGABYTE


def test_only_what_was_used_counts_and_only_for_its_hour() -> None:
    leases = desk(2, limit=1000)
    granted(leases, 0, "a", size=800)
    granted(leases, 50, "a", size=700)
    leases.ask(request("a", 600, done=True), 100)
    assert leases.budget.used(100) == 200
    assert leases.budget.minutes() == [(0, 200, 0)], "and so it is stored"
    granted(leases, 3000, "b", size=700)
    assert leases.budget.used(3600) == 700, "what was given back is no credit for the next hour"


def test_those_who_ask_again_do_not_hide_the_ones_that_are_gone() -> None:
    leases = desk(1)
    granted(leases, 0, "holder", *(f"hv-{n}" for n in range(200)))
    for n in range(100):
        leases.ask(request(f"hv-{n}"), WANTED / 2)
    for _ in range(4):
        found = leases.ask(request("hv-0"), WANTED + 1)
    assert found.fanout == 100, "those who asked again, and neither the others nor the holder"


def test_a_holder_keeps_its_lease_while_nobody_else_wants_it() -> None:
    leases = desk(1)
    assert all(granted(leases, now, "slow") for now in range(0, 3000, 50))


def test_one_host_can_not_hold_all_leases() -> None:
    leases = desk()
    found = [leases.ask(request("greedy", version=str(v)), 0).granted for v in range(20)]
    assert sum(found) == 4
    assert leases.ask(request("other", version="19"), 0).granted


def test_those_who_wait_make_few_calls_a_second() -> None:
    """5,000 hosts ask at the same moment, and come back when they are told to."""
    leases = Leases(2, Budget(None), chance=random.Random(1).uniform)
    coming = [(0.0, f"hv-{n}") for n in range(5000)]
    calls: list[float] = []
    while coming[0][0] < 300:
        now, host = heapq.heappop(coming)
        calls.append(now)
        answer = leases.ask(request(host), now)
        heapq.heappush(coming, (now + (answer.retry or 30), host))
    later = [sum(s <= c < s + 10 for c in calls) / 10 for s in range(10, 300, 10)]
    assert max(later) <= CALLS * 1.3
    assert answer.fanout > 4000


def test_few_who_wait_come_back_soon() -> None:
    leases = desk()
    granted(leases, 0, "a", "b")
    assert [leases.ask(request(f"hv-{n}"), 1).retry for n in range(10)] == [3.0] * 10


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_no_more_than_the_copies_are_held(seed: int) -> None:
    chance, now = random.Random(seed), 0.0
    leases = Leases(2, Budget(100_000), chance=chance.uniform)
    ends: dict[str, float] = {}
    for _ in range(3000):
        now += chance.random() * 5
        host = f"hv-{chance.randrange(40)}"
        done = chance.random() < 0.2
        answer = leases.ask(request(host, chance.randrange(5000), done=done), now)
        ends.pop(host, None)
        if answer.granted:
            ends[host] = now + answer.seconds
        assert sum(end > now for end in ends.values()) <= 2
        if chance.random() < 0.05:
            leases = Leases(2, leases.budget, leases.held(), now=now, chance=chance.uniform)
        assert leases.budget.used(now) <= 100_000
