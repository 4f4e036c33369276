"""Steps, by many made-up courses of events: the share only grows, no stage is skipped, an abort is final, a pause
holds, and only time that was seen to be well counts."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiosk.errors import PolicyError
from kiosk.model.names import ImageRef, Version, parse_ref
from kiosk.model.rollout import Rollout
from kiosk.rollout import orders
from kiosk.rollout.health import Verdict
from kiosk.rollout.plan import Plan, Plans
from kiosk.rollout.step import LONGEST_GAP, Moment, Progress, passed, step

BEGUN = Rollout(name="worker", version="2", before="1", share=50)
GOOD, UNKNOWN, BAD = (Verdict(a, a) for a in ("good", "unknown", "bad"))
HOSTS = [f"hv{i}" for i in range(60)]

shares = st.lists(st.integers(1, 999), max_size=5, unique=True).map(lambda s: [*sorted(s), 1000])
plans = st.builds(
    lambda s, h: Plans().of("w", {"stages": [f"{n / 10:g}%" for n in s], "hold": f"{h}s"}),
    shares,
    st.integers(0, 2000),
)
events = st.lists(
    st.tuples(
        st.sampled_from(["look", "look", "look", "pause", "resume", "forget", "reboot"]),
        st.sampled_from([GOOD, GOOD, GOOD, UNKNOWN, BAD]),
        st.floats(0, 3000),
    ),
    max_size=60,
)


def ordered(rollout: Rollout, what: str) -> Rollout:
    try:
        return {"pause": orders.pause, "resume": orders.resume}[what](rollout)
    except PolicyError:
        return rollout


@settings(max_examples=200, deadline=None)
@given(plans, events)
def test_whatever_happens_the_share_grows_stage_by_stage_and_an_abort_is_final(
    plan: Plan, happened: list[tuple[str, Verdict, float]]
) -> None:
    rollout = BEGUN.model_copy(update={"share": plan.stages[0].share})
    stages = [s.share for s in plan.stages]
    progress: Progress | None = None
    boot, clock, last_good, held = 0, 0.0, None, 0.0
    for what, verdict, later in happened:
        clock += later
        before = rollout
        if what in ("pause", "resume"):
            rollout = ordered(rollout, what)
            continue
        if what == "forget":
            progress, last_good, held = None, None, 0.0
            continue
        if what == "reboot":
            boot, clock = boot + 1, 0.0
            continue
        now = Moment(boot=str(boot), seconds=clock)
        took = step(rollout, plan, progress, verdict, now)
        rollout, progress = took.rollout, took.progress
        assert rollout.share >= before.share
        if before.state != "running":
            assert rollout == before, "what is paused, done or aborted does not move by itself"
            last_good = None
            continue
        assert (rollout.state == "aborted") == (verdict is BAD)
        if verdict is GOOD:
            held += min(clock - last_good[1], LONGEST_GAP) if last_good and last_good[0] == boot else 0
            last_good = (boot, clock)
        else:
            last_good = None
        if rollout.share != before.share or rollout.state == "done":
            assert verdict is GOOD
            assert held >= plan.hold_of(before.share), "a stage holds for all of its time"
            last_good, held = None, 0.0
        if rollout.share != before.share:
            assert stages.index(rollout.share) == stages.index(before.share) + 1, "no stage is skipped"
        if rollout.state == "done":
            assert rollout.share == 1000
        if rollout.state != "aborted":
            had = {h for h in HOSTS if before.offers(h) == "2"}
            assert had <= {h for h in HOSTS if rollout.offers(h) == "2"}, "nobody is brought back"


def test_a_healthy_roll_out_gets_to_its_end() -> None:
    plan, rollout, progress = Plan(), BEGUN, None
    seen = [rollout.share]
    for minute in itertools.count():
        took = step(rollout, plan, progress, GOOD, Moment(boot="b", seconds=60.0 * minute))
        rollout, progress = took.rollout, took.progress
        if took.move in ("advance", "done"):
            seen.append(rollout.share)
        if rollout.state == "done":
            break
    assert seen == [50, 250, 500, 1000, 1000]
    assert minute == 4 * 31 - 1, "each stage holds for half an hour after the first look at it"


def test_progress_of_another_stage_or_version_counts_for_nothing() -> None:
    full = Progress(version="2", share=50, held=1e9, well=Moment(boot="b", seconds=0))
    now = Moment(boot="b", seconds=1)
    assert step(BEGUN, Plan(), full, GOOD, now).move == "advance"
    for other in ({"share": 40}, {"version": "1"}):
        assert step(BEGUN, Plan(), full.model_copy(update=other), GOOD, now).move == "hold"


def test_time_that_was_not_watched_does_not_count() -> None:
    then = Moment(boot="b", seconds=1000)
    assert passed(None, then) == 0
    assert passed(then, Moment(boot="b", seconds=1030)) == 30
    assert passed(then, Moment(boot="b", seconds=90_000)) == LONGEST_GAP
    assert passed(then, Moment(boot="b", seconds=10)) == 0
    assert passed(then, Moment(boot="c", seconds=2000)) == 0


def begun(version: str, offered: str, there: Rollout | None = None, *, recall: bool = False) -> Rollout:
    ref = parse_ref(f"worker@{version}")
    return orders.begin(ref, [Version.parse(v) for v in offered.split()], there, Plan(), recall=recall)


def test_what_hosts_have_is_what_an_abort_returns_to() -> None:
    assert begun("2", "1").before == "1"
    assert begun("1", "").before is None
    assert begun("3", "1 2 3", recall=True).before == "2"
    done = orders.finish(BEGUN)
    assert begun("4", "1 2 3 4", done).before == "2", "3 was never rolled out"
    failed = orders.abort(BEGUN, "bad")
    assert begun("3", "1 2 3", failed).before == "1"
    assert begun("2", "1 2", failed).before == "1", "a person may try again"


@pytest.mark.parametrize(
    ("version", "offered", "there", "says"),
    [
        ("2", "1 2", None, "offered worker@2 already"),
        ("1", "1", None, "offered worker@1 already"),
        ("2", "1 2 3", None, "hosts have worker@3"),
        ("3", "1 2 3", BEGUN, "being rolled out now"),
        ("3", "1 2 3", orders.pause(BEGUN), "being rolled out now"),
        ("1", "1 2", orders.finish(BEGUN), "not older"),
        ("2", "1 2", orders.finish(BEGUN), "not older"),
    ],
)
def test_what_may_not_begin(version: str, offered: str, there: Rollout | None, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        begun(version, offered, there)


def test_orders_that_come_too_late_are_refused_with_what_is_the_case() -> None:
    failed = orders.abort(BEGUN, "jobs fail")
    for give in (orders.pause, orders.resume, orders.finish, lambda r: orders.abort(r, "again")):
        with pytest.raises(PolicyError, match="aborted: jobs fail"):
            give(failed)
    with pytest.raises(PolicyError, match="is running"):
        orders.resume(BEGUN)


def test_a_roll_out_ends_only_where_nobody_gets_another_version_by_it() -> None:
    two, three = Version.parse("2"), Version.parse("3")
    orders.refuse_end(orders.finish(BEGUN), two, force=False)
    for there, newest in ((orders.finish(BEGUN), three), (orders.abort(BEGUN, "x"), two), (BEGUN, two)):
        with pytest.raises(PolicyError, match="without its roll-out all hosts would go to"):
            orders.refuse_end(there, newest, force=False)
        orders.refuse_end(there, newest, force=True)
    assert ImageRef.parse("worker").base == "worker"
