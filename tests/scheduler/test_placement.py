"""Where nodes go, and how many a hypervisor holds."""

from __future__ import annotations

import time
from collections import Counter

from kiosk.model.flavour import FLAVOURS, Flavour
from kiosk.scheduler.placement import Ground, Hypervisor, Overhead, Used, Wish, holds

C1, C2, C4 = FLAVOURS["c1"], FLAVOURS["c2"], FLAVOURS["c4"]
IMAGE = "debian-12-worker@1"


def hypervisor(name: str, **more: object) -> Hypervisor:
    values: dict[str, object] = {"memory": 16_384, "cores": 16, "scratch": 500}
    return Hypervisor(name, **(values | more))  # type: ignore[arg-type]


def test_a_hypervisor_of_16_gb_does_not_hold_eight_vms_of_2_gb_and_says_why() -> None:
    found = holds(hypervisor("hv-1"), C1, Overhead())
    assert found.count == 6
    assert found.why.startswith(
        "hv-1 holds 6 VMs of 1/2/10: 16384 MiB of memory less 1024 for the hypervisor itself"
    )
    assert "each VM takes 2048 for its guest and 18" in found.why or "beside it" in found.why


def test_cores_or_scratch_may_be_what_is_short() -> None:
    assert "cores" in holds(hypervisor("hv-1", memory=1 << 20, cores=4), C2, Overhead()).why
    assert holds(hypervisor("hv-1", memory=1 << 20, cores=4), C2, Overhead()).count == 2
    assert holds(hypervisor("hv-1", scratch=25), C1, Overhead()).count == 2
    assert holds(hypervisor("hv-1", memory=1000), C1, Overhead()).count == 0


def test_what_is_there_and_what_others_use_counts() -> None:
    there = Used().plus(C1, Overhead(), 3)
    assert holds(hypervisor("hv-1"), C1, Overhead(), there).count == 3
    assert holds(hypervisor("hv-1", taken=8192), C1, Overhead()).count == 3


def test_no_hypervisor_gets_more_than_it_holds() -> None:
    ground = Ground([hypervisor(f"hv-{i}") for i in range(5)])
    places = ground.place(Wish("worker", IMAGE, C1, 100))
    assert len(places) == 30
    assert set(Counter(places).values()) == {6}
    assert ground.place(Wish("big", IMAGE, C4, 1)) == []
    assert "holds 0" in ground.why_not(C4)


def test_nodes_are_spread_over_racks_and_hypervisors() -> None:
    ground = Ground([hypervisor(f"hv-{i}", rack=f"rack-{i % 3}") for i in range(12)])
    places = ground.place(Wish("worker", IMAGE, C1, 12))
    assert set(Counter(places).values()) == {1}
    racks = Counter(f"rack-{int(p[3:]) % 3}" for p in ground.place(Wish("big", IMAGE, C1, 3)))
    assert set(racks.values()) == {1}


def test_a_cached_image_goes_first_but_not_all_on_one() -> None:
    some = [
        hypervisor("with", images=frozenset({IMAGE}), memory=262_144, cores=99),
        *(hypervisor(f"hv-{i}") for i in range(3)),
    ]
    places = Ground(some).place(Wish("worker", IMAGE, C1, 8))
    assert places[:2] == ["with", "with"]
    assert Counter(places)["with"] < 8
    assert len(set(places)) == 4


def test_one_whose_circuit_is_open_gets_none_and_one_that_is_tried_gets_one() -> None:
    ground = Ground(
        [hypervisor("hv-1"), hypervisor("hv-2"), hypervisor("hv-3")], closed={"hv-1": 0, "hv-2": 1}
    )
    counts = Counter(ground.place(Wish("worker", IMAGE, C1, 100)))
    assert counts == {"hv-2": 1, "hv-3": 6}
    assert ground.place(Wish("other", IMAGE, C1, 9)) == []


def test_without_any_that_may_be_tried_it_says_so() -> None:
    assert "every hypervisor" in Ground([hypervisor("hv-1")], closed={"hv-1": 0}).why_not(C1)


def test_a_thousand_launches_on_two_thousand_hypervisors_take_little() -> None:
    images = frozenset({IMAGE})
    many = [
        hypervisor(
            f"hv-{i}",
            memory=262_144,
            cores=64,
            scratch=4000,
            rack=f"rack-{i // 40}",
            images=images if i % 3 else frozenset(),
        )
        for i in range(2000)
    ]
    ground = Ground(many)
    ground.occupy((f"hv-{i % 2000}", f"type-{i % 50}", C4) for i in range(8000))
    begun = time.process_time()
    found = [
        len(ground.place(Wish(f"type-{i}", IMAGE, Flavour(cores=1 + i % 4, memory=2, scratch=10), 20)))
        for i in range(50)
    ]
    assert sum(found) == 1000
    assert time.process_time() - begun < 2  # about 0.3
