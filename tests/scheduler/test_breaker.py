"""Circuit breakers and canaries: a bad image, hypervisor or cloud costs a few nodes, not a farm."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from kiosk.model.names import Version
from kiosk.scheduler.breaker import (
    ENDLESS,
    BreakerLimits,
    Circuit,
    Images,
    choices,
    failed,
    period,
    probed,
    promotable,
    room,
    state,
    succeeded,
)

NOW = datetime(2026, 11, 25, 9, tzinfo=UTC)
LIMITS = BreakerLimits()
OLD, NEW = "worker@1", "worker@2"
KEY = f"image:{OLD}"
GOOD = Circuit(promoted=True, joined=9, since=NOW)


def after(failures: int, circuit: Circuit = GOOD, key: str = KEY) -> Circuit:
    for _ in range(failures):
        circuit = failed(key, circuit, NOW, LIMITS, "it never joined")
    return circuit


def test_a_circuit_opens_after_failures_in_a_row_and_not_after_some_of_many() -> None:
    assert state(KEY, after(2), NOW, LIMITS) == "closed"
    assert state(KEY, after(2, succeeded(after(2), NOW)), NOW, LIMITS) == "closed"
    assert state(KEY, after(3), NOW, LIMITS) == "open"
    assert state("cloud:qemu", after(9, Circuit(), "cloud:qemu"), NOW, LIMITS) == "closed"


def test_a_half_open_circuit_has_one_probe_in_a_period() -> None:
    circuit = after(3)
    later = NOW + timedelta(seconds=period(KEY, circuit, LIMITS))
    assert room(KEY, {KEY: circuit}, NOW, LIMITS) == 0
    assert room(KEY, {KEY: circuit}, later, LIMITS) == 1
    tried = probed(KEY, circuit, later, LIMITS)
    assert room(KEY, {KEY: tried}, later + timedelta(seconds=10), LIMITS) == 0
    assert room(KEY, {KEY: tried}, later + timedelta(seconds=period(KEY, tried, LIMITS)), LIMITS) == 1
    assert room(KEY, {KEY: succeeded(tried, later)}, later, LIMITS) == ENDLESS


def test_each_failed_probe_doubles_the_time_up_to_a_longest() -> None:
    circuit, now, times = after(3), NOW, []
    for _ in range(12):
        times.append(period(KEY, circuit, LIMITS))
        now += timedelta(seconds=times[-1])
        circuit = failed(KEY, circuit, now, LIMITS)
    assert times[0] <= 375
    assert all(a < b * 1.7 for a, b in itertools.pairwise(times))
    assert max(times) <= LIMITS.longest * (1 + LIMITS.jitter)


def test_circuits_that_opened_together_are_not_tried_together() -> None:
    assert len({period(f"hypervisor:hv-{i}", Circuit(trips=1), LIMITS) for i in range(50)}) == 50


def test_failures_of_those_launched_before_it_opened_do_not_make_it_worse() -> None:
    assert after(30).trips == 1


def images(**more: object) -> Images:
    values: dict[str, object] = {"offered": {"worker": (NEW, OLD)}, "floors": {"worker": None}}
    return Images(**(values | more))  # type: ignore[arg-type]


def chosen(
    circuits: dict[str, Circuit], alive: dict[str, int], of: Images | None = None
) -> list[tuple[str, int]]:
    return [(c.image, c.room) for c in choices("worker", of or images(), circuits, alive, NOW, LIMITS)[0]]


def test_a_new_version_goes_to_canaries_and_the_rest_takes_the_one_before() -> None:
    known = {KEY: GOOD}
    assert chosen(known, {}) == [(NEW, 2), (OLD, ENDLESS)]
    assert chosen(known, {NEW: 2}) == [(OLD, ENDLESS)]
    assert chosen({**known, f"image:{NEW}": GOOD}, {NEW: 2}) == [(NEW, ENDLESS)]


def test_a_new_version_whose_canaries_fail_falls_back() -> None:
    bad = after(2, Circuit(), f"image:{NEW}")
    assert chosen({KEY: GOOD, f"image:{NEW}": bad}, {}) == [(OLD, ENDLESS)]
    notes = choices("worker", images(), {KEY: GOOD, f"image:{NEW}": bad}, {}, NOW, LIMITS)[1]
    assert notes == [f"{NEW}: 2 nodes failed in a row (it never joined): open"]


def test_a_promoted_version_that_fails_later_falls_back_too() -> None:
    assert chosen({KEY: GOOD, f"image:{NEW}": after(3, GOOD, f"image:{NEW}")}, {}) == [(OLD, ENDLESS)]


def test_a_revoked_version_is_never_chosen_and_nothing_where_that_is_not_known() -> None:
    assert chosen({KEY: GOOD}, {NEW: 2}, images(floors={"worker": Version((2,))})) == []
    assert chosen({KEY: GOOD}, {}, images(floors={"worker": Version((3,))})) == []
    assert chosen({KEY: GOOD}, {}, images(floors={})) == []
    assert chosen({KEY: GOOD}, {}, images(offered={})) == []
    assert images().revoked("worker") is None
    assert images().revoked("no name at all@x") is None


def test_canaries_promote_once_they_joined_and_ran_jobs() -> None:
    joined = replace(Circuit(), joined=2, since=NOW)

    def is_promoted(
        circuit: Circuit, hours: float = 0, *, worked: bool = False, fallback: bool = True
    ) -> bool:
        return promotable(
            NEW, circuit, worked=worked, fallback=fallback, now=NOW + timedelta(hours=hours), limits=LIMITS
        )

    assert not is_promoted(joined)
    assert is_promoted(joined, worked=True)
    assert is_promoted(joined, 6), "nobody sends jobs"
    assert is_promoted(joined, fallback=False), "there is no other"
    assert not is_promoted(replace(joined, joined=1), worked=True)
    assert not is_promoted(after(2, joined, f"image:{NEW}"), worked=True)
