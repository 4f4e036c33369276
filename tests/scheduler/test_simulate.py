"""The simulated farm does what a farm does, and every policy can drive it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from kiosk.batch.api import Job, Queue, Requirements, Share
from kiosk.model.flavour import Flavour
from kiosk.scheduler.model import Capacity, NodeType
from kiosk.scheduler.simulate import policies, synthetic
from kiosk.scheduler.simulate.farm import Farm
from kiosk.scheduler.simulate.result import measure, run
from kiosk.scheduler.simulate.view import View
from kiosk.scheduler.simulate.workload import Task, Workload, tasks

BEGIN = datetime(2026, 3, 2, tzinfo=UTC)
TYPE = NodeType("el", "el", (), Flavour(cores=2, memory=4, scratch=1), 2, 4000, 0, 10)


def task(
    at: float, seconds: float, cores: int = 1, one_host: bool = True, user: str = "ada", **more: float
) -> Task:
    limit = more.get("limit", seconds)
    return Task(at, seconds, limit, "q", user, None, Requirements(cores, one_host, run_limit=int(limit)))


class Fixed(policies.Static):
    """A size that never changes."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes

    def decide(self, view: View) -> Mapping[str, int]:
        return dict.fromkeys(view.farm.work.types, self.nodes)


def farm(jobs: list[Task], nodes: int, **more: object) -> Farm:
    work = Workload("test", BEGIN, jobs, {"el": TYPE}, **more)  # type: ignore[arg-type]
    return Farm(work, Fixed(nodes)).run()


def test_a_job_waits_for_its_node_to_boot_and_every_hour_is_accounted_for() -> None:
    done = farm([task(0, 3600), task(100, 1800)], 2)
    assert done.waits == [300, 200]
    hours = done.pools["el"].hours
    assert (hours.all, hours.boot, hours.idle) == (2 * 3900, 600, 3600)
    assert hours.used == 5400


def test_a_job_on_several_hosts_is_not_starved_and_those_that_do_not_delay_it_go_first() -> None:
    jobs = [
        task(0, 1000, 2),  # one of two nodes until 1300
        task(1, 100, 4, one_host=False),  # needs both: not before 1300
        task(2, 900, 2, limit=900),  # fits before: 300 + 900
        task(3, 5000, 2, limit=5000),  # does not
    ]
    assert farm(jobs, 2).waits == [300, 298, 1299, 1397]


def test_the_queue_of_the_higher_priority_and_who_has_less_for_the_shares_go_first() -> None:
    jobs = [task(n / 10, 1000, user="ada") for n in range(8)] + [task(1, 1000, user="bob") for _ in range(4)]
    jobs += [replace(task(2, 1000), queue="fast")]
    shares, queues = (Share("ada", 1), Share("bob", 1)), (Queue("fast", 9, True),)
    done = Farm(Workload("t", BEGIN, jobs, {"el": TYPE}, (), queues, shares), Fixed(1))
    order = []
    begin = done._try

    def noted(key: object, reserved: object) -> object:
        made = begin(key, reserved)  # type: ignore[arg-type]
        if made:
            order.append((made.task.queue, made.task.user))
        return made

    done._try = noted  # type: ignore[method-assign, assignment]
    done.run()
    assert order[0] == ("fast", "ada")
    assert {user for _, user in order[1:3]} == {"ada", "bob"} or order[1] == ("q", "bob")
    assert measure(done).unfair is not None


def test_a_node_drains_at_its_age_and_ends_with_its_last_job() -> None:
    done = farm([task(0, 86400 + 7200), task(86400 + 600, 60)], 1)
    assert done.pools["el"].launches == 2
    assert done.waits[0] == 300


def test_policies_get_no_more_than_maximum_and_capacity() -> None:
    jobs = [task(0, 5000) for _ in range(100)]
    for capacity, most in ((Capacity(), 10), (Capacity(nodes=3), 3), (Capacity(cores=9), 4)):
        done = farm(jobs, 500, capacity=capacity)
        assert max(sum(s.nodes.values()) for s in done.samples) == most


def test_a_job_that_no_type_serves_is_counted_and_left_out() -> None:
    assert farm([task(0, 10, 3), task(0, 10)], 1).lost == 1


def test_jobs_of_accounts_become_tasks_and_those_that_never_ran_do_not() -> None:
    r = Requirements(run_limit=600)
    at = BEGIN + timedelta(hours=1)
    jobs = [
        Job("2", "q", "ada", None, r, at, at + timedelta(seconds=9), at + timedelta(seconds=69)),
        Job("1", "q", "ada", None, r, BEGIN, BEGIN, BEGIN + timedelta(seconds=5)),
        Job("3", "q", "ada", None, r, BEGIN, None, BEGIN),
    ]
    begin, made = tasks(jobs)
    assert begin == BEGIN
    assert [(t.submitted, t.seconds, t.limit) for t in made] == [(0, 5, 600), (3600, 60, 600)]


def test_made_up_days_are_always_the_same() -> None:
    for make in synthetic.ALL:
        assert make().tasks == make().tasks
    assert synthetic.day(seed=5).tasks != synthetic.day(seed=6).tasks


@pytest.mark.parametrize("policy", policies.ALL)
def test_every_policy_runs_all_jobs_of_a_short_day(policy: type[policies.Kiosk]) -> None:
    work = synthetic.mixed(days=1)
    work = replace(work, tasks=work.tasks[:1500])
    result, done = run(work, policy())
    assert (result.jobs, result.unserved) == (1500, 0)
    assert result.used <= result.hours
    limit = work.capacity.cores
    assert limit is not None
    for sample in done.samples:
        assert sum(n * work.types[name].flavour.cores for name, n in sample.nodes.items()) <= limit


def test_kiosk_waits_no_longer_than_a_purely_reactive_farm_with_fewer_launches_and_little_idle() -> None:
    work = synthetic.day(days=2)
    ours, _ = run(work, policies.Kiosk())
    theirs, _ = run(work, policies.Reactive())
    assert ours.launches < 0.7 * theirs.launches
    assert ours.mean < theirs.mean + 60
    assert ours.idle < 0.06 * ours.hours
