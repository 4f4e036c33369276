"""From targets and what is there to what is done, told as stories of a small farm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from kiosk.batch.api import Host, Look
from kiosk.cloud.api import VmState
from kiosk.model.names import Version
from kiosk.scheduler import execute
from kiosk.scheduler.effects import Close, Drain, Launch, Stop
from kiosk.scheduler.model import Supply
from kiosk.scheduler.orphans import type_of
from kiosk.scheduler.placement import Hypervisor
from kiosk.scheduler.plan import Rules
from kiosk.scheduler.supply import supplies
from tests.simulators.site import IMAGE, TYPES, Machine, Scheduler, World, fast_folder


@pytest.fixture
def farm() -> Iterator[Scheduler]:
    with fast_folder() as folder:
        yield Scheduler(World(), folder / "ledger.sqlite")


def phases(farm: Scheduler) -> Counter[str]:
    return Counter(n.phase for n in farm.nodes().values())


def settled(farm: Scheduler, workers: int) -> None:
    """A farm in which so many workers joined."""
    farm.go_on({"worker": workers, "big": 0}, 4)
    assert phases(farm) == {"joined": workers}


def test_a_burst_starts_nodes_canaries_first_and_they_join(farm: Scheduler) -> None:
    farm.tick({"worker": 6, "big": 0})
    assert phases(farm) == {"booting": 2}
    assert any("canaries" in note for note in farm.plan.notes)
    farm.world.wait(300)
    farm.go_on({"worker": 6, "big": 0}, 2)
    assert phases(farm) == {"joined": 6}


def test_idle_nodes_go_first_and_a_busy_one_only_when_it_is_done(farm: Scheduler) -> None:
    settled(farm, 6)
    farm.world.fill(12)  # three nodes full
    farm.go_on({"worker": 2, "big": 0}, 4)
    assert phases(farm)["joined"] == 2
    farm.go_on({"worker": 2, "big": 0}, 20)
    assert phases(farm) == {"joined": 2, "draining": 1}, "it has jobs"
    assert farm.world.jobs_lost == 0
    farm.world.finish()
    farm.go_on({"worker": 2, "big": 0}, 4)
    assert phases(farm) == {"joined": 2}
    assert not farm.world.wrongs


def test_a_drain_because_of_too_many_is_taken_back_when_nodes_are_wanted_again(farm: Scheduler) -> None:
    settled(farm, 4)
    farm.world.fill(16)
    farm.tick({"worker": 2, "big": 0})
    assert phases(farm) == {"joined": 2, "draining": 2}
    started = sum(farm.world.started.values())
    farm.go_on({"worker": 4, "big": 0}, 2)
    assert phases(farm) == {"joined": 4}
    assert sum(farm.world.started.values()) == started
    assert not any(host.locks for host in farm.world.hosts.values())


def test_a_node_that_still_comes_is_cancelled(farm: Scheduler) -> None:
    settled(farm, 2)
    farm.tick({"worker": 5, "big": 0})
    farm.world.wait(60)
    farm.go_on({"worker": 2, "big": 0}, 5)
    assert phases(farm) == {"joined": 2}
    assert len([vm for vm in farm.world.vms.values() if vm.removed is None]) == 2


def test_the_maximum_counts_those_that_leave(farm: Scheduler) -> None:
    settled(farm, 8)
    farm.world.fill(100)
    farm.world.versions.append(f"{IMAGE}@2")
    for _ in range(12):
        farm.go_on({"worker": 20, "big": 0}, 1)
        assert sum(vm.removed is None for vm in farm.world.vms.values()) <= 8


@pytest.mark.parametrize("side", ["cloud", "batch"])
def test_missing_data_never_scales_to_zero(farm: Scheduler, side: str) -> None:
    settled(farm, 4)
    setattr(farm.world, f"{side}_fault", "unreachable")
    farm.go_on({"worker": 0, "big": 0}, 400)
    assert phases(farm) == {"joined": 4}, "also when they are all past their age"
    assert "not known" in farm.plan.notes[0]


def test_an_empty_list_is_not_believed_for_hours(farm: Scheduler) -> None:
    settled(farm, 6)
    farm.world.cloud_fault = "empty"
    farm.go_on({"worker": 6, "big": 0}, 60)
    assert phases(farm) == {"joined": 6}
    assert "the cloud's list misses 6 of 6 nodes at once: not believed yet" in farm.plan.notes
    farm.world.cloud_fault = ""
    farm.tick({"worker": 6, "big": 0})
    assert phases(farm) == {"joined": 6}


def test_half_a_table_of_hosts_ends_nobody(farm: Scheduler) -> None:
    settled(farm, 8)
    farm.world.batch_fault = "half"
    farm.go_on({"worker": 8, "big": 0}, 60)
    assert phases(farm) == {"joined": 8}


def test_renamed_hosts_are_known_by_what_they_say(farm: Scheduler) -> None:
    settled(farm, 4)
    farm.world.fill(16)
    farm.world.batch_fault = "renamed"
    farm.go_on({"worker": 4, "big": 0}, 30)
    assert phases(farm) == {"joined": 4}
    farm.tick({"worker": 3, "big": 0})
    assert any(isinstance(e, Close) and e.host.startswith("wn-vm") for e in farm.plan.effects)


def test_a_lost_ledger_is_made_anew_from_the_cloud(farm: Scheduler) -> None:
    settled(farm, 5)
    before = {n.vm for n in farm.nodes().values()}
    for path in farm.path.parent.glob("ledger.sqlite*"):
        path.unlink()
    farm.go_on({"worker": 5, "big": 0}, 2)
    assert {n.vm for n in farm.nodes().values()} == before
    assert phases(farm) == {"joined": 5}
    assert max(farm.world.started.values()) == 1


def test_unknown_vms_are_adopted_drained_or_left_alone_by_their_names(farm: Scheduler) -> None:
    known = farm.world.appears("kiosk-worker-0123456789", f"{IMAGE}@1")
    strange = farm.world.appears("kiosk-nothing-0123456789", f"{IMAGE}@1")
    other = farm.world.appears("kiosk-worker-of-somebody", "ubuntu@1")
    farm.go_on({"worker": 1, "big": 0}, 3)
    assert {n.vm for n in farm.nodes().values()} == {known.id}
    farm.go_on({"worker": 1, "big": 0}, 16)
    assert strange.removed is not None
    assert other.removed is None
    assert known.removed is None


def test_adopting_more_than_the_maximum_drains_the_rest(farm: Scheduler) -> None:
    for i in range(5):
        farm.world.appears(f"kiosk-big-{i:010}", f"{IMAGE}@1")
    farm.go_on({"worker": 0, "big": 3}, 8)
    assert phases(farm) == {"joined": 3}


def test_one_that_was_given_up_and_turns_up_is_ended(farm: Scheduler) -> None:
    farm.world.cloud_fault = "nothing"
    farm.tick({"worker": 1, "big": 0})
    farm.world.wait(300)
    farm.go_on({"worker": 0, "big": 0}, 6)
    assert not farm.nodes()
    farm.world.cloud_fault = ""
    ghost = farm.world.appears(next(iter(farm.world.started)), f"{IMAGE}@1")
    farm.tick({"worker": 0, "big": 0})
    assert ghost.removed is not None


def test_a_cloud_that_says_yes_and_starts_nothing_is_tried_less_and_less(farm: Scheduler) -> None:
    settled(farm, 2)
    farm.world.cloud_fault = "nothing"
    begun = sum(farm.world.started.values())
    farm.go_on({"worker": 8, "big": 0}, 288)
    tried = sum(farm.world.started.values()) - begun
    assert 10 <= tried < 40, "in a day"
    assert phases(farm)["joined"] == 2
    farm.world.cloud_fault = ""
    farm.go_on({"worker": 8, "big": 0}, 60)
    assert phases(farm) == {"joined": 8}


def test_second_vms_of_a_name_are_ended(farm: Scheduler) -> None:
    farm.world.cloud_fault = "twice"
    farm.go_on({"worker": 2, "big": 0}, 5)
    assert [vm.second for vm in farm.world.vms.values() if vm.removed is None] == [False, False]
    assert phases(farm) == {"joined": 2}


def test_a_new_version_replaces_the_old_a_few_at_a_time_and_no_job_is_lost(farm: Scheduler) -> None:
    settled(farm, 6)
    farm.world.versions.append(f"{IMAGE}@2")
    fewest = 6
    for _ in range(60):
        farm.world.fill(24)
        farm.go_on({"worker": 6, "big": 0}, 1)
        fewest = min(fewest, phases(farm)["joined"])
        farm.world.finish()
    assert {n.image for n in farm.nodes().values()} == {f"{IMAGE}@2"}
    assert phases(farm) == {"joined": 6}
    assert fewest >= 4
    assert farm.world.jobs_lost == 0


@pytest.mark.parametrize("fault", ["boot", "fails"])
def test_a_bad_version_costs_its_canaries_and_no_more(farm: Scheduler, fault: str) -> None:
    settled(farm, 6)
    farm.world.versions.append(f"{IMAGE}@2")
    farm.world.bad_images[f"{IMAGE}@2"] = fault
    farm.go_on({"worker": 8, "big": 0}, 24)
    assert {n.image for n in farm.nodes().values() if n.phase == "joined"} == {f"{IMAGE}@1"}
    assert phases(farm)["joined"] >= 7
    assert 2 <= sum(vm.image.endswith("@2") for vm in farm.world.vms.values()) <= 6


def test_nodes_on_a_revoked_version_drain_at_once_and_none_is_launched(farm: Scheduler) -> None:
    settled(farm, 6)
    farm.world.fill(24)
    farm.world.floor = Version((2,))
    farm.tick({"worker": 6, "big": 0})
    assert phases(farm) == {"draining": 6}
    assert not any(isinstance(e, Launch) for e in farm.plan.effects)
    assert farm.world.jobs_lost == 0
    farm.world.versions.append(f"{IMAGE}@2")
    farm.world.finish()
    farm.go_on({"worker": 6, "big": 0}, 8)
    assert {n.image for n in farm.nodes().values()} == {f"{IMAGE}@2"}
    assert not farm.world.wrongs


def test_a_host_that_an_administrator_closed_stays_closed_and_is_replaced(farm: Scheduler) -> None:
    settled(farm, 3)
    closed = next(iter(farm.world.hosts.values()))
    closed.locks.add("admin")
    farm.go_on({"worker": 3, "big": 0}, 3)
    assert phases(farm) == {"joined": 4}
    assert closed.locks == {"admin"}
    farm.go_on({"worker": 0, "big": 0}, 5)
    assert [h.name for h in farm.world.hosts.values()] == [closed.name], "it is looked into"
    assert not farm.world.wrongs


def test_real_hosts_are_never_touched(farm: Scheduler) -> None:
    farm.world.hosts["real1"] = Machine("real1", None)
    settled(farm, 2)
    farm.go_on({"worker": 0, "big": 0}, 6)
    assert list(farm.world.hosts) == ["real1"]
    assert not farm.world.wrongs


def test_a_type_that_is_no_longer_configured_leaves(farm: Scheduler) -> None:
    farm.go_on({"worker": 1, "big": 2}, 4)
    del farm.types["big"]
    farm.go_on({"worker": 1}, 6)
    assert {n.type for n in farm.nodes().values()} == {"worker"}


def test_nodes_go_to_hypervisors_with_room_and_the_rest_is_told(farm: Scheduler) -> None:
    farm.hypervisors = [Hypervisor(f"hv-{i}", 16_384, 16, 500) for i in range(3)]
    farm.go_on({"worker": 8, "big": 0}, 4)
    places = Counter(n.where for n in farm.nodes().values())
    assert places == {"hv-0": 1, "hv-1": 1, "hv-2": 1}
    assert any(
        "have no place: hv-0 holds 0 more VMs of 4/8/40: 16384 MiB" in note for note in farm.plan.notes
    )


def test_all_types_together_stay_within_what_the_farm_may_have(farm: Scheduler) -> None:
    farm.rules = Rules(nodes=5, cores=30)
    farm.go_on({"worker": 8, "big": 3}, 6)
    cores = sum(TYPES[n.type].flavour.cores for n in farm.nodes().values())
    assert len(farm.nodes()) <= 5
    assert cores <= 30
    farm.world.fill(99)


def test_ending_is_bounded_and_comes_before_launching(farm: Scheduler) -> None:
    farm.rules = Rules(launches=3, stops=2)
    settled(farm, 8)
    farm.tick({"worker": 0, "big": 3})
    farm.world.wait(300)
    farm.tick({"worker": 0, "big": 3})
    kinds = [type(e) for e in farm.plan.effects]
    assert kinds.count(Stop) == 2
    farm.go_on({"worker": 0, "big": 3}, 8)
    assert Counter(n.type for n in farm.nodes().values()) == {"big": 3}


def test_supplies_tell_who_is_there_for_jobs(farm: Scheduler) -> None:
    settled(farm, 4)
    names = list(farm.world.hosts)
    farm.world.hosts[names[0]].jobs = 2
    farm.world.hosts[names[1]].locks.add("admin")
    nodes = list(farm.nodes().values())
    nodes[3] = replace(nodes[3], phase="booting")
    hosts = [farm.world._host(h) for h in farm.world.hosts.values()]
    found = supplies(Look(farm.world.time.now(), hosts=hosts), nodes, TYPES)["worker"]
    assert (found.nodes + found.draining, found.coming) == (4, 1)
    assert isinstance(found, Supply)


@pytest.mark.parametrize(
    ("name", "type"),
    [
        ("kiosk-worker-0123456789", "worker"),
        ("kiosk-gpu-large-0123456789", "gpu-large"),
        ("kiosk-worker-012345678", None),
        ("kiosk-worker-0123456789\n", None),
        ("Kiosk-worker-0123456789", None),
        ("kiosk--0123456789", None),
        ("worker-0123456789", None),
    ],
)
def test_a_name_says_its_type_or_is_nobody_s(name: str, type: str | None) -> None:
    assert type_of(name, "kiosk") == type


def test_hostile_names_of_vms_and_hosts_are_nobody_s(farm: Scheduler) -> None:
    settled(farm, 1)
    vm = VmState("x", "x", "kiosk-worker-\x1b[2J", "?", (), "", "ready", farm.world.time.wall)
    assert type_of(vm.name, "kiosk") is None
    look = Look(farm.world.time.now(), hosts=[Host("", "open", 0, 0, 0), Host("..", "closed", 0, 0, 0)])
    assert supplies(look, farm.nodes().values(), TYPES)["worker"].busy == 1


def test_a_guest_that_drains_is_no_longer_counted_and_its_successor_comes(farm: Scheduler) -> None:
    settled(farm, 2)
    host = next(iter(farm.world.hosts.values()))
    host.jobs = 1
    farm.world.drain(str(host.vm), "its age")
    farm.go_on({"worker": 2, "big": 0}, 3)
    assert phases(farm) == {"joined": 2, "draining": 1}
    assert not any(isinstance(e, (Stop, Drain)) for e in farm.plan.effects)


def test_a_node_that_waited_long_to_be_launched_is_not_missing_the_moment_it_is(
    farm: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(farm, 2)
    monkeypatch.setattr(execute, "IN_A_ROW", 1)
    farm.world.cloud_fault = "lost"  # after an answer that is lost the others are left for later
    farm.go_on({"worker": 5, "big": 0}, 2)
    assert phases(farm)["wanted"] >= 1
    farm.world.cloud_fault = "slow"
    for _ in range(6):
        farm.go_on({"worker": 5, "big": 0}, 1, every=60)
        assert phases(farm)["failed"] == 0
        assert sum(vm.removed is None for vm in farm.world.vms.values()) <= 8
