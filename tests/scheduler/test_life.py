"""The state table: each fault's story as far as one node lives it, and what no row may do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import get_args

import pytest

from kiosk.batch.api import Host
from kiosk.cloud.api import Phase as VmPhase
from kiosk.cloud.api import VmState
from kiosk.scheduler.effects import Close, Drain, Remove, Stop
from kiosk.scheduler.life import TABLE, Change, HostFact, Limits, Moment, Seen, VmFact, jump, step
from kiosk.scheduler.model import Node, Phase

NOW = datetime(2026, 11, 25, 9, tzinfo=UTC)
LIMITS = Limits()
ID = "kiosk-worker-0000000001"


def node(phase: Phase, **more: object) -> Node:
    return Node(ID, "worker", "debian-12-worker@1", phase, NOW, NOW, vm="vm1", host=ID, **more)  # type: ignore[arg-type]


def vm(phase: VmPhase, *, id: str = "vm1", jobs: int | None = None) -> VmState:
    return VmState(id, id, ID, "debian-12-worker@1", (), "", phase, NOW, jobs=jobs)


def host(status: str = "open", jobs: int = 0, **more: bool) -> Host:
    return Host(ID, status, 4, jobs, jobs, **more)  # type: ignore[arg-type]


def lived(one: Node, seen: Seen, seconds: float, every: float = 300.0) -> tuple[Node, list[object]]:
    """The node after so long in which the same is seen, and all that was to be done."""
    done: list[object] = []
    for tick in range(int(seconds // every) + 1):
        change = step(one, seen, NOW + timedelta(seconds=tick * every), LIMITS)
        if change is not None:
            one = change.node
            done += change.effects
    return one, done


def test_whatever_lasts_while_nothing_is_known_ends_no_node() -> None:
    for phase in ("wanted", "launching", "booting", "joined", "leaving", "failed"):
        after, done = lived(node(phase), Seen(None, False), 30 * 86400, 3600)
        assert after.phase == phase, phase
        assert not done, phase


def test_a_draining_node_of_which_nothing_is_known_waits_for_its_limit() -> None:
    after, _ = lived(node("draining"), Seen(None, False), 86_400)
    assert after.phase == "draining"


def test_one_side_that_is_unknown_never_makes_a_node_gone() -> None:
    for phase, seen in product(("leaving", "failed"), (Seen(None, True), Seen((), False))):
        after, _ = lived(node(phase), seen, 40 * 86400, 3600)
        assert after.phase == phase


def test_an_absence_counts_only_through_looks_without_a_break() -> None:
    one, gone = node("joined"), Seen((), True, host())
    for tick in range(40):
        seen = gone if tick % 2 else Seen(None, True, host())
        change = step(one, seen, NOW + timedelta(seconds=tick * 250), LIMITS)
        one = change.node if change is not None else one
    assert one.phase == "joined"
    assert lived(replace(one, missing=None), gone, 900)[0].phase == "failed"


@pytest.mark.parametrize(
    ("before", "seen", "seconds", "after"),
    [
        ("launching", Seen((vm("booting"),), True), 0, "booting"),
        ("launching", Seen((), True), 299, "launching"),
        ("launching", Seen((), True), 300, "failed"),
        ("booting", Seen((vm("booting"),), True), 1200, "failed"),
        ("booting", Seen((vm("ready"),), True, host()), 0, "joined"),
        ("booting", Seen((vm("ready"),), True), 2100, "booting"),
        ("booting", Seen((vm("ready"),), True), 2400, "failed"),
        ("booting", Seen((vm("ready"),), False), 9000, "booting"),
        ("booting", Seen((vm("failed"),), True), 0, "failed"),
        ("joined", Seen((vm("ready"),), True, host("unavailable", 3)), 3300, "joined"),
        ("joined", Seen((vm("ready"),), True, host("unavailable", 3)), 3600, "draining"),
        ("joined", Seen((vm("draining", jobs=2),), True, host(jobs=2)), 0, "draining"),
        ("joined", Seen((vm("stopped"),), True, host("unavailable")), 0, "leaving"),
        ("draining", Seen((vm("ready"),), True, host("closed", 2, mine=True)), 80_000, "draining"),
        ("draining", Seen((vm("ready"),), True, host("closed", 0, mine=True)), 0, "leaving"),
        ("draining", Seen((vm("draining", jobs=1),), True, host("closed", 0, mine=True)), 80_000, "draining"),
        ("draining", Seen((vm("ready"),), True, host("closed", 2, mine=True)), 90_000, "leaving"),
        ("leaving", Seen((), True), 300, "gone"),
    ],
)
def test_a_node_goes_on(before: Phase, seen: Seen, seconds: float, after: Phase) -> None:
    assert lived(node(before), seen, seconds)[0].phase == after


def test_a_host_that_somebody_opened_while_it_drains_is_closed_again() -> None:
    change = step(node("draining"), Seen((vm("ready"),), True, host(jobs=1)), NOW, LIMITS)
    assert change is not None
    assert [type(e) for e in change.effects] == [Close]


def test_a_node_that_joined_while_it_was_to_leave_drains_first() -> None:
    change = step(node("leaving"), Seen((vm("ready"),), True, host(jobs=1)), NOW, LIMITS)
    assert change is not None
    assert change.node.phase == "draining"
    assert [type(e) for e in change.effects] == [Close]


def test_one_that_never_joined_is_told_to_drain_and_ended_only_when_it_has_no_job() -> None:
    one, done = lived(node("booting"), Seen((vm("ready"),), True), 2400)
    assert (one.phase, [type(e) for e in done]) == ("failed", [Drain])
    works = Seen((vm("draining", jobs=3),), True)
    later = NOW + timedelta(hours=10)
    assert step(replace(one, missing=None, silent=NOW), works, later, LIMITS) is None
    ends = step(one, Seen((vm("draining", jobs=0),), True), later, LIMITS)
    assert ends is not None
    assert isinstance(ends.effects[0], Stop)


def test_of_two_vms_the_one_that_the_node_had_stays() -> None:
    both = (vm("ready", id="vm2"), vm("ready", id="vm1"))
    change = step(node("joined"), Seen(both, True, host()), NOW, LIMITS)
    assert change is not None
    assert change.effects == (Stop(ID, "vm2", "a second VM of this name", now=True),)
    assert change.node.vm == "vm1"


def test_a_vm_that_does_not_stop_in_order_is_ended_at_once() -> None:
    _, done = lived(node("leaving"), Seen((vm("ready"),), True), 900)
    assert [e.now for e in done if isinstance(e, Stop)] == [False, False, True, True]


def test_a_host_is_removed_once_its_vm_is_gone_and_not_before() -> None:
    _, done = lived(node("leaving"), Seen((vm("stopping"),), True, host("unavailable")), 300)
    assert not [e for e in done if isinstance(e, Remove)]
    _, done = lived(node("leaving"), Seen((), True, host("unavailable")), 300)
    assert [type(e) for e in done] == [Remove]


def test_every_row_can_be_reached() -> None:
    """A row that an earlier one hides altogether would be a mistake."""
    hidden = []
    for at, row in enumerate(TABLE):
        cases = set(
            product(
                row.phases.split(), row.vm.split() or get_args(VmFact), row.host.split() or get_args(HostFact)
            )
        )
        for earlier in TABLE[:at]:
            if earlier.after is None:
                cases -= set(
                    product(
                        earlier.phases.split(), earlier.vm.split() or get_args(VmFact),
                        earlier.host.split() or get_args(HostFact),
                    )
                )  # fmt: skip
        if not cases:
            hidden.append(row)
    assert not hidden


def test_a_clock_that_is_set_makes_no_node_older() -> None:
    before = Moment(NOW, "boot", 1000.0)
    day = timedelta(days=1)
    assert jump(before, Moment(NOW + day, "boot", 1300.0)) == day - timedelta(seconds=300)
    assert jump(before, Moment(NOW - day, "boot", 1300.0)) == -day - timedelta(seconds=300)
    assert jump(before, Moment(NOW + timedelta(seconds=310), "boot", 1300.0)) == timedelta()
    assert jump(before, Moment(NOW + day, "another", 10.0)) == timedelta()
    assert jump(None, before) == timedelta()


def test_a_failure_is_put_on_the_image_only_where_the_guest_failed() -> None:
    booting: Change | None = step(node("booting"), Seen((vm("failed"),), True), NOW, LIMITS)
    assert booting is not None
    assert booting.blame == ("image", "hypervisor")
    one, _ = lived(node("launching"), Seen((), True), 0)
    never = step(one, Seen((), True), NOW + timedelta(seconds=300), LIMITS)
    assert never is not None
    assert never.blame == ("cloud", "hypervisor")
