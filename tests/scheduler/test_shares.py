"""Priority and fair share divide what does not suffice for all."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kiosk.batch.api import Queue, Share
from kiosk.model.flavour import Flavour
from kiosk.scheduler.model import Capacity, Claim, Need, NodeType
from kiosk.scheduler.shares import divide


def kind(name: str, cores: int = 4, minimum: int = 0, maximum: int = 1000) -> NodeType:
    return NodeType(name, name, (), Flavour(cores=cores, memory=8, scratch=1), cores, 8000, minimum, maximum)


TYPES = {name: kind(name, cores) for name, cores in (("small", 2), ("big", 8))}


def need(claims: dict[Claim, float], holds: dict[Claim, float] | None = None) -> Need:
    pending, running = sum(claims.values()), sum((holds or {}).values())
    return Need(pending + running, pending, running, claims=claims, holds=holds or {})


def test_everybody_gets_all_where_it_suffices() -> None:
    needs = {
        "small": need({("q", "ada", ""): 3.5}),
        "big": need({("q", "bob", ""): 2}, {("q", "bob", ""): 1}),
    }
    assert divide(Capacity(nodes=7), needs, (), (), TYPES) == {"small": 3.5, "big": 3}
    assert divide(Capacity(), needs, (), (), TYPES) == {"small": 3.5, "big": 3}


def test_the_queue_of_the_higher_priority_goes_first() -> None:
    needs = {"small": need({("low", "ada", ""): 10}), "big": need({("high", "bob", ""): 8})}
    queues = (Queue("low", 1, True), Queue("high", 9, True))
    assert divide(Capacity(nodes=10), needs, (), queues, TYPES) == {"small": pytest.approx(2), "big": 8}


def test_groups_get_by_their_shares_and_users_inside_them_too() -> None:
    shares = (
        Share("physics", 3), Share("biology", 1),
        Share("ada", 2, parent="physics"), Share("bob", 1, parent="physics"), Share("eve", 1, parent="biology"),
    )  # fmt: skip
    needs = {
        "small": need({("q", "ada", "physics"): 100, ("q", "eve", "biology"): 100}),
        "big": need({("q", "bob", "physics"): 100}),
    }
    assert divide(Capacity(nodes=40), needs, shares, (), TYPES) == {
        "small": pytest.approx(20 + 10),
        "big": pytest.approx(10),
    }


def test_who_has_much_running_gets_less_of_what_is_new() -> None:
    shares = (Share("ada", 1), Share("bob", 1))
    needs = {
        "small": need({("q", "ada", ""): 50}, {("q", "ada", ""): 6}),
        "big": need({("q", "bob", ""): 50}),
    }
    assert divide(Capacity(nodes=20), needs, shares, (), TYPES) == {
        "small": pytest.approx(10),
        "big": pytest.approx(10),
    }


def test_what_one_leaves_goes_to_the_others_and_minima_come_first() -> None:
    shares = (Share("ada", 99), Share("bob", 1))
    needs = {"small": need({("q", "ada", ""): 2}), "big": need({("q", "bob", ""): 50})}
    assert divide(Capacity(nodes=20), needs, shares, (), TYPES) == {
        "small": pytest.approx(2),
        "big": pytest.approx(18),
    }
    types = {"small": kind("small", 2, minimum=5), "big": kind("big", 8)}
    assert divide(Capacity(nodes=20), needs, shares, (), types) == {"small": 5, "big": pytest.approx(15)}


def test_shares_of_a_queue_hold_in_that_queue_and_a_circle_of_parents_ends() -> None:
    shares = (
        Share("ada", 3, "q"),
        Share("others", 1, "q"),
        Share("a", 1, parent="b"),
        Share("b", 1, parent="a"),
    )
    needs = {"small": need({("q", "ada", ""): 40, ("q", "joe", ""): 40, ("p", "a", ""): 40})}
    found = divide(Capacity(nodes=16), needs, shares, (), TYPES)
    assert found["small"] == pytest.approx(16)


NAMES = st.sampled_from(("a", "b", "c", "d"))
AMOUNT = st.floats(0, 500).map(lambda x: round(x, 2))
CLAIMS = st.dictionaries(
    st.tuples(st.sampled_from(("p", "q")), NAMES, st.sampled_from(("", "g", "h"))), AMOUNT, max_size=5
)
NEEDS = st.fixed_dictionaries({name: st.builds(need, CLAIMS, CLAIMS) for name in TYPES})
SHARES = st.lists(
    st.builds(Share, NAMES | st.sampled_from(("g", "h")), st.floats(0, 100), st.none(), st.none() | NAMES),
    max_size=6,
)
QUEUES = st.lists(st.builds(Queue, st.sampled_from(("p", "q")), st.integers(0, 3), st.just(True)), max_size=2)
LIMIT = st.none() | st.integers(1, 3000)


@given(st.builds(Capacity, LIMIT, LIMIT), NEEDS, SHARES, QUEUES)
def test_never_more_than_the_capacity_nor_than_is_asked(
    capacity: Capacity, needs: dict[str, Need], shares: list[Share], queues: list[Queue]
) -> None:
    found = divide(capacity, needs, shares, queues, TYPES)
    for name, nodes in found.items():
        assert -1e-6 <= nodes <= min(needs[name].nodes, TYPES[name].maximum) + 1e-6
    assert capacity.nodes is None or sum(found.values()) <= capacity.nodes + 1e-6
    cores = sum(n * TYPES[name].flavour.cores for name, n in found.items())
    assert capacity.cores is None or cores <= capacity.cores + 1e-6


@given(st.integers(1, 3000), st.booleans(), NEEDS, SHARES, QUEUES)
def test_nothing_is_left_while_somebody_asks_for_it(
    limit: int, of_nodes: bool, needs: dict[str, Need], shares: list[Share], queues: list[Queue]
) -> None:
    found = divide(Capacity(limit) if of_nodes else Capacity(cores=limit), needs, shares, queues, TYPES)
    taken = sum(n * (1 if of_nodes else TYPES[name].flavour.cores) for name, n in found.items())
    open_need = any(min(needs[n].nodes, TYPES[n].maximum) > found[n] + 1e-6 for n in TYPES)
    assert not open_need or taken == pytest.approx(limit, rel=1e-6)


@given(st.integers(1, 2000), st.integers(1, 500), st.booleans(), NEEDS, SHARES, QUEUES)
def test_more_capacity_is_never_less_for_anybody(
    limit: int, more: int, of_nodes: bool, needs: dict[str, Need], shares: list[Share], queues: list[Queue]
) -> None:
    sizes = [Capacity(n) if of_nodes else Capacity(cores=n) for n in (limit, limit + more)]
    less, larger = (divide(size, needs, shares, queues, TYPES) for size in sizes)
    # what runs is scaled down evenly where the capacity is too small even for it
    assume(all(need.running <= less[name] + 1e-6 for name, need in needs.items()))
    assert all(larger[name] >= less[name] - 1e-5 for name in TYPES)
