"""Whatever a cloud, a batch system, people, and kill -9 do to it in whatever order: what must never happen does not,
and once all is well again the farm becomes what was wanted."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kiosk.model.names import Version
from tests.simulators.site import IMAGE, TYPES, Crash, Machine, Scheduler, World, fast_folder

CLOUD = ["", "unreachable", "flaky", "nothing", "twice", "slow", "stale", "lost", "refuses"]
BATCH = ["", "unreachable", "flaky", "half", "renamed"]
MORE = os.environ.get("KIOSK_TEST_EXAMPLES")
"""More of them, and others each time."""
EXAMPLES = int(MORE or 100)


class Farm(RuleBasedStateMachine):
    """A farm to which anything happens."""

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.ended = contextlib.ExitStack()
        folder = self.ended.enter_context(fast_folder())
        self.world = World()
        self.world.chance.seed(seed)
        self.world.hosts["real1"] = Machine("real1", None)
        self.world.appears("somebody-elses", "ubuntu@1")
        self.scheduler = Scheduler(self.world, folder / "ledger.sqlite")
        self.targets = {"worker": 4, "big": 1}
        if seed % 4:
            self.scheduler.go_on(self.targets, 4)

    @rule(worker=st.integers(0, 10), big=st.integers(0, 4))
    def other_targets(self, worker: int, big: int) -> None:
        self.targets = {"worker": worker, "big": big}

    @rule(count=st.integers(1, 4), every=st.sampled_from([60.0, 300.0, 900.0]))
    def ticks(self, count: int, every: float) -> None:
        self.scheduler.go_on(self.targets, count, every=every)

    @rule(after=st.integers(0, 60))
    def the_scheduler_dies(self, after: int) -> None:
        self.world.crash_in = after
        with contextlib.suppress(Crash):
            self.scheduler.tick(self.targets)
        self.world.crash_in = None
        self.world.wait(20)

    @rule(fault=st.sampled_from(CLOUD), worker=st.integers(0, 10), every=st.sampled_from([60.0, 300.0]))
    def a_burst_while_the_cloud_is_as_it_is(self, fault: str, worker: int, every: float) -> None:
        self.world.cloud_fault = fault
        self.targets["worker"] = worker
        self.scheduler.go_on(self.targets, 2, every=every)

    @rule(fault=st.sampled_from(BATCH))
    def the_batch_system_is_as_it_is(self, fault: str) -> None:
        self.world.batch_fault = fault

    @rule(jobs=st.integers(1, 40))
    def jobs_start(self, jobs: int) -> None:
        self.world.fill(jobs)

    @rule()
    def jobs_end(self) -> None:
        self.world.finish()

    @rule(which=st.integers(0, 20), close=st.booleans())
    def an_administrator_closes_or_opens(self, which: int, close: bool) -> None:
        hosts = list(self.world.hosts.values())
        host = hosts[which % len(hosts)]
        (host.locks.add if close else host.locks.discard)("admin")

    @rule(seconds=st.sampled_from([-86400.0, -600.0, 600.0, 86400.0, 864000.0]))
    def the_clock_is_set(self, seconds: float) -> None:
        self.world.time.wall += timedelta(seconds=seconds)

    @rule(bad=st.sampled_from(["", "", "boot", "fails"]))
    def a_version_is_published(self, bad: str) -> None:
        if len(self.world.versions) < 6:
            ref = f"{IMAGE}@{len(self.world.versions) + 1}"
            self.world.versions.append(ref)
            self.world.bad_images[ref] = bad

    @rule(bad=st.sampled_from(["", "", "fails"]))
    def a_security_update(self, bad: str) -> None:
        self.a_version_is_published(bad)
        self.world.floor = Version((len(self.world.versions),))

    @rule(which=st.integers(0, 20))
    def a_vm_dies(self, which: int) -> None:
        alive = [
            vm for vm in self.world.vms.values() if self.world.alive(vm) and vm.name.startswith("kiosk-")
        ]
        if alive:
            self.world.dies(alive[which % len(alive)])

    @rule(which=st.integers(0, 20))
    def a_guest_drains_by_itself(self, which: int) -> None:
        hosts = [h for h in self.world.hosts.values() if h.vm is not None]
        if hosts:
            host = hosts[which % len(hosts)]
            host.locks.add("guest")
            self.world.vms[str(host.vm)].drains = True

    @invariant()
    def nothing_wrong_was_done(self) -> None:
        if hasattr(self, "world"):
            assert not self.world.wrongs
            assert self.world.alive(next(iter(self.world.vms.values())))

    @invariant()
    def no_type_is_above_its_maximum(self) -> None:
        if hasattr(self, "world"):
            exist = Counter(
                vm.name.split("-")[1]
                for vm in self.world.vms.values()
                if vm.removed is None and not vm.second and vm.name.startswith("kiosk-")
            )
            assert all(exist[name] <= kind.maximum for name, kind in TYPES.items()), exist

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.all_becomes_well()
        finally:
            self.ended.close()

    def all_becomes_well(self) -> None:
        world = self.world
        world.cloud_fault = world.batch_fault = ""
        world.bad_images = dict.fromkeys(world.bad_images, "")
        for host in world.hosts.values():
            host.locks.discard("admin")
        wanted = {name: min(self.targets[name], kind.maximum) for name, kind in TYPES.items()}
        for _ in range(400):
            world.finish()
            self.scheduler.tick(self.targets)
            world.wait(300)
            world.fill(20)
            if self.converged(wanted):
                return
        raise AssertionError(
            f"wanted {wanted}: {self.scheduler.nodes()}, {self.scheduler.plan.notes}, {world.vms}"
        )

    def converged(self, wanted: dict[str, int]) -> bool:
        nodes = self.scheduler.nodes()
        joined = Counter(n.type for n in nodes.values() if n.phase == "joined")
        vms = [v for v in self.world.vms.values() if v.removed is None and v.name.startswith("kiosk-")]
        return (
            all(n.phase == "joined" for n in nodes.values())
            and all(joined[name] == count for name, count in wanted.items())
            and {v.name for v in vms} == set(nodes)
            and len(vms) == len(nodes)
            and {h.name for h in self.world.hosts.values() if h.vm is not None} == set(nodes)
        )


TestFarm = Farm.TestCase
TestFarm.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=40, deadline=None, derandomize=MORE is None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
