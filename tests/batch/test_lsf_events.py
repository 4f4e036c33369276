"""LSF's event log is followed without a query: through switches, half lines and restarts; what can't be followed is an
error and never an empty look. The records are those of tests.batch.mbatchd; see there for what is known of them."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk.batch.api import Look
from kiosk.batch.ask import Commands
from kiosk.batch.lsf.driver import Lsf
from kiosk.batch.lsf.events import BadRecord, Fields, indices, job_finish, job_new
from kiosk.batch.lsf.follow import AccountLog, EventLog, Followed
from kiosk.batch.lsf.log import Position
from kiosk.errors import BatchError, UsageError
from tests.batch.mbatchd import Mbatchd

PUBLISHED = {
    "JOB_NEW of LSF 9.1": '101 506 33554435 1 1495678422 0 0 -65535 0 0 "userA" -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 "" '
    '116.10 18 "normal" "" "hpcm" "/Repository/userA/generic_1" "" "" "" "" "/home/userA" "1495678422.101" 0 "" "" '
    '"generic_1" "touch aaa; sleep 30; touch bbb" 0 "" "default" 1 "X86_64" "" "" "" "" 5136 0 "" "" "" -1 -1 -1 64 '
    '"" "" -1 "" 0 -1',
    "JOB_FINISH of LSF 10.1": '7610 1000 33554438 1 1527326745 0 0 1527326746 "lsfadmin" "normal" "" "" "" '
    '"lsf-master.localdomain.com" "" "" "" "" "10/1527326745.7610" 1 "pac" 1 "lsf-pac.localdomain.com" 32 60.0 "" '
    '"sleep 1000" -1.000000 -1.000000 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 "" "default" 65280 1 "" "" 0 '
    '2048 0 "" "" "" "" 0 "" 0 "" -1 "/lsfadmin" "" "" "" -1 "" "" 5136 "" 1527326746 "" "" 2 1032 "0" 1033 "0" 0 0 0',
}
"""What others published of their logs: single lines, which say that fields stand where they are looked for."""


def test_published_records_are_read() -> None:
    new = job_new(Fields(PUBLISHED["JOB_NEW of LSF 9.1"]))
    assert (new.job, new.user, new.queue, new.slots, new.name) == (101, "userA", "normal", 1, "generic_1")
    assert (new.submitted, new.limit, new.indices, new.group) == (1495678422, -1, None, None)
    finished = job_finish(Fields(PUBLISHED["JOB_FINISH of LSF 10.1"]), 1527327585)
    assert (finished.job, finished.index, finished.queue) == (7610, 0, "normal")
    assert (finished.started, finished.hosts) == (1527326746, ("lsf-pac.localdomain.com",))


@pytest.fixture(params=[False, True], ids=["volclava", "ibm"])
def master(request: pytest.FixtureRequest, tmp_path: Path) -> Mbatchd:
    return Mbatchd(tmp_path, ibm=request.param)


class Reader:
    """A reader that can be restarted: it keeps nothing but a position."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.followed = self._new(None)

    def _new(self, since: Position | None) -> Followed:
        driver = Lsf(Commands(self.folder / "no-commands"))
        return Followed(EventLog(self.folder, since), driver, now=lambda: datetime(2026, 12, 1, tzinfo=UTC))

    def look(self) -> Look:
        return self.followed.look()

    def restart(self) -> None:
        position = self.followed.position
        self.followed = self._new(None if position is None else Position.parse(str(position)))


def counts(look: Look) -> tuple[int, int]:
    return sum(g.jobs for g in look.pending), sum(g.jobs for g in look.running)


def test_jobs_come_run_and_end_without_a_query(master: Mbatchd, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    job = master.submit(text="select[os==debian12] rusage[mem=500] span[hosts=1]", slots=4, limit=3600)
    assert counts(reader.look()) == (1, 0)
    [waits] = reader.look().pending
    assert (waits.queue, waits.user, waits.held) == ("normal", "alice", False)
    assert (waits.requirements.cores, waits.requirements.one_host, waits.requirements.memory) == (
        4,
        True,
        500,
    )
    assert (waits.requirements.run_limit, waits.requirements.values) == (3600, {("os", "debian12")})
    assert waits.oldest == datetime.fromtimestamp(master.now, UTC)
    master.start(job, ["lava1"] * 4)
    look = reader.look()
    assert counts(look) == (0, 1)
    [host] = look.hosts
    assert (host.name, host.status, host.used, host.jobs, host.slots) == ("lava1", "open", 4, 1, 4)
    master.finish(job)
    assert counts(reader.look()) == (0, 0)
    assert reader.followed.queries == 0


def test_a_group_is_known_where_the_log_has_it(tmp_path: Path) -> None:
    Mbatchd(tmp_path, ibm=True).submit(group="atlas")
    assert [g.group for g in Reader(tmp_path).look().pending] == ["atlas"]


def test_an_arrays_tasks_are_counted(master: Mbatchd, tmp_path: Path) -> None:
    job = master.submit(name="arr[1-10:3,20]%2")
    reader = Reader(tmp_path)
    assert counts(reader.look()) == (5, 0)
    master.start(job, index=4)
    master.start(job, index=20, hosts=["lava1", "lava1"], short=True)
    assert counts(reader.look()) == (3, 2)
    master.finish(job, index=4)
    assert counts(reader.look()) == (3, 1)


def test_tasks_beyond_an_arrays_limit_are_held(master: Mbatchd, tmp_path: Path) -> None:
    job = master.submit(name="arr[1-10]%3")
    reader = Reader(tmp_path)
    assert {g.held: g.jobs for g in reader.look().pending} == {False: 3, True: 7}
    master.start(job, index=1)
    master.start(job, index=2)
    assert {g.held: g.jobs for g in reader.look().pending} == {False: 1, True: 7}
    master.finish(job, index=1)
    assert {g.held: g.jobs for g in reader.look().pending} == {False: 2, True: 6}


def test_a_job_that_is_requeued_waits_again(master: Mbatchd, tmp_path: Path) -> None:
    job = master.submit()
    master.start(job)
    master.status(job, 32)
    reader = Reader(tmp_path)
    assert counts(reader.look()) == (0, 0)
    master.write("JOB_REQUEUE", f"{job} 0 ", job)
    assert counts(reader.look()) == (1, 0)


def test_what_is_held_is_told_apart(master: Mbatchd, tmp_path: Path) -> None:
    first = master.submit()
    master.submit(depends=f"done({first})")
    master.submit(depends='ended("job") && exit(1)')
    master.submit(begins=2_000_000_000)
    stopped = master.submit()
    master.status(stopped, 2)
    reader = Reader(tmp_path)
    assert {g.held: g.jobs for g in reader.look().pending} == {False: 1, True: 4}
    for job in range(1, 6):
        if job != 2:
            master.finish(job)
    assert {g.held: g.jobs for g in reader.look().pending} == {False: 1}  # what it waited for has ended


def test_switched_queues_and_changed_jobs(master: Mbatchd, tmp_path: Path) -> None:
    job = master.submit()
    master.write("JOB_SWITCH", f'500 {job} "long" 0 "alice"', job)
    more = f'"{job}" 262146 0 0 500 "alice" {master.now} 18 8 0 0 0 0 "short" "select[kiosk]"' + " -1" * 11
    reader = Reader(tmp_path)
    assert [g.queue for g in reader.look().pending] == ["long"]
    master.write("JOB_MODIFY2", more, job)
    [waits] = reader.look().pending
    assert (waits.queue, waits.requirements.cores, waits.requirements.tags) == ("short", 8, {"kiosk"})


def test_who_closed_a_host_is_in_the_log(master: Mbatchd, tmp_path: Path) -> None:
    master.control("lava1", 2, "kiosk: its age")
    master.control("lava2", 2, 'broken "fan"')
    master.control("lava2", 2, "kiosk: must not take the administrator's place")
    master.control("lava3", 2, "kiosk: its age")
    master.control("lava3", 1)
    first, second, third = Reader(tmp_path).look().hosts
    assert (first.status, first.mine, first.others) == ("closed", True, False)
    assert (second.status, second.mine, second.others, second.reason) == (
        "closed",
        False,
        True,
        'broken "fan"',
    )
    assert (third.status, third.mine, third.others) == ("open", False, False)


def test_a_line_that_is_half_written_waits_for_its_end(master: Mbatchd, tmp_path: Path) -> None:
    master.submit()
    reader = Reader(tmp_path)
    whole = master.events.read_bytes()
    master.submit(name='with "quotes"', command="a\nb")
    second = master.events.read_bytes()[len(whole) :]
    for cut in (1, 20, len(second) // 2, len(second) - 1):
        master.events.write_bytes(whole + second[:cut])
        assert counts(reader.look()) == (1, 0)
    master.events.write_bytes(whole + second)
    assert counts(reader.look()) == (2, 0)


def test_a_switch_is_followed_and_so_are_several_at_once(master: Mbatchd, tmp_path: Path) -> None:
    first, second = master.submit(), master.submit()
    reader = Reader(tmp_path)
    assert counts(reader.look()) == (2, 0)
    master.start(first)
    master.switch()
    assert counts(reader.look()) == (1, 1)
    master.finish(first)
    master.clean(first)
    master.switch()
    master.submit()
    master.switch()
    master.start(second)
    assert counts(reader.look()) == (1, 1)


def test_after_a_restart_the_log_is_read_again(master: Mbatchd, tmp_path: Path) -> None:
    jobs = [master.submit() for _ in range(3)]
    reader = Reader(tmp_path)
    reader.look()
    reader.restart()
    master.start(jobs[0])
    assert counts(reader.look()) == (2, 1)
    reader.restart()
    master.switch()
    master.switch()
    assert counts(reader.look()) == (2, 1)


def test_a_job_that_is_lost_at_a_switch_is_an_error_that_stays(master: Mbatchd, tmp_path: Path) -> None:
    lost = master.submit()
    master.submit()
    reader = Reader(tmp_path)
    reader.look()
    master.switch(lose=[lost])
    for _ in range(2):
        with pytest.raises(
            BatchError, match=f"lacks 1 jobs that had not ended, such as {lost}(.|\n)*leave `events` out"
        ):
            reader.look()


def test_a_log_with_a_gap_is_taken_as_it_is_once_somebody_says_so(master: Mbatchd, tmp_path: Path) -> None:
    lost = master.submit()
    master.submit()
    log = EventLog(tmp_path)
    log.read()
    master.switch(lose=[lost])
    with pytest.raises(BatchError):
        log.read()
    log.forget()
    assert list(log.read().jobs) == [2]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_log_that_was_cut_is_an_error(master: Mbatchd, tmp_path: Path, restarted: bool) -> None:
    master.submit()
    master.submit()
    reader = Reader(tmp_path)
    reader.look()
    if restarted:
        reader.restart()
    os.truncate(master.events, master.events.stat().st_size // 2)
    for _ in range(2):
        with pytest.raises(BatchError, match=r"became shorter .*records are missing"):
            reader.look()


@pytest.mark.parametrize("restarted", [False, True])
def test_another_file_in_the_logs_place_is_an_error(master: Mbatchd, tmp_path: Path, restarted: bool) -> None:
    master.submit()
    reader = Reader(tmp_path)
    reader.look()
    if restarted:
        reader.restart()
    kept = tmp_path / "kept"
    shutil.copy(master.events, kept)
    text = kept.read_text().split("\n", 1)[1]
    master.events.unlink()
    (tmp_path / "new").write_text(text.replace("alice", "mallory"))
    (tmp_path / "new").rename(master.events)
    with pytest.raises(BatchError, match="is not the file that was read before"):
        reader.look()


def test_a_log_that_is_not_there_or_can_not_be_read_is_an_error(master: Mbatchd, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    reader.look()
    master.events.unlink()
    with pytest.raises(BatchError, match=r"lsb\.events: can't be read: No such file"):
        reader.look()


@pytest.mark.parametrize(
    "garbage",
    [
        "\x00\x01 garbage", '"JOB_NEW" "2.2" 1790000000 what is this', '"JOB_NEW" "2.2" 1790000000 1 2 3',
        '"JOB_START" "2.2" 1790000000 1 4 0 0 100.0 99999999999 "a"', '"JOB_STATUS" "2.2" 1790000000 1 4',
    ],
)  # fmt: skip
def test_garbage_names_its_line_and_is_never_an_empty_look(
    master: Mbatchd, tmp_path: Path, garbage: str
) -> None:
    master.submit()
    reader = Reader(tmp_path)
    reader.look()
    with master.events.open("a") as f:
        f.write(f"{garbage}\n")
    for _ in range(2):
        with pytest.raises(BatchError, match=r"lsb\.events: line 3 "):
            reader.look()


def test_lines_are_counted_over_records_of_several_lines_and_over_looks(
    master: Mbatchd, tmp_path: Path
) -> None:
    master.submit(command="a\nb\nc")  # lines 2 to 4
    master.write("LOAD_INDEX", '2 "r15s" "r1m"')
    reader = Reader(tmp_path)
    reader.look()
    master.submit()  # line 6
    reader.look()
    with master.events.open("a") as f:
        f.write("garbage\n")
    with pytest.raises(BatchError, match=r"line 7 is no record: 'garbage'"):
        reader.look()


def test_kinds_that_are_not_known_change_nothing(master: Mbatchd, tmp_path: Path) -> None:
    master.submit()
    master.write("JOB_OF_TOMORROW", 'anything "at all" 1 2 3')
    master.write("LOAD_INDEX", '2 "r15s" "r1m"')
    assert counts(Reader(tmp_path).look()) == (1, 0)


def test_a_master_that_has_ended_is_an_error_until_it_starts_again(master: Mbatchd, tmp_path: Path) -> None:
    master.submit()
    reader = Reader(tmp_path)
    master.write("MBD_DIE", '"lavam" 0 0 ""')
    with pytest.raises(BatchError, match="mbatchd has ended"):
        reader.look()
    master.write("MBD_START", '"lavam" "volclava" 1 1')
    assert counts(reader.look()) == (1, 0)


def test_ten_thousand_jobs_that_vanish_at_once_are_a_look(master: Mbatchd, tmp_path: Path) -> None:
    job = master.submit(name="arr[1-10000]")
    reader = Reader(tmp_path)
    assert counts(reader.look()) == (10_000, 0)
    master.status(job, 32)
    assert counts(reader.look()) == (0, 0)


def test_accounts_are_followed_through_a_switch(master: Mbatchd, tmp_path: Path) -> None:
    log = AccountLog(tmp_path)
    master.finish(1)
    assert list(log.jobs()) == []  # from what is there now
    master.finish(2, ["wn1", "wn1", "wn2"])
    [job] = log.jobs()
    assert (job.id, job.user, job.hosts, job.requirements.cores) == ("2", "alice", ("wn1", "wn2"), 3)
    assert job.requirements.values == {("os", "debian12")}
    assert (job.ended - job.submitted).total_seconds() == 100
    master.finish(3)
    master.switch_accounts()
    master.finish(4, index=7)
    master.switch_accounts()
    master.finish(5)
    again = AccountLog(tmp_path, Position.parse(str(log.position)))
    assert [job.id for job in again.jobs()] == ["3", "4[7]", "5"]
    assert list(again.jobs()) == []
    os.truncate(master.accounts, 0)
    with pytest.raises(BatchError, match="records are missing"):
        list(again.jobs())


@pytest.mark.parametrize("text", ["", "1:2", "a:b:c", "1:2:" + "x" * 16])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no position"):
        Position.parse(text)


@given(st.text(max_size=100))
def test_no_text_raises_anything_but_a_bad_record(text: str) -> None:
    for read in (job_new, lambda fields: job_finish(fields, 1)):
        with pytest.raises(BadRecord):
            read(Fields(text))
    indices(text)


@given(st.lists(st.text(alphabet='a" \n\\é', max_size=10), min_size=1, max_size=10))
def test_strings_come_back_as_they_were_written(words: list[str]) -> None:
    from tests.batch.mbatchd import quoted

    fields = Fields(" ".join(map(quoted, words)))
    assert fields.strings() == words
