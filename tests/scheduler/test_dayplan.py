"""A day's plan: made of the jobs of the day before, and run without a question to the batch system."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from kiosk.cloud.api import Capabilities, VmSpec
from kiosk.errors import BatchError, ExpiredError, KioskError, NotFoundError, UsageError, VerificationError
from kiosk.model.names import ImageRef
from kiosk.scheduler.breaker import Images
from kiosk.scheduler.dayplan import DayPlan, Stretch, configuration, make
from kiosk.scheduler.execute import Executor, begin
from kiosk.scheduler.forecast import HourRow
from kiosk.scheduler.ledger import Ledger
from kiosk.scheduler.model import Node
from kiosk.scheduler.settings import SchedulerSettings
from kiosk.scheduler.tick import Farm, World, decide
from kiosk.scheduler.unasked import Unasked
from tests.simulators.site import IMAGE, TYPES, fast_folder
from tests.simulators.site import World as Truth

LIKE, DAY = date(2026, 11, 24), date(2026, 11, 25)
NOW = datetime(2026, 11, 25, 0, 5, tzinfo=timezone.utc)
CONFIG = """
[batch]
system = "lsf"
[types.worker]
image = "worker"
flavour = "c2"
minimum = 1
maximum = 20
offers = {{ tags = ["kiosk", "grid"] }}
{more}
"""


def settings(folder: Path, more: str = "") -> SchedulerSettings:
    path = folder / "scheduler.toml"
    path.write_text(CONFIG.format(more=more))
    return SchedulerSettings.read(path)


def swf(folder: Path, jobs: list[tuple[float, float, int]]) -> Path:
    """Accounts of 2026-11-24: (hour, hours, how many jobs)."""
    zero = int(datetime(2026, 11, 14, tzinfo=timezone.utc).timestamp())
    lines = [f"; UnixStartTime: {zero}"]
    for hour, hours, count in jobs:
        begins, seconds = int((240 + hour) * 3600), int(hours * 3600)
        row = f"1 {begins} 60 {seconds} 1 -1 -1 1 {seconds} -1 1 1 1 -1 1 -1 -1 -1"
        lines += [row] * count
    path = folder / "yesterday.swf"
    path.write_text("\n".join(lines) + "\n")
    return path


def planned(
    folder: Path, jobs: list[tuple[float, float, int]], hours: list[HourRow] | None = None
) -> DayPlan:
    file = settings(folder)
    return make(swf(folder, jobs), file, file.node_types(), DAY, LIKE, hours or [], NOW)


def at(plan: DayPlan, hour: float) -> int:
    when = plan.begins + timedelta(hours=hour)
    return plan.targets(when, plan.configuration, "plan.json")[0].nodes


def test_nodes_are_there_before_the_hour_in_which_work_came_and_go_when_it_ended(tmp_path: Path) -> None:
    plan = planned(tmp_path, [(8.0, 3, 16), (20, 0.5, 100)])
    assert at(plan, 0) == at(plan, 6.5) == 1
    assert at(plan, 7.5) == 8 and at(plan, 9.5) == 8
    assert at(plan, 15) == 1
    assert at(plan, 20.5) == 20  # never above the maximum
    assert "the minimum is 1" in " ".join(plan.types["worker"][0].because)
    assert "on 2026-11-24 up to 8 nodes would have been wanted" in " ".join(
        b for s in plan.types["worker"] for b in s.because
    )


def test_a_job_that_ran_into_the_day_counts_and_one_of_last_week_does_not(tmp_path: Path) -> None:
    plan = planned(tmp_path, [(-12, 15, 8), (-200, 20, 40), (12, 1, 2)])
    assert (at(plan, 1), at(plan, 2.5)) == (4, 4)
    assert at(plan, 8) == 1


def test_what_is_usual_at_an_hour_bounds_what_one_day_showed(tmp_path: Path) -> None:
    first = int(datetime(2026, 11, 25, tzinfo=timezone.utc).timestamp()) // 3600
    rows = [
        HourRow("worker", first + hour - 168 * week, usual, usual, 0)
        for hour, usual in ((9, 2.0), (15, 6.0))
        for week in range(1, 5)
    ]
    plan = planned(tmp_path, [(8.0, 3, 16)], rows)
    assert at(plan, 9.5) == 2 and at(plan, 8.5) == 8
    assert at(plan, 15.5) == 6
    assert "the history has 6.0 to 6.0 at this hour nine times out of ten: 6" in str(plan.types)


def test_a_plan_is_read_as_it_was_written_and_one_that_is_broken_is_said_to_be(tmp_path: Path) -> None:
    plan = planned(tmp_path, [(8, 3, 16)])
    path = tmp_path / "plan.json"
    plan.write(path)
    assert DayPlan.read(path) == plan
    path.write_text(path.read_text().replace('"nodes": 8', '"nodes": -8'))
    with pytest.raises(VerificationError, match="nodes"):
        DayPlan.read(path)
    with pytest.raises(NotFoundError, match="kiosk scheduler plan"):
        DayPlan.read(tmp_path / "none.json")


def test_a_plan_that_is_over_or_of_another_configuration_is_none(tmp_path: Path) -> None:
    plan = planned(tmp_path, [(8, 3, 16)])
    mine = configuration(settings(tmp_path))
    assert mine == configuration(settings(tmp_path, 'context = "/etc/kiosk/other.json"'))
    for later, error, said in (
        (24, ExpiredError, "is over since 2026-11-26 00:00 UTC"),
        (-0.1, ExpiredError, "begins only at 2026-11-25 00:00 UTC"),
    ):
        with pytest.raises(error, match=said):
            plan.targets(plan.begins + timedelta(hours=later), mine, "plan.json")
    other = configuration(settings(tmp_path, "slots = 1"))
    with pytest.raises(UsageError, match="for another configuration"):
        plan.targets(NOW, other, "plan.json")


def test_a_day_without_jobs_in_the_accounts_is_an_error_and_no_plan_of_zeros(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="has no job of 2026-11-24"):
        planned(tmp_path, [(-100, 1, 4)])


@dataclass
class Unheard(Truth):
    """A site whose batch system nobody may ask or tell."""

    asked: list[str] = field(default_factory=list)

    def tick(self, path: Path, plan: DayPlan | None) -> tuple[str, ...]:
        """One tick by a plan; its notes."""
        ledger = Ledger(path)
        batch = Unasked(self, "kiosk", self.time.now)
        try:
            begin(ledger, self.time.moment())
            targets = None
            if plan is not None:
                targets = plan.targets(self.time.now(), plan.configuration, "plan.json")
            seen = World(
                self.time.now(), batch.look(), self.list_vms(), ledger.nodes(),
                images=Images({IMAGE: list(self.versions)}, {IMAGE: None}), circuits=ledger.circuits(),
                born=ledger.born(self.time.now()), planned=True, targets=targets, seed=len(self.vms),
            )  # fmt: skip
            decision = decide(Farm({"worker": TYPES["worker"]}), seen)
            executor = Executor(self, batch, ledger, lambda node: spec(node, path), now=self.time.now)
            results = executor.run(decision.plan)
            assert batch.queries == 0 and not decision.needs
            assert [r.note for r in results if r.outcome == "failed"] == []
            return decision.plan.notes
        finally:
            ledger.close()
            self.wait(300)


def spec(node: Node, path: Path) -> VmSpec:
    return VmSpec(node.id, ImageRef.parse(node.image), (), TYPES[node.type].flavour, path.parent)


@pytest.fixture
def ledger() -> Iterator[Path]:
    with fast_folder() as folder:
        yield folder / "ledger.sqlite"


def plan_of(*numbers: tuple[int, int]) -> DayPlan:
    """Numbers of workers from hours on."""
    zero = datetime(2026, 11, 25, tzinfo=timezone.utc)
    stretches = tuple(Stretch(begins=zero + timedelta(hours=h), nodes=n) for h, n in numbers)
    return DayPlan(
        made=zero, begins=zero, ends=zero + timedelta(days=1), source="x", like=LIKE, configuration="sha256:0",
        types={"worker": stretches},
    )  # fmt: skip


def phases(path: Path) -> Counter[str]:
    with Ledger.reading(path) as read:
        return Counter(n.phase for n in read.nodes().values())


def test_a_farm_grows_and_shrinks_by_its_plan_without_a_question_and_loses_no_job(ledger: Path) -> None:
    world, plan = Unheard(), plan_of((0, 4), (10, 2))  # the clock begins at 9
    world.batch_fault = "unreachable"
    for _ in range(5):
        world.tick(ledger, plan)
    assert phases(ledger) == {"joined": 4}
    world.fill(16)
    while world.time.wall.hour < 11:
        world.tick(ledger, plan)
    assert phases(ledger)["joined"] == 2 and world.jobs_lost == 0
    world.finish()
    for _ in range(8):
        world.tick(ledger, plan)
    assert phases(ledger) == {"joined": 2}
    assert (world.queries, world.wrongs, world.jobs_lost) == (0, [], 0)


def test_where_no_plan_holds_the_nodes_stay(ledger: Path) -> None:
    world, plan = Unheard(), plan_of((0, 3))
    for _ in range(5):
        world.tick(ledger, plan)
    notes = [note for _ in range(20) for note in world.tick(ledger, None)]
    assert phases(ledger) == {"joined": 3}
    assert set(notes) == {"not known: the targets; nothing is launched, and nobody goes for being too many"}


def test_a_cloud_that_can_not_tell_a_guest_to_drain_says_so() -> None:
    world = Truth(capabilities=Capabilities(True, True, False, False, False))
    with pytest.raises(BatchError, match="this cloud can't tell guests to drain"):
        Unasked(world, "kiosk").close("kiosk-worker-0123456789", "age")


def test_vms_of_others_are_no_hosts_and_a_draining_guest_is_not_opened_again() -> None:
    world = Truth()
    world.appears("somebody-elses", "ubuntu@1")
    vm = world.appears("kiosk-worker-0123456789", f"{IMAGE}@1")
    world.wait(600)
    batch = Unasked(world, "kiosk", world.time.now)
    (host,) = batch.look().hosts
    assert (host.name, host.status, host.jobs, host.mine) == (vm.name, "open", 1, False)
    world.hosts[vm.name].jobs = 3
    batch.close(vm.name, "age")
    batch.open(vm.name)
    (host,) = batch.look().hosts
    assert (host.status, host.jobs, host.mine, host.others) == ("closed", 3, True, True)
    assert vm.drains
    world.cloud_fault = "unreachable"
    with pytest.raises(KioskError):
        batch.look()


def test_a_number_is_never_outside_minimum_and_maximum(tmp_path: Path) -> None:
    file = settings(tmp_path)
    types = {"worker": replace(file.node_types()["worker"], minimum=3, maximum=5)}
    plan = make(swf(tmp_path, [(8, 3, 60)]), file, types, DAY, LIKE, [], NOW)
    assert {s.nodes for s in plan.types["worker"]} == {3, 5}
