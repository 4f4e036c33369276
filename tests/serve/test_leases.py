"""Leases: few at a time, within a budget, none lost or doubled by a restart, and no stampede of those who wait."""

from __future__ import annotations

import heapq
import random

import pytest

from kiosk.model.report import Lease, LeaseRequest
from kiosk.serve.leases import BARRED, CALLS, SECONDS, STALLED, Budget, Leases


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
