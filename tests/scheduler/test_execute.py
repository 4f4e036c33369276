"""What does the effects: intents first, one failure stops no other, and a dry run touches nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kiosk.batch.api import BatchSystem
from kiosk.cloud.api import Cloud, VmSpec, VmState
from kiosk.errors import BusyError, GuestError, KioskError, NetworkError, PolicyError
from kiosk.model.names import ImageRef
from kiosk.scheduler.effects import Adopt, Close, Drain, Effect, Forget, Launch, Stop
from kiosk.scheduler.execute import Executor, known, moment
from kiosk.scheduler.ledger import Ledger
from kiosk.scheduler.model import Node
from kiosk.scheduler.plan import Plan
from tests.simulators.site import IMAGE, TYPES, World, fast_folder

NOW = datetime(2026, 11, 25, 9, tzinfo=UTC)


class Faulty(World):
    """A world in which starting some nodes fails as is said."""

    def __init__(self, errors: dict[str, KioskError]) -> None:
        super().__init__()
        self.errors = errors
        self.seen: list[str | None] = []
        self.ledger: Ledger | None = None

    def start(self, spec: VmSpec) -> VmState:
        if self.ledger is not None:
            self.seen.append(self.ledger.nodes()[spec.name].phase)
        if spec.name in self.errors:
            raise self.errors[spec.name]
        return super().start(spec)


def wanted(*ids: str) -> list[Node]:
    return [Node(id, "worker", f"{IMAGE}@1", "wanted", NOW, NOW, where="hv-1") for id in ids]


def spec(node: Node) -> VmSpec:
    return VmSpec(node.id, ImageRef.parse(node.image), (), TYPES["worker"].flavour, Path("/"))


@pytest.fixture
def path() -> Iterator[Path]:
    with fast_folder() as folder:
        yield folder / "ledger.sqlite"


def executor(world: World, ledger: Ledger, **more: object) -> Executor:
    return Executor(world, world, ledger, spec, now=lambda: NOW, **more)  # type: ignore[arg-type]


def test_the_simulated_site_is_what_the_scheduler_asks_for() -> None:
    cloud: Cloud = World()
    batch: BatchSystem = World()
    assert cloud.list_vms() == list(batch.look().hosts) == []


def test_the_cloud_is_asked_only_after_the_ledger_knows(path: Path) -> None:
    world, nodes = Faulty({}), wanted("n1", "n2")
    with Ledger.opened(path) as ledger:
        world.ledger = ledger
        results = executor(world, ledger).run(Plan(tuple(nodes), {}, tuple(map(Launch, nodes))))
        assert world.seen == ["launching", "launching"]
        assert [r.outcome for r in results] == ["done", "done"]
        assert {n.phase for n in ledger.nodes().values()} == {"booting"}
        told = {e.what for e in ledger.history("n1")}
        assert told == {"phase wanted", "phase launching", "phase booting", f"start {IMAGE}@1 on hv-1"}


def test_one_error_stops_no_other_and_says_whose_fault_it_was(path: Path) -> None:
    errors = {"n1": GuestError("no room"), "n2": NetworkError("no answer"), "n3": PolicyError("not signed")}
    world, nodes = Faulty(errors), wanted("n1", "n2", "n3", "n4")
    with Ledger.opened(path) as ledger:
        results = executor(world, ledger).run(Plan(tuple(nodes), {}, tuple(map(Launch, nodes))))
        assert [r.outcome for r in results] == ["failed", "failed", "failed", "done"]
        phases = {n.id: n.phase for n in ledger.nodes().values()}
        assert phases == {"n1": "failed", "n2": "launching", "n3": "failed", "n4": "booting"}
        failures = {key: c.failures for key, c in ledger.circuits().items()}
        assert failures == {"cloud:cloud": 1, "hypervisor:hv-1": 1, f"image:{IMAGE}@1": 1}


def test_a_node_is_never_started_again_under_its_name(path: Path) -> None:
    world, nodes = Faulty({"n1": NetworkError("no answer")}), wanted("n1")
    with Ledger.opened(path) as ledger:
        runs = executor(world, ledger)
        runs.run(Plan(tuple(nodes), {}, (Launch(nodes[0]),)))
        world.errors.clear()
        results = runs.run(Plan((), {}, (Launch(nodes[0]), Launch(wanted("never-seen")[0]))))
        assert [r.outcome for r in results] == ["failed", "failed"]
        assert not world.started


def test_a_node_whose_vm_can_t_be_described_is_dropped(path: Path) -> None:
    def not_cached(node: Node) -> VmSpec:
        raise PolicyError("it is revoked")

    with Ledger.opened(path) as ledger:
        nodes = wanted("n1")
        runs = Executor(World(), World(), ledger, not_cached, now=lambda: NOW)
        assert runs.run(Plan(tuple(nodes), {}, (Launch(nodes[0]),)))[0].note == "PolicyError: it is revoked"
        assert not ledger.nodes()
        assert ledger.circuits()[f"image:{IMAGE}@1"].failures == 1


def test_a_side_that_does_not_answer_is_left_alone_and_the_other_is_not(path: Path) -> None:
    world = World()
    world.batch_fault = "unreachable"
    vm = world.appears("kiosk-worker-0123456789", f"{IMAGE}@1")
    effects: list[Effect] = [Close(f"n{i}", f"h{i}", "too many") for i in range(6)]
    with Ledger.opened(path) as ledger:
        results = executor(world, ledger).run(Plan((), {}, (*effects, Stop("n", vm.id, "its age"))))
    assert [r.outcome for r in results] == ["failed"] * 3 + ["later"] * 3 + ["done"]
    assert results[3].note == "the batch does not answer"


def test_without_time_nothing_begins_and_all_is_found_again(path: Path) -> None:
    world, nodes = World(), wanted("n1", "n2")
    with Ledger.opened(path) as ledger:
        results = executor(world, ledger).run(Plan(tuple(nodes), {}, tuple(map(Launch, nodes))), seconds=-1)
        assert [r.outcome for r in results] == ["later", "later"]
        assert {n.phase for n in ledger.nodes().values()} == {"wanted"}


def test_a_dry_run_writes_and_does_nothing(path: Path) -> None:
    world, nodes = World(), wanted("n1")
    vm = world.appears("kiosk-worker-0123456789", f"{IMAGE}@1")
    plan = Plan(
        tuple(nodes), {}, (Launch(nodes[0]), Stop("x", vm.id, "y"), Close("n", "h", "z"), Adopt(nodes[0]))
    )
    with Ledger.opened(path) as ledger:
        results = executor(world, ledger).run(plan, dry_run=True)
        assert not ledger.nodes()
    assert {r.outcome for r in results} == {"would"}
    assert world.alive(vm)
    assert not world.started


def test_what_is_gone_already_is_no_error_and_what_can_t_drain_is_said(path: Path) -> None:
    world, nodes = World(), wanted("n1", "n2")
    with Ledger.opened(path) as ledger:
        ledger.put(nodes, NOW)
        effects = (Stop("n9", "vm9", "its age"), Drain("n9", "vm9", "its age"), Forget("n1", "too many"))
        results = executor(world, ledger).run(Plan((), {}, effects))
        assert [r.outcome for r in results] == ["done", "failed", "done"]
        assert set(ledger.nodes()) == {"n2"}


def test_several_are_started_at_a_time_and_the_ledger_has_one_writer(path: Path) -> None:
    meets = threading.Barrier(4, timeout=20)

    class Slow(World):
        def start(self, spec: VmSpec) -> VmState:
            meets.wait()
            return super().start(spec)

    nodes = wanted(*(f"n{i}" for i in range(8)))
    with Ledger.opened(path) as ledger:
        results = executor(Slow(), ledger, workers=4).run(Plan(tuple(nodes), {}, tuple(map(Launch, nodes))))
        assert [r.outcome for r in results] == ["done"] * 8
        assert {n.phase for n in ledger.nodes().values()} == {"booting"}


def test_a_look_that_fails_is_unknown_and_not_empty() -> None:
    def busy() -> list[int]:
        raise BusyError("locked")

    faults: list[str] = []
    assert known("the cloud", busy, faults) is None
    assert known("the cloud", list, faults) == []
    assert faults == ["the cloud is unknown: locked"]
    assert moment(NOW).uptime > 0
