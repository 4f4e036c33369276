"""What a real volclava printed becomes a Look; what is no answer never does."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kiosk.batch.api import Look, Requirements
from kiosk.batch.ask import Commands
from kiosk.batch.lsf.driver import Lsf
from kiosk.errors import BatchError
from tests.batch.programs import Printed, calls, install, recorded

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def cluster() -> dict[str, Printed]:
    """The commands of a look, as recorded from one host with two jobs that run and eight that wait."""
    found: dict[str, Printed] = {}
    for name in ("lsid", "bjobs", "bqueues", "bhosts", "lshosts"):
        found |= recorded(f"{name}.txt")
    return found


def driver(folder: Path, commands: dict[str, Printed], timeout: float = 20.0, most: int = 1 << 30) -> Lsf:
    return Lsf(Commands(install(folder, commands), timeout, most), lambda: NOW)


def test_a_recorded_cluster_is_understood(tmp_path: Path) -> None:
    lsf = driver(tmp_path, cluster())
    look = lsf.look()
    assert lsf.name == "volclava 2.2"
    assert sum(group.jobs for group in look.pending) == 8
    assert sum(group.jobs for group in look.running) == 2
    by_memory = {group.requirements.memory: group for group in look.pending}
    assert by_memory[100].jobs == 2  # job3 and job4 reserve 100 MiB
    assert by_memory[None].jobs == 6  # pytask and five tasks of an array
    assert by_memory[100].requirements == Requirements(
        memory=100, text="select[type == local] order[r15s:pg] rusage[mem=100.00]"
    )
    assert {(g.queue, g.user, g.group, g.held) for g in look.pending} == {("normal", "alice", None, False)}
    assert by_memory[None].oldest == datetime(2026, 11, 23, 9, 46, 45).astimezone(UTC)
    [host] = look.hosts
    assert (host.name, host.status, host.slots, host.used, host.jobs) == ("vm", "open", 2, 2, 2)
    assert (host.memory, host.tags) == (24105, {"cs"})
    assert host.values == {("type", "linux"), ("model", "IntelI5")}
    assert not (host.mine or host.others)
    [queue] = look.queues
    assert (queue.name, queue.priority, queue.is_open, queue.limit) == ("normal", 30, True, None)
    assert look.shares == ()


def test_a_look_asks_once_of_each_kind(tmp_path: Path) -> None:
    lsf = driver(tmp_path, cluster())
    lsf.look()
    first = lsf.queries
    assert first == len(calls(tmp_path)) == 6  # lsid and a form of bqueues that is not understood, once only
    lsf.look()
    assert lsf.queries - first == 4
    assert calls(tmp_path)[-4:] == ["bjobs -l -u all", "bqueues -l", "bhosts -l", "lshosts -w"]


@pytest.mark.parametrize("status", [254, 255, 0])
def test_no_jobs_is_known_by_its_words_and_not_by_its_status(tmp_path: Path, status: int) -> None:
    idle = cluster()["bqueues -l"].text.replace(b"    10     8     2", b"     0     0     0")  # type: ignore[arg-type]
    nothing = {
        "bjobs -l -u all": Printed("", status, "No unfinished job found"),
        "bqueues -l": Printed(idle),
    }
    look = driver(tmp_path, cluster() | nothing).look()
    assert (look.pending, look.running) == ((), ())


def test_no_jobs_while_the_queues_count_some_is_an_error(tmp_path: Path) -> None:
    nothing = {"bjobs -l -u all": Printed("", 0, "No unfinished job found")}
    with pytest.raises(BatchError, match="bjobs lists no job, and bqueues counts 10"):
        driver(tmp_path, cluster() | nothing).look()


def half(printed: Printed) -> Printed:
    text = printed.text if isinstance(printed.text, bytes) else printed.text.encode()
    return replace(printed, text=text[: len(text) * 2 // 3].rsplit(b" ", 1)[0])


@pytest.mark.parametrize("command", ["bjobs -l -u all", "bqueues -l", "bhosts -l", "lshosts -w"])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(
            Printed("", 255, "batch system daemon not responding ... still trying"), id="unreachable"
        ),
        pytest.param(Printed("Cannot connect to LSF. Please wait ...\n", 255), id="please-wait"),
        pytest.param(Printed("", 0), id="nothing-and-no-error"),
        pytest.param(Printed("\x00\xff\xfe garbage \x1b[2J\n" * 40), id="garbage"),
        pytest.param(Printed("<html>502 Bad Gateway</html>\n"), id="another-program"),
        pytest.param(None, id="half-a-table"),
    ],
)
def test_what_is_no_answer_is_an_error_and_never_an_empty_look(
    tmp_path: Path, command: str, answer: Printed | None
) -> None:
    lsf = driver(tmp_path, cluster() | {command: answer or half(cluster()[command])})
    with pytest.raises(BatchError) as error:
        lsf.look()
    assert "\x1b" not in str(error.value)


def test_a_command_that_hangs_ends_the_look(tmp_path: Path) -> None:
    hanging = {"bjobs -l -u all": replace(cluster()["bjobs -l -u all"], sleeps=60)}
    with pytest.raises(BatchError, match=r"bjobs -l -u all: no answer within 0\.5 s"):
        driver(tmp_path, cluster() | hanging, timeout=0.5).look()


def test_a_command_that_prints_without_end_ends_the_look(tmp_path: Path) -> None:
    endless = {"bhosts -l": Printed(cluster()["bhosts -l"].text * 2000, repeat=100_000)}
    with pytest.raises(BatchError, match="printed more than 1 MiB"):
        driver(tmp_path, cluster() | endless, most=1 << 20).look()


def test_commands_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match=r"there is no program lsid in .*/nowhere"):
        Lsf(Commands(tmp_path / "nowhere")).look()


PARAGRAPH = """
Job <{id}>, Job Name <{name}>, User <alice>, Project <default>, Status <PEND>, Queue <normal>, Command <{name}>
Mon Nov 23 09:46:45: Submitted from host <vm>, CWD <$HOME>{more};
 PENDING REASONS:
 {reason};

 RESOURCE REQUIREMENT DETAILS:
 Combined: {text}
 Effective: -
------------------------------------------------------------------------------
"""


def paragraph(
    id: str = "3",
    name: str = "job",
    more: str = "",
    reason: str = "Job slot limit reached: 1 host",
    text: str = "",
) -> str:
    return PARAGRAPH.format(id=id, name=name, more=more, reason=reason, text=text)


def look_of(tmp_path: Path, *paragraphs: str) -> Look:
    return driver(tmp_path, cluster() | {"bjobs -l -u all": Printed("".join(paragraphs))}).look()


def test_slots_of_a_pending_job_are_read_from_the_long_form(tmp_path: Path) -> None:
    look = look_of(
        tmp_path,
        paragraph(more=", 4 Processors Requested, Requested Resources <span[hosts=1]>", text="span[hosts=1]"),
        paragraph(id="4", more=", 16 Processors Requested"),
    )
    assert [(g.requirements.cores, g.requirements.one_host) for g in look.pending] == [(4, True), (16, False)]


def test_a_grids_choice_of_an_operating_system_arrives(tmp_path: Path) -> None:
    look = look_of(tmp_path, paragraph(text="select[type == any && os==debian12] rusage[mem=2000]"))
    [group] = look.pending
    assert group.requirements.values == {("os", "debian12")}
    assert group.requirements.memory == 2000


@pytest.mark.parametrize(
    "reason",
    [
        "Job dependency condition not satisfied", "The start time of the job is not yet reached",
        "The user has reached his/her job slot limit", "The job array has reached its running element limit",
    ],
)  # fmt: skip
def test_a_job_that_no_node_would_help_is_held(tmp_path: Path, reason: str) -> None:
    [group] = look_of(tmp_path, paragraph(reason=reason)).pending
    assert group.held


def test_names_with_new_lines_and_terminal_escapes_harm_nothing(tmp_path: Path) -> None:
    evil = "a\n\nb\x1b[2J>, Status <RUN>\r" + "-" * 78
    look = look_of(
        tmp_path, paragraph(), paragraph(id="4", name=evil), paragraph(id="5", text="select[\x1b[31mx]")
    )
    assert sum(group.jobs for group in look.pending) == 3
    assert all("\x1b" not in group.requirements.text for group in look.pending)


def test_a_user_cannot_stop_the_looks_by_the_name_of_a_job(tmp_path: Path) -> None:
    evil = "a\n" + "-" * 78 + "\nJob <99>, nonsense\n" + "-" * 78 + "\n"
    look = look_of(tmp_path, paragraph(), paragraph(id="4", name=evil), paragraph(id="5"))
    assert sum(group.jobs for group in look.pending) >= 2


FOLDED = """
Job <101>, User <alice>, Project <default>, User Group <atlas>, Status <RUN>, Queue <normal>, Comm
                     and <sleep 60>, Share group charged </alice>
Mon Nov 23 09:46:45: Submitted from host <vm>, CWD <$HOME>, 4 Task(s), Requested Re
                     sources <span[hosts=1]>;

 RUNLIMIT
 60.0 min
Mon Nov 23 09:46:49: Started 4 Task(s) on Host(s) <wn1> <wn1> <wn1> <wn1>, Allocated 4 Sl
                     ot(s) on Host(s) <wn1> <wn1> <wn1> <wn1>, Execution Home </home/alice>;

 RESOURCE REQUIREMENT DETAILS:
 Combined: select[type == any] order[r15s:pg] span[hosts=1]
"""


def test_ibms_folded_lines_are_read(tmp_path: Path) -> None:
    look = look_of(tmp_path, FOLDED)
    [runs] = look.running
    assert (runs.user, runs.group, runs.jobs) == ("alice", "atlas", 1)
    assert (runs.requirements.cores, runs.requirements.one_host, runs.requirements.run_limit) == (
        4,
        True,
        3600,
    )


def test_ten_thousand_jobs_that_vanish_at_once_are_a_look(tmp_path: Path) -> None:
    many = "".join(paragraph(id=str(i)) for i in range(10_000))
    lsf = driver(tmp_path, cluster() | {"bjobs -l -u all": Printed(many)})
    assert sum(group.jobs for group in lsf.look().pending) == 10_000
    idle = cluster()["bqueues -l"].text.replace(b"    10     8     2", b"     0     0     0")  # type: ignore[arg-type]
    gone = {"bjobs -l -u all": Printed("No unfinished job found\n", 254), "bqueues -l": Printed(idle)}
    install(tmp_path, cluster() | gone)
    assert lsf.look().pending == ()


def test_a_host_that_was_renamed_is_another_host(tmp_path: Path) -> None:
    lsf = driver(tmp_path, cluster())
    assert [host.name for host in lsf.look().hosts] == ["vm"]
    renamed = {
        command: replace(printed, text=printed.text.replace(b"vm  ", b"wn1 ").replace(b"  vm\n", b"  wn1\n"))  # type: ignore[arg-type]
        for command, printed in cluster().items()
        if command.startswith(("bhosts", "lshosts"))
    }
    install(tmp_path, cluster() | renamed)
    [host] = lsf.look().hosts
    assert (host.name, host.memory, host.jobs) == ("wn1", 24105, 0)


LONG = """HOST  lava1
STATUS           CPUF  JL/U    MAX  NJOBS    RUN  SSUSP  USUSP    RSV DISPATCH_WINDOW
{status:<14} 100.00     -      2      {used}      {used}      0      0      0      -

 CURRENT LOAD USED FOR SCHEDULING:
              r15s   r1m  r15m    ut    pg    io   ls    it   tmp   swp   mem  slots
 Total         1.2   1.3   0.2   38%   0.0 3e+05    0 3e+05   75G    0M   23G      0

{comment}
"""


def long(status: str = "ok", comment: str = "", used: int = 0) -> Printed:
    line = f' ADMIN ACTION COMMENT: "{comment}"' if comment else ""
    return Printed(LONG.format(status=status, comment=line, used=used))


@pytest.mark.parametrize(
    ("status", "comment", "mine", "others"),
    [
        ("ok", "", False, False),
        ("closed_Full", "", False, False),
        ("closed_Adm", "kiosk: its age", True, False),
        ("closed_Adm", "broken fan", False, True),
        ("closed_Adm", "not for kiosk: broken", False, True),
        ("closed_Adm", "", False, True),
        ("closed_Lock", "", False, True),
    ],
)
def test_who_closed_a_host(tmp_path: Path, status: str, comment: str, mine: bool, others: bool) -> None:
    [host] = driver(tmp_path, cluster() | {"bhosts -l": long(status, comment)}).look().hosts
    assert (host.mine, host.others) == (mine, others)


CLOSE = {"badmin *": Printed("Close <lava1> ...... done\n")}


def test_a_host_is_closed_with_kiosks_mark(tmp_path: Path) -> None:
    driver(tmp_path, recorded("lsid.txt") | {"bhosts -l lava1": long()} | CLOSE).close(
        "lava1", 'its "age"\nlimit'
    )
    assert calls(tmp_path)[-1] == "badmin hclose -C kiosk: its 'age' limit lava1"


def test_a_host_that_an_administrator_closed_is_neither_closed_again_nor_opened(tmp_path: Path) -> None:
    commands = recorded("lsid.txt") | {"bhosts -l lava1": long("closed_Adm", "broken fan")} | CLOSE
    lsf = driver(tmp_path, commands)
    lsf.close("lava1", "its age")
    lsf.open("lava1")
    assert not any(call.startswith("badmin") for call in calls(tmp_path))


def test_a_host_that_kiosk_closed_is_opened_after_a_restart_too(tmp_path: Path) -> None:
    opened = {"badmin *": Printed("Open <lava1> ...... done : host remains closed due to job limit;  \n")}
    commands = recorded("lsid.txt") | {"bhosts -l lava1": long("closed_Adm", "kiosk: its age")} | opened
    driver(tmp_path, commands).open("lava1")
    assert calls(tmp_path)[-1] == "badmin hopen lava1"


def test_a_refused_badmin_is_an_error_that_says_who_may(tmp_path: Path) -> None:
    refused = {"badmin *": Printed("", 0, "Close <lava1> ...... User permission denied")}
    with pytest.raises(BatchError, match=r"User permission denied(.|\n)*administrator"):
        driver(tmp_path, recorded("lsid.txt") | {"bhosts -l lava1": long()} | refused).close("lava1", "age")


@pytest.mark.parametrize("name", ["-h", "all", "a b", "../x", "", "*"])
def test_what_is_no_name_of_a_host_reaches_no_command(tmp_path: Path, name: str) -> None:
    lsf = driver(tmp_path, recorded("lsid.txt") | {"bhosts *": long()} | CLOSE | {"lsrmhost *": Printed("")})
    for act in (lambda: lsf.close(name, "x"), lambda: lsf.open(name), lambda: lsf.remove(name)):
        with pytest.raises(BatchError, match="no host's name"):
            act()
    assert calls(tmp_path) == ["lsid "]


def test_a_host_that_is_gone_is_removed_and_a_busy_one_is_not(tmp_path: Path) -> None:
    removed = {"lsrmhost *": Printed("Host lava1 removed.\n")}
    lsf = driver(tmp_path, recorded("lsid.txt") | {"bhosts -l lava1": long("closed_Adm", "", 2)} | removed)
    with pytest.raises(BatchError, match="2 slots busy"):
        lsf.remove("lava1")
    install(tmp_path, {"bhosts -l lava1": long("unavail", "", 2)})
    lsf.remove("lava1")
    assert calls(tmp_path)[-1] == "lsrmhost lava1"
    install(tmp_path, {"bhosts -l lava1": Printed("", 255, "lava1: No such host/group")})
    lsf.remove("lava1")
    assert calls(tmp_path)[-1] == "bhosts -l lava1"
