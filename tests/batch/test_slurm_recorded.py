"""What a real Slurm 22.05 printed becomes a Look, and so does what newer ones print; what is no answer never does."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk.batch.api import Pending, Share
from kiosk.batch.ask import Answer, Commands
from kiosk.batch.configured import batch_system
from kiosk.batch.lsf.follow import Followed
from kiosk.batch.slurm import jobs
from kiosk.batch.slurm.driver import Slurm
from kiosk.batch.slurm.shares import shares
from kiosk.batch.slurm.values import listed, mebibytes, number, seconds, tasks
from kiosk.errors import BatchError, UsageError
from tests.batch.programs import RECORDED, Printed, calls, install

NOW = datetime(2026, 11, 25, 17, 0, tzinfo=UTC)
SQUEUE = f"squeue --noheader --all -O {jobs.FORMAT}"
SHARES = """Account|User|RawShares|NormShares|RawUsage|EffectvUsage|FairShare|
root|||0.000000|326|1.000000||
 root|root|1|0.090909|0|0.000000|1.000000|
 proj||10|0.909091|326|1.000000||
  proj|alice|5|0.833333|108|0.333333|0.666667|
  proj|bob|parent|0.166667|217|0.666667|0.333333|
"""


def recorded(name: str) -> str:
    return (RECORDED / "slurm" / name).read_text()


def cluster() -> dict[str, Printed]:
    return {
        "sinfo --version": Printed(recorded("version.txt")),
        SQUEUE: Printed(recorded("squeue.txt")),
        "scontrol --json show nodes": Printed("", 1, "scontrol: unrecognized option '--json'"),
        "sinfo --all --json": Printed(recorded("sinfo.json")),
        "scontrol --all --oneliner show partitions": Printed(recorded("partitions.txt")),
        "sshare --all --parsable": Printed(recorded("sshare.txt")),
    }


def driver(folder: Path, commands: dict[str, Printed], timeout: float = 20, most: int = 1 << 30) -> Slurm:
    return Slurm(Commands(install(folder, commands), timeout, most), lambda: NOW)


def summary(pending: tuple[Pending, ...]) -> Counter[tuple[str, bool, int, bool, int | None, int | None]]:
    found: Counter[tuple[str, bool, int, bool, int | None, int | None]] = Counter()
    for g in pending:
        wanted = g.requirements
        found[g.queue, g.held, wanted.cores, wanted.one_host, wanted.memory, wanted.run_limit] += g.jobs
    return found


WAITING = Counter({
    ("virtual", False, 1, True, 300, 600): 19,  # the rest of an array: 3-20 and 30
    ("virtual", False, 4, False, 250, None): 1,  # two nodes of 500 MiB, two cores on each
    ("virtual", True, 1, True, None, None): 3,  # held, dependent, later
    ("other", False, 1, True, None, None): 1,
})  # fmt: skip


def test_a_recorded_cluster_is_understood(tmp_path: Path) -> None:
    slurm = driver(tmp_path, cluster())
    look = slurm.look()
    assert slurm.name == "slurm 22.05"
    assert summary(tuple(look.pending)) == WAITING
    [array] = [g for g in look.pending if g.requirements.memory == 300]
    assert (array.requirements.tags, array.requirements.text) == ({"kiosk", "gold"}, "kiosk&gold")
    assert [g.requirements.tags for g in look.pending if g.requirements.text == "kiosk|gold"] == [frozenset()]
    assert sum(g.jobs for g in look.running) == 3
    [host] = look.hosts
    assert (host.name, host.status, host.slots, host.mine) == ("static1", "unavailable", 1, False)
    assert host.reason == "broken fan | [2J"
    assert {queue.name: queue.is_open for queue in look.queues} == {
        "main": True,
        "virtual": True,
        "other": True,
    }
    assert look.shares == ()


def test_columns_and_json_say_the_same() -> None:
    by_columns = jobs.from_columns(Answer("squeue", 0, recorded("squeue.txt"), ""), 0.0)
    by_json = jobs.from_json(Answer("squeue", 0, recorded("squeue.json"), ""), 0.0)
    assert summary(by_columns.tally.pending()) == summary(by_json.tally.pending())
    assert by_columns.on == by_json.on == {"n1": 1, "n2": 2}
    assert sum(g.jobs for g in by_json.tally.running()) == 3


def test_newer_slurms_write_numbers_and_states_in_objects(tmp_path: Path) -> None:
    def newer(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int):
            return value
        return {"set": True, "infinite": False, "number": value}

    document = json.loads(recorded("squeue.json"))
    for job in document["jobs"]:
        for key in ("submit_time", "cpus", "node_count", "memory_per_cpu", "memory_per_node", "time_limit"):
            job[key] = {"set": False, "infinite": False, "number": 0} if job[key] is None else newer(job[key])
        job["job_state"] = [job["job_state"]]
    answer = Answer("squeue", 0, json.dumps(document), "")
    assert summary(jobs.from_json(answer, 0.0).tally.pending()) == WAITING
    nodes = {
        "nodes": [
            {"name": "wn1", "state": ["IDLE", "DYNAMIC_NORM", "DRAIN"], "cpus": 8, "alloc_cpus": 2,
             "real_memory": 16000, "active_features": ["kiosk", "os=debian12"], "reason": "kiosk: its age"},
            {"name": "wn2", "state": ["MIXED"], "cpus": {"set": True, "number": 4}, "real_memory": 8000,
             "alloc_cpus": {"set": True, "number": 1}, "active_features": [], "reason": ""},
        ],
        "errors": [], "warnings": [],
    }  # fmt: skip
    commands = {
        "scontrol --json show nodes": Printed(json.dumps(nodes)),
        "sinfo --version": Printed("slurm 24.11.5\n"),
    }
    slurm = driver(tmp_path, cluster() | commands)
    first, second = slurm.look().hosts
    assert slurm.name == "slurm 24.11"
    assert (first.status, first.mine, first.others, first.used, first.slots) == ("closed", True, False, 2, 8)
    assert (first.tags, first.values) == ({"kiosk"}, {("os", "debian12")})
    assert (second.status, second.used, second.slots, second.memory) == ("open", 1, 4, 8000)


def test_a_look_asks_once_of_each_kind(tmp_path: Path) -> None:
    slurm = driver(tmp_path, cluster())
    slurm.look()
    before = slurm.queries
    assert before == len(calls(tmp_path)) == 6
    slurm.look()
    assert slurm.queries - before == 4


KINDS = [SQUEUE, "sinfo --all --json", "scontrol --all --oneliner show partitions"]


@pytest.mark.parametrize("command", KINDS)
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(
            Printed("", 1, "Unable to contact slurm controller (connect failure)"), id="unreachable"
        ),
        pytest.param(Printed("\x00\xff garbage \x1b[2J\n" * 40), id="garbage"),
        pytest.param(Printed("<html>502</html>\n"), id="another-program"),
        pytest.param(None, id="half-a-table"),
    ],
)
def test_what_is_no_answer_is_an_error_and_never_an_empty_look(
    tmp_path: Path, command: str, answer: Printed | None
) -> None:
    whole = cluster()[command]
    text = whole.text if isinstance(whole.text, str) else ""
    lines = text.rstrip("\n").split("\n")
    half = "\n".join([*lines[:-1], lines[-1][: len(lines[-1]) // 2]])
    slurm = driver(tmp_path, cluster() | {command: answer or replace(whole, text=half)})
    with pytest.raises(BatchError) as error:
        slurm.look()
    assert "\x1b" not in str(error.value)


def test_a_command_that_hangs_or_never_ends_printing_ends_the_look(tmp_path: Path) -> None:
    hanging = {SQUEUE: replace(cluster()[SQUEUE], sleeps=60)}
    with pytest.raises(BatchError, match=r"no answer within 0\.5 s"):
        driver(tmp_path / "a", cluster() | hanging, timeout=0.5).look()
    endless = {SQUEUE: Printed(recorded("squeue.txt") * 1000, repeat=100_000)}
    with pytest.raises(BatchError, match="printed more than 1 MiB"):
        driver(tmp_path / "b", cluster() | endless, most=1 << 20).look()


def test_errors_within_the_json_are_errors(tmp_path: Path) -> None:
    document = {"errors": [{"error": "Slurm backend error", "error_number": 1}], "nodes": []}
    with pytest.raises(BatchError, match="tells of errors"):
        driver(tmp_path, cluster() | {"sinfo --all --json": Printed(json.dumps(document))}).look()


def test_no_jobs_are_a_look(tmp_path: Path) -> None:
    look = driver(tmp_path, cluster() | {SQUEUE: Printed("")}).look()
    assert (look.pending, look.running) == ((), ())
    assert len(look.hosts) == 1


def test_shares_with_slurmdbd_and_without() -> None:
    found = shares(Answer("sshare", 0, SHARES, ""))
    assert found == (
        Share("root", 1, None, None, 0, 1), Share("proj", 10, None, None, 326, None),
        Share("alice", 5, None, "proj", 108, 0.666667),
    )  # fmt: skip
    assert shares(Answer("sshare", 0, "", "")) == ()
    assert shares(Answer("sshare", 1, "", "Slurm accounting storage is disabled")) == ()
    with pytest.raises(BatchError, match="does not reach slurmctld"):
        shares(Answer("sshare", 1, "", "Unable to contact slurm controller (connect failure)"))
    with pytest.raises(BatchError, match="half a row"):
        shares(Answer("sshare", 0, SHARES + " atlas|\n", ""))


DRAINED = " State=IDLE+DRAIN+DYNAMIC_NORM CPUAlloc=0 CPUTot=2 Reason={} [root@1]\n"


def test_what_somebody_else_drained_is_left_alone(tmp_path: Path) -> None:
    shown = {
        "scontrol --oneliner show node wn-1": Printed("NodeName=wn-1" + DRAINED.format("not kiosk: a fan"))
    }
    slurm = driver(tmp_path, cluster() | shown)
    slurm.close("wn-1", "its age")
    slurm.open("wn-1")
    assert not any("update" in call for call in calls(tmp_path))
    install(tmp_path, shown | {"scontrol *": Printed("")})
    [name] = shown
    install(
        tmp_path,
        {name: Printed("NodeName=wn-1" + DRAINED.format("kiosk: its age")), "scontrol *": Printed("")},
    )
    slurm.open("wn-1")
    assert calls(tmp_path)[-1] == "scontrol update nodename=wn-1 state=resume"


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 1), ("N/A", 1), ("7", 1), ("1-20", 20), ("3-20,30%3", 19), ("0-9:3", 4), ("1,3,...", 2)],
)
def test_what_waits_of_an_array_is_counted(text: str, count: int) -> None:
    assert tasks(text) == count


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", ()), ("n1", ("n1",)), ("n[1-3,07],gpu1", ("n1", "n2", "n3", "n07", "gpu1")),
        ("r[1-2]n[01-02]", ("r1n01", "r1n02", "r2n01", "r2n02")), ("n[1-99999999999]", ("n1-99999999999",)),
    ],
)  # fmt: skip
def test_lists_of_hosts(text: str, hosts: tuple[str, ...]) -> None:
    assert listed(text) == hosts


@given(st.text(alphabet="n[]-,0123456789:%.", max_size=40))
def test_no_list_raises(text: str) -> None:
    listed(text)
    tasks(text)
    seconds(text)
    mebibytes(text)
    number(text)


def test_a_configuration_names_the_batch_system(tmp_path: Path) -> None:
    assert batch_system("slurm").name == "slurm"
    assert batch_system("lsf", tmp_path).name == "lsf"
    assert isinstance(batch_system("lsf", events=tmp_path), Followed)
    with pytest.raises(UsageError, match="LSF's event log"):
        batch_system("slurm", events=tmp_path)
