"""Targets stay within their limits whatever is measured; they move slowly, and say why."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiosk.errors import CorruptError
from kiosk.model.flavour import Flavour
from kiosk.scheduler.control import FASTEST, LONGEST, Memory, targets
from kiosk.scheduler.forecast import Forecast
from kiosk.scheduler.keep import EDGES, FIRST, IDLE_PART, MOST, Kept, seen, stay
from kiosk.scheduler.model import Capacity, Need, NodeType, Supply, Target

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
LOOK = timedelta(minutes=5)


def kind(name: str = "el", minimum: int = 0, maximum: int = 100, cores: int = 4) -> NodeType:
    return NodeType(name, name, (), Flavour(cores=cores, memory=8, scratch=1), cores, 8000, minimum, maximum)


def one(
    need: Need, supply: Supply, *, memory: Memory | None = None, now: datetime = NOW, **more: object
) -> tuple[Target, Memory]:
    type = kind(**more)  # type: ignore[arg-type]
    found, after = targets({"el": type}, {"el": need}, {"el": supply}, {}, {}, memory or Memory(), now)
    return found[0], after


def pending(nodes: float, oldest: float = 60.0) -> Need:
    return Need(nodes, nodes, oldest=oldest)


def test_nodes_are_launched_for_what_waits_beside_what_runs() -> None:
    target, _ = one(pending(2.5), Supply(busy=3, used=2.25))
    assert target.nodes == 5
    assert target.because == ("2.5 nodes' worth of jobs wait and 2.2 run on 3 nodes: 5",)


def test_free_slots_of_real_hosts_are_supply() -> None:
    target, _ = one(pending(6), Supply(real=4.5))
    assert target.nodes == 2
    assert "less 4.5 free on real hosts" in target.because[0]
    assert one(pending(6), Supply(real=40))[0].nodes == 0


def test_jobs_that_fit_no_free_slot_get_nodes_of_their_own_after_a_while() -> None:
    assert one(pending(2, oldest=300), Supply(busy=8, used=4))[0].nodes == 8
    target, _ = one(pending(2, oldest=1200), Supply(busy=8, used=4))
    assert target.nodes == 10
    assert "the first has waited 20 min and fits no free slot" in target.because[0]


def test_a_farm_grows_and_shrinks_by_steps() -> None:
    target, after = one(pending(900), Supply(busy=2, used=2), maximum=1000)
    assert target.nodes == 2 + 500
    assert target.because[-1] == "no more than 500 more at a time: 502"
    memory = replace(after, types={"el": replace(after.types["el"], level=0, idle=())})
    target, _ = one(Need(), Supply(idle=1000), memory=memory, now=NOW + LOOK, maximum=1000)
    assert target.nodes == 500


def test_idle_nodes_are_kept_no_longer_than_the_type_says() -> None:
    _, after = one(Need(2, running=2), Supply(busy=2, used=2))
    short = {"el": replace(kind(), keep=30.0)}
    later = NOW + timedelta(seconds=10)
    found, after = targets(short, {}, {"el": Supply(idle=2)}, {}, {}, after, later)
    assert found[0].nodes == 2
    assert found[0].because[-1] == "idle nodes are kept for 30 s, as work came back before: 2"
    later += timedelta(seconds=30)
    assert targets(short, {}, {"el": Supply(idle=2)}, {}, {}, after, later)[0][0].nodes == 0
    assert one(Need(), Supply(idle=2), memory=after, now=later)[0].nodes == 2, "else as was learned"


def test_ten_thousand_jobs_that_vanish_at_once_do_not_empty_the_farm_at_once() -> None:
    _, after = one(pending(500), Supply(busy=300, used=300), maximum=1000)
    target, after = one(Need(), Supply(idle=800), memory=after, now=NOW + LOOK, maximum=1000)
    assert target.nodes == 800
    assert target.because[-1] == "idle nodes are kept for 15 min, as work came back before: 800"


def test_idle_nodes_go_when_their_time_is_over() -> None:
    memory, supply, at = Memory(), Supply(busy=6, used=6), NOW
    _, memory = one(Need(6, 0, 6), supply, memory=memory, now=at)
    counts = []
    for _ in range(5):
        at += LOOK
        target, memory = one(Need(2, 0, 2), Supply(busy=2, idle=4, used=2), memory=memory, now=at)
        counts.append(target.nodes)
    assert counts == [6, 6, 6, 2, 2]


def test_a_target_never_ends_a_node_with_jobs_but_a_lowered_maximum_does() -> None:
    assert one(Need(1, 0, 1), Supply(busy=9, used=1))[0].nodes == 9
    assert one(Need(1, 0, 1), Supply(busy=9, used=1), maximum=4)[0].nodes == 4


def test_nodes_that_drain_hold_their_place_below_the_maximum() -> None:
    target, _ = one(pending(90), Supply(busy=5, used=5, draining=4), maximum=12, minimum=10)
    assert target.nodes == 8
    assert "the maximum is 12, 4 of them drain: 8" in target.because


def test_what_is_sure_to_come_is_there_before_it() -> None:
    found, _ = targets({"el": kind()}, {}, {}, {"el": Forecast(7.9, 20, 40)}, {}, Memory(), NOW)
    assert found[0].nodes == 7
    assert found[0].because[-1] == "at least 7.9 are surely asked for soon: 7"


def test_fair_share_limits_what_is_launched_but_ends_nothing() -> None:
    needs, supplies = {"el": pending(50)}, {"el": Supply(busy=12, used=12)}
    found, _ = targets({"el": kind()}, needs, supplies, {}, {"el": 20.5}, Memory(), NOW)
    assert found[0].nodes == 21
    found, _ = targets({"el": kind()}, needs, supplies, {}, {"el": 3.0}, Memory(), NOW)
    assert found[0].nodes == 12


def test_where_the_capacity_is_full_idle_nodes_go_before_others_are_launched() -> None:
    types = {"a": kind("a"), "b": kind("b")}
    _, memory = targets(types, {"a": Need(8, 0, 8)}, {"a": Supply(busy=8, used=8)}, {}, {}, Memory(), NOW)
    supplies = {"a": Supply(idle=8), "b": Supply(busy=2, used=2)}
    later = NOW + LOOK
    found, memory = targets(types, {"b": pending(6)}, supplies, {}, {}, memory, later, Capacity(nodes=10))
    assert {t.type: t.nodes for t in found} == {"a": 2, "b": 2}
    supplies = {"a": Supply(idle=2), "b": Supply(busy=2, used=2)}
    found, _ = targets(types, {"b": pending(6)}, supplies, {}, {}, memory, later + LOOK, Capacity(nodes=10))
    assert {t.type: t.nodes for t in found} == {"a": 2, "b": 8}


def test_memory_is_json_and_a_broken_one_is_said_to_be_broken() -> None:
    _, memory = one(pending(5), Supply(busy=3, used=2))
    assert Memory.load(json.loads(json.dumps(memory.dump()))) == memory
    with pytest.raises(CorruptError, match=r"memory can't be read: types\.el\.level"):
        Memory.load({"at": 1.0, "types": {"el": {"level": "many"}}})


def test_a_clock_that_jumps_back_stops_nothing_and_one_that_jumps_ahead_is_one_longer_pause() -> None:
    _, memory = one(pending(500), Supply(busy=100, used=100), maximum=1000)
    back, after = one(Need(), Supply(idle=600), memory=memory, now=NOW - timedelta(days=9), maximum=1000)
    assert (back.nodes, after.at) == (600, memory.at)
    ahead, _ = one(pending(900), Supply(), memory=memory, now=NOW + timedelta(days=3650), maximum=100_000)
    assert ahead.nodes <= FASTEST * LONGEST


def test_patience_is_learned_from_gaps_within_what_may_be_idle() -> None:
    def worked(minutes_idle: int) -> float:
        kept, at = Kept(), 0.0
        for _ in range(200):
            for level, minutes in ((10, 120), (4, minutes_idle)):
                for _ in range(minutes // 5):
                    at += 300
                    idle = 10 - level if minutes <= 15 else 0
                    kept = seen(kept, level, level, Supply(busy=level, idle=idle), at, 300)
        return stay(kept, at)[1]

    assert stay(Kept(), 0.0)[1] == FIRST
    assert worked(5) >= 300
    assert worked(600) < 1800


def test_what_is_remembered_of_a_type_stays_small() -> None:
    kept, at = Kept(), 0.0
    for level in [*range(3000, 0, -1), *range(0, 3000, 7)]:
        at += 30
        kept = seen(kept, level, level, Supply(), at, 30)
        assert len(kept.idle) <= MOST
        tops = [top for top, _ in kept.idle]
        assert tops == sorted(set(tops))
        assert all(top > kept.level for top in tops)
    assert len(kept.gaps) == len(EDGES)
    assert IDLE_PART <= 0.05


COUNT = st.integers(0, 400)
AMOUNT = st.floats(0, 2000)


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, tuple[NodeType, Need, Supply, Forecast, float]]:
    found = {}
    for name in ("a", "b", "c")[: draw(st.integers(1, 3))]:
        maximum = draw(COUNT)
        type = kind(name, draw(st.integers(0, maximum)), maximum, draw(st.sampled_from((1, 4, 16))))
        waits, runs, busy = draw(AMOUNT), draw(AMOUNT), draw(COUNT)
        need = Need(waits + runs, waits, runs, oldest=draw(AMOUNT))
        supply = Supply(
            draw(COUNT), busy, draw(COUNT), draw(COUNT), draw(AMOUNT), draw(st.floats(0, 1)) * busy
        )
        low = draw(AMOUNT)
        found[name] = (type, need, supply, Forecast(low, low, low), draw(AMOUNT))
    return found


@settings(max_examples=150)
@given(
    st.lists(worlds(), min_size=1, max_size=4), st.none() | COUNT, st.none() | st.integers(0, 3000), st.data()
)
def test_never_above_a_maximum_nor_the_capacity_nor_below_a_minimum(
    ticks: list[dict[str, tuple[NodeType, Need, Supply, Forecast, float]]],
    nodes: int | None, cores: int | None, data: st.DataObject,
) -> None:  # fmt: skip
    memory, now = Memory(), NOW
    capacity = Capacity(nodes, cores)
    for world in ticks:
        parts = [{name: one[n] for name, one in world.items()} for n in range(5)]
        found, memory = targets(*parts, memory, now, capacity)  # type: ignore[arg-type]
        now += timedelta(seconds=data.draw(st.integers(-4000, 4000)))
        tight = False
        for limit, size in ((nodes, lambda _: 1), (cores, lambda type: type.flavour.cores)):
            if limit is not None:
                total = sum((t.nodes + world[t.type][2].draining) * size(world[t.type][0]) for t in found)
                there = sum((w[2].busy + w[2].draining) * size(w[0]) for w in world.values())
                assert total <= max(limit, there)
                least = sum(
                    (max(w[0].minimum, w[2].nodes) + w[2].draining) * size(w[0]) for w in world.values()
                )
                tight |= least > limit
        for target in found:
            type, _, supply, _, _ = world[target.type]
            assert target.nodes >= 0
            assert target.nodes + supply.draining <= max(type.maximum, supply.draining)
            assert tight or target.nodes >= min(type.minimum, type.maximum - supply.draining)
            assert target.nodes >= min(supply.busy, type.maximum - supply.draining)
            assert target.because
    assert Memory.load(json.loads(json.dumps(memory.dump()))) == memory
