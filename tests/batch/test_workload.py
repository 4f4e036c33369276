"""Jobs from a file in machines that come, answer or not, and vanish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kiosk import files
from kiosk.batch.api import Look
from kiosk.batch.workload.book import SURE, TRIES, Book
from kiosk.batch.workload.driver import Workload
from kiosk.batch.workload.file import WorkloadFile
from kiosk.batch.workload.guests import RUN, Ran, start, understood
from kiosk.errors import BatchError, UsageError
from tests.batch.machines import Machines
from tests.simulators.site import fast_folder

THREE = '[[jobs]]\nname = "sums"\ncount = 3\nseconds = 5\n'
TWO_QUEUES = """
[queues.night]
priority = 5
[queues.short]
priority = 50
[[jobs]]
name = "long"
count = 2
cores = 2
memory = 1000
command = ["/opt/program", "two words", "--"]
queue = "night"
user = "anna"
group = "atlas"
[[jobs]]
name = "quick"
seconds = 1
queue = "short"
tags = ["gpu"]
[[jobs]]
name = "tomorrow"
seconds = 1
after = 86400
"""


@dataclass
class Farm:
    """A workload, its machines, and the time."""

    folder: Path
    machines: Machines = field(default_factory=Machines)
    at: datetime = datetime(2026, 11, 25, 12, tzinfo=UTC)

    def says(self, text: str) -> None:
        (self.folder / "workload.toml").write_text(text)

    @property
    def batch(self) -> Workload:
        """As a scheduler that was just started makes it."""
        return Workload(
            self.folder / "workload.toml", self.folder / "state.json", self.machines, now=lambda: self.at
        )

    def look(self, seconds: float = 5) -> Look:
        self.at += timedelta(seconds=seconds)
        return self.batch.look()

    def states(self, group: str = "sums") -> dict[str, int]:
        return {str(k): v for k, v in Book.read(self.folder / "state.json").counts(self.at)[group].items()}


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    made = Farm(tmp_path)
    made.says(THREE)
    return made


def waiting(look: Look) -> int:
    return sum(p.jobs for p in look.pending)


def running(look: Look) -> int:
    return sum(r.jobs for r in look.running)


def test_jobs_wait_for_machines_run_in_them_and_end_there(farm: Farm) -> None:
    assert waiting(farm.look()) == 3
    machine = farm.machines.add("node-1", slots=2)
    look = farm.look()
    assert (waiting(look), running(look)) == (1, 2)
    assert [(h.name, h.status, h.slots, h.used, h.jobs) for h in look.hosts] == [("node-1", "open", 2, 2, 2)]
    machine.end()
    look = farm.look()
    assert (waiting(look), running(look)) == (0, 1)
    assert list(machine.units) == ["kiosk-job-sums.3-1.service"], "what has ended is forgotten there"
    machine.end(3)
    assert (waiting(farm.look()), farm.states()) == (0, {"done": 2, "failed": 1})


def test_a_machine_is_asked_by_one_command_a_look_and_not_at_all_without_jobs(farm: Farm) -> None:
    machine, idle = farm.machines.add("node-1", slots=3), farm.machines.add("node-2", slots=3)
    farm.look()
    machine.commands.clear()
    batch = farm.batch
    batch.look()
    assert [c[1] for c in machine.commands] == ["show"]
    assert (idle.commands, batch.queries) == ([], 1)


def test_jobs_go_by_queue_and_age_to_the_fullest_machine_that_fits(farm: Farm) -> None:
    farm.says(TWO_QUEUES)
    farm.machines.add("plain", slots=4, memory=1900)
    farm.machines.add("special", slots=2, tags=frozenset({"gpu"}), memory=1900)
    look = farm.look()
    jobs = Book.read(farm.folder / "state.json").groups
    assert jobs["quick"].begun[1].host == "special"
    assert [j.host for j in jobs["long"].begun.values()] == ["plain"], "memory for one, cores for two"
    (long,) = look.pending
    assert (long.queue, long.user, long.group, long.requirements.memory) == ("night", "anna", "atlas", 1000)
    assert {q.name: q.priority for q in look.queues} == {"night": 5, "short": 50, "default": 10}
    assert farm.states("tomorrow") == {"later": 1}
    farm.look(86400)
    assert farm.states("tomorrow") == {"running": 1}


def test_a_group_that_is_added_to_the_file_is_submitted_then(farm: Farm) -> None:
    farm.look()
    farm.says(THREE.replace("3", "9") + '[[jobs]]\nname = "more"\nseconds = 1\nafter = 10\n')
    assert waiting(farm.look()) == 3, "what was submitted stays as it was"
    assert waiting(farm.look(11)) == 4


def test_a_machine_that_vanished_puts_its_jobs_back_until_they_are_lost(farm: Farm) -> None:
    for turn in range(TRIES):
        farm.machines.add(f"node-{turn}", slots=3)
        assert running(farm.look()) == 3
        del farm.machines.all[f"node-{turn}"]
        farm.look()
    assert farm.states() == {"lost": 3}


def test_a_machine_that_does_not_answer_keeps_its_jobs(farm: Farm) -> None:
    machine = farm.machines.add("node-1", slots=3)
    farm.look()
    machine.answers = False
    farm.machines.add("node-2", slots=3)
    look = farm.look()
    assert (running(look), farm.machines.all["node-2"].units) == (3, {})
    machine.guest = replace(machine.guest, status="silent")
    assert [h.status for h in farm.look().hosts] == ["unavailable", "open"]
    machine.answers, machine.guest = True, replace(machine.guest, status="open")
    machine.end()
    farm.look()
    assert farm.states() == {"done": 3}


def test_a_start_whose_answer_was_lost_is_not_done_twice(farm: Farm) -> None:
    machine = farm.machines.add("node-1", slots=3)
    machine.loses = True
    farm.look()
    assert len(machine.units) == 1, "the machine is left alone then"
    machine.loses = False
    farm.machines.add("node-2", slots=3)
    assert running(farm.look()) == 3
    assert farm.states() == {"running": 1, "starting": 2}, (
        "the others may still start, and are not given away"
    )
    farm.look(SURE)
    farm.look()
    assert farm.states() == {"running": 3}
    assert "kiosk-job-sums.1-1.service" in machine.units


def test_a_closed_host_gets_no_jobs_and_opens_again(farm: Farm) -> None:
    machine = farm.machines.add("node-1")
    farm.batch.close("node-1", "too many")
    farm.batch.close("node-1", "again")
    look = farm.look()
    (host,) = look.hosts
    assert (host.status, host.mine, host.reason, machine.units) == ("closed", True, "too many", {})
    farm.batch.open("node-1")
    assert running(farm.look()) == 1
    farm.batch.close("node-1", "its age")
    assert farm.look().hosts[0].jobs == 1, "what runs goes on"
    machine.guest = replace(machine.guest, status="closed")
    farm.batch.open("node-1")
    (host,) = farm.look().hosts
    assert (host.status, host.mine, host.others) == ("closed", False, True)


def test_a_removed_host_is_forgotten(farm: Farm) -> None:
    farm.machines.add("node-1")
    farm.look()
    farm.batch.close("node-1", "it goes")
    del farm.machines.all["node-1"]
    farm.batch.remove("node-1")
    farm.batch.remove("never-seen")
    book = Book.read(farm.folder / "state.json")
    assert (book.closed, farm.states()) == ({}, {"waiting": 3})


def test_without_the_cloud_nothing_is_known_and_nothing_changes(farm: Farm) -> None:
    farm.machines.add("node-1")
    farm.look()
    before = (farm.folder / "state.json").read_bytes()
    farm.machines.reachable = False
    with pytest.raises(BatchError, match="can't be reached"):
        farm.look()
    assert (farm.folder / "state.json").read_bytes() == before


def test_observing_starts_nothing_and_writes_nothing(farm: Farm) -> None:
    machine = farm.machines.add("node-1")
    batch = replace(farm.batch, observes=True)
    assert waiting(batch.look()) == 3
    batch.close("node-1", "no")
    assert (machine.commands, sorted(p.name for p in farm.folder.iterdir())) == ([], ["workload.toml"])


def test_two_at_a_time_are_told_apart(farm: Farm) -> None:
    with (
        files.locked(farm.folder / "state.json.lock", what="the workload"),
        pytest.raises(BatchError, match="workload"),
    ):
        replace(farm.batch, timeout=0.1).look()


@pytest.mark.parametrize("damage", [b"", b"{}x", b'{"schema": "kiosk.workload/9"}', b'{"closed": 7}'])
def test_a_damaged_state_is_an_error_that_keeps_it(farm: Farm, damage: bytes) -> None:
    state = farm.folder / "state.json"
    state.write_bytes(damage)
    with pytest.raises(BatchError, match="no state of a workload"):
        farm.look()
    assert state.read_bytes() == damage


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "jobs: missing"),
        ('[[jobs]]\nname = "a"\n', "need `seconds` or `command`"),
        ('[[jobs]]\nname = "a"\nseconds = 1\ncommand = ["/x"]\n', "not both"),
        ('[[jobs]]\nname = "a"\ncommand = ["x"]\n', "absolute path"),
        ('[[jobs]]\nname = "a"\ncommand = ["/x", "\\u0000"]\n', "no NUL"),
        ('[[jobs]]\nname = "../a"\nseconds = 1\n', "jobs.0.name"),
        ('[[jobs]]\nname = "a"\nseconds = 1\nnice = 3\n', "unknown key 'jobs.0.nice'"),
        ('[[jobs]]\nname = "a"\nseconds = 1\ncount = 20001\n', "jobs.0.count"),
        ('[[jobs]]\nname = "a"\nseconds = 1\n' * 2, "two groups of jobs have the name a"),
        ("".join(f'[[jobs]]\nname = "a{n}"\nseconds = 1\ncount = 9000\n' for n in range(3)), "27000 jobs"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(farm: Farm, text: str, said: str) -> None:
    farm.says(text)
    with pytest.raises(UsageError) as e:
        WorkloadFile.read(farm.folder / "workload.toml")
    assert said in e.value.what


def test_a_command_travels_as_words_after_the_options(farm: Farm) -> None:
    farm.says(TWO_QUEUES)
    jobs = WorkloadFile.read(farm.folder / "workload.toml").jobs[0]
    words = start("kiosk-job-long.1-1.service", jobs)
    assert words[0] == RUN and "--property=MemoryMax=1000M" in words
    assert words[words.index("--") + 1 :] == ["/opt/program", "two words", "--"]


def test_a_guest_can_only_speak_of_its_own_jobs() -> None:
    answer = b"\n\n".join(
        [
            b"Id=a.service\nLoadState=loaded\nActiveState=failed\nSubState=failed\nExecMainCode=2\nExecMainStatus=9",
            b"Id=other.service\nLoadState=loaded\nActiveState=active\nSubState=exited",
            b"Id=b.service\nActiveState=dancing",
            b"Id=c.service\nLoadState=loaded\nActiveState=failed\nSubState=failed\nExecMainCode=x\nExecMainStatus=1",
            b"\xff\x00=\n===",
        ]
    )
    assert understood(answer, ["a.service", "b.service", "c.service"]) == {
        "a.service": Ran("ended", 137),
        "c.service": Ran("ended", None),
    }


class AnyDay(RuleBasedStateMachine):
    """Machines come, go, and lose answers, and each job runs on one machine at a time, and ends once."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = fast_folder()
        self.farm = Farm(self.kept.__enter__())
        self.farm.says(THREE.replace("3", "6"))
        self.count = 0
        self.ended: list[str] = []

    def teardown(self) -> None:
        self.kept.__exit__(None, None, None)

    @rule(slots=st.integers(1, 3))
    @precondition(lambda self: len(self.farm.machines.all) < 4)
    def comes(self, slots: int) -> None:
        self.count += 1
        self.farm.machines.add(f"node-{self.count}", slots=slots)

    @rule(which=st.integers(0, 3), answers=st.booleans(), loses=st.booleans())
    def behaves(self, which: int, answers: bool, loses: bool) -> None:
        self._of(which, lambda m: (setattr(m, "answers", answers), setattr(m, "loses", loses)))

    @rule(which=st.integers(0, 3), status=st.integers(0, 2))
    def ends(self, which: int, status: int) -> None:
        def end(machine: object) -> None:
            self.ended += [n for n, s in machine.units.items() if s is None]  # type: ignore[attr-defined]
            machine.end(status)  # type: ignore[attr-defined]

        self._of(which, end)

    @rule(which=st.integers(0, 3))
    def vanishes(self, which: int) -> None:
        self._of(which, lambda m: self.farm.machines.all.pop(m.guest.name))

    @rule(which=st.integers(0, 3), closes=st.booleans())
    def closes(self, which: int, closes: bool) -> None:
        batch = self.farm.batch
        self._of(which, lambda m: batch.close(m.guest.name, "x") if closes else batch.open(m.guest.name))

    @rule(seconds=st.sampled_from([3, 100]))
    def looks(self, seconds: int) -> None:
        look = self.farm.look(seconds)
        assert all(h.used <= h.slots for h in look.hosts)
        states = self.farm.states()
        assert sum(states.values()) == 6
        assert waiting(look) == states.get("waiting", 0)

    def _of(self, which: int, do: Callable[..., object]) -> None:
        machines = list(self.farm.machines.all.values())
        if machines:
            do(machines[which % len(machines)])

    @invariant()
    def once(self) -> None:
        runs = [
            n.rsplit("-", 1)[0]
            for m in self.farm.machines.all.values()
            for n, s in m.units.items()
            if s is None
        ]
        assert len(runs) == len(set(runs)), "no job runs twice"
        assert len(self.ended) == len(set(self.ended))


TestAnyDay = AnyDay.TestCase
TestAnyDay.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
