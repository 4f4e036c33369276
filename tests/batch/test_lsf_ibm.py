"""IBM LSF 10.1, as others' parsers and its reference describe it: JSON, columns, locks, fair share.

None of this was recorded from a real IBM LSF: none was at hand. The shapes (every value a string, counts in JOBS,
QUEUES and HOSTS, lines before the JSON, `closed_Adm`, SHARE_INFO_FOR) are those that several published parsers expect.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kiosk.batch.api import Share
from kiosk.batch.ask import Commands
from kiosk.batch.lsf.driver import BHOSTS, Lsf
from kiosk.batch.lsf.jobs import FIELDS
from kiosk.errors import BatchError
from tests.batch.programs import Printed, calls, install

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
LSID = "IBM Spectrum LSF Standard 10.1.0.14, Jul 17 2023\nCopyright International Business Machines Corp.\n\n"
BJOBS = "bjobs -u all -o " + " ".join(FIELDS) + " -json"
WAITING = {
    "JOBID": "806290", "STAT": "PEND", "USER": "alice", "USER_GROUP": "atlas", "QUEUE": "grid", "NREQ_SLOT": "8",
    "RUNTIMELIMIT": "1440.0", "SUBMIT_TIME": "Dec 28 19:56", "EXEC_HOST": "-", "PEND_REASON": "Not enough slots;",
    "COMBINED_RESREQ": "select[type == any && os==debian12] order[r15s:pg] rusage[mem=16000.00] span[hosts=1] ",
}  # fmt: skip
RUNS = {
    **WAITING,
    "JOBID": "806291",
    "STAT": "RUN",
    "EXEC_HOST": "4*wn1:2*wn2",
    "SUBMIT_TIME": "Jan  2 11:00 2026",
}
SHARES = """
QUEUE: grid
  -- For the grid

PARAMETERS/STATISTICS
PRIO NICE STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN SSUSP USUSP  RSV PJOBS
 40   10  Open:Active     200    -    -    -     2     1     1     0     0    0     1
Interval for a host to accept two jobs is 0 seconds

SCHEDULING POLICIES:  FAIRSHARE
USER_SHARES:  [atlas, 60] [cms, 40]

SHARE_INFO_FOR: grid/
 USER/GROUP   SHARES  PRIORITY  STARTED  RESERVED  CPU_TIME  RUN_TIME   ADJUST  GPU_RUN_TIME
atlas             60      18.333      1        0         5.5     3600      0.000          0
cms               40      13.333      0        0         0.0        0      0.000          0

SHARE_INFO_FOR: grid/atlas/
 USER/GROUP   SHARES  PRIORITY  STARTED  RESERVED  CPU_TIME  RUN_TIME   ADJUST  GPU_RUN_TIME
alice              1       0.333      1        0         5.5     3600      0.000          0

USERS: all
HOSTS:  all
"""


def said(kind: str, count: str, *records: dict[str, str], number: int | None = None) -> str:
    return json.dumps(
        {"COMMAND": kind, count: len(records) if number is None else number, "RECORDS": records}, indent=2
    )


def seat(name: str, status: str, comments: str = "", used: int = 0) -> dict[str, str]:
    return {"HOST_NAME": name, "STATUS": status, "MAX": "8", "NJOBS": str(used), "RUN": str(used), "SSUSP": "0",
            "USUSP": "0", "RSV": "0", "COMMENTS": comments}  # fmt: skip


def cluster() -> dict[str, Printed]:
    return {
        "lsid": Printed(LSID + "My cluster name is c\nMy master name is m\n"),
        BJOBS: Printed(
            "Cannot connect to LSF. Please wait ...\n" + said("bjobs", "JOBS", WAITING, RUNS) + "\n"
        ),
        "bqueues -l -r": Printed(SHARES),
        f"bhosts -o {BHOSTS} comments -json": Printed(
            said(
                "bhosts",
                "HOSTS",
                seat("wn1", "ok", used=4),
                seat("wn2", "closed_Adm", '{"kiosk": "its age"}'),
            )
        ),
        "lshosts -w": Printed(
            "HOST_NAME  type  model  cpuf ncpus maxmem maxswp server RESOURCES\n"
            "wn1  X86_64  Intel_E5 60.0 8 31.2G 4G Dyn (kiosk)\nwn2  UNKNOWN UNKNOWN 1.0 - - - Dyn ()\n"
        ),
        "bhpart -r": Printed("", 255, "No host partition in the cluster"),
    }


def driver(folder: Path, commands: dict[str, Printed]) -> Lsf:
    return Lsf(Commands(install(folder, commands), 20), lambda: NOW)


def test_json_becomes_a_look(tmp_path: Path) -> None:
    lsf = driver(tmp_path, cluster())
    look = lsf.look()
    assert lsf.name == "lsf 10.1"
    [waits] = look.pending
    assert (waits.queue, waits.user, waits.group, waits.jobs, waits.held) == (
        "grid",
        "alice",
        "atlas",
        1,
        False,
    )
    assert (waits.requirements.cores, waits.requirements.one_host) == (8, True)
    assert (waits.requirements.memory, waits.requirements.run_limit) == (16000, 86400)
    assert waits.requirements.values == {("os", "debian12")}
    assert waits.oldest.year == 2025  # 28 December without a year, looked at on 2 January
    [runs] = look.running
    assert runs.jobs == 1
    first, second = look.hosts
    assert (first.status, first.slots, first.used, first.jobs) == ("open", 8, 4, 1)
    assert (first.memory, first.tags) == (31949, {"kiosk"})
    assert (second.status, second.jobs, second.mine, second.others) == ("closed", 1, True, False)
    assert (look.queues[0].priority, look.queues[0].limit) == (40, 200)
    assert look.shares == (
        Share("atlas", 60, "grid", None, 3600, 18.333), Share("cms", 40, "grid", None, 0, 13.333),
        Share("alice", 1, "grid", "atlas", 3600, 0.333),
    )  # fmt: skip


def test_fewer_records_than_counted_are_half_a_table(tmp_path: Path) -> None:
    cut = {BJOBS: Printed(said("bjobs", "JOBS", WAITING, number=2))}
    with pytest.raises(BatchError, match="says JOBS 2, but printed 1 of them"):
        driver(tmp_path, cluster() | cut).look()


def test_json_that_ends_in_the_middle_is_an_error(tmp_path: Path) -> None:
    cut = {BJOBS: Printed(said("bjobs", "JOBS", WAITING)[:-20])}
    with pytest.raises(BatchError, match="printed JSON that ends in the middle"):
        driver(tmp_path, cluster() | cut).look()


def test_an_error_within_the_json_is_one(tmp_path: Path) -> None:
    error = {BJOBS: Printed(said("bjobs", "JOBS", {"JOBID": "1", "ERROR": "Job <1> is not found"}))}
    with pytest.raises(BatchError, match="Job <1> is not found"):
        driver(tmp_path, cluster() | error).look()


def test_an_older_fix_pack_without_json_prints_columns(tmp_path: Path) -> None:
    commands = cluster()
    commands[BJOBS] = Printed("", 255, "bjobs: illegal option -- j\nUsage: bjobs [-A] ...")
    row = "^".join(WAITING[name.upper()] for name in FIELDS)
    columns = "bjobs -u all -o " + " ".join(FIELDS) + " delimiter='^'"
    commands[columns] = Printed("^".join(name.upper() for name in FIELDS) + f"\n{row}\n")
    commands.pop(f"bhosts -o {BHOSTS} comments -json")
    commands["bhosts -l"] = Printed(
        "HOST  wn1\nSTATUS CPUF JL/U MAX NJOBS RUN SSUSP USUSP RSV DISPATCH_WINDOW\nok 60.0 - 8 0 0 0 0 0 -\n\n"
    )
    lsf = driver(tmp_path, commands)
    [waits] = lsf.look().pending
    assert (waits.requirements.cores, waits.requirements.memory) == (8, 16000)
    asked = lsf.queries
    lsf.look()
    assert lsf.queries - asked == 4


def test_an_empty_list_is_no_jobs(tmp_path: Path) -> None:
    idle = Printed(SHARES.replace("     2     1     1", "     0     0     0"))
    for nothing in (
        Printed(said("bjobs", "JOBS")),
        Printed("No unfinished job found\n"),
        Printed("", 255, "No unfinished job found"),
    ):
        lsf = driver(tmp_path, cluster() | {BJOBS: nothing, "bqueues -l -r": idle})
        assert lsf.look().pending == ()


def test_hosts_close_and_open_by_a_lock_of_kiosks_own(tmp_path: Path) -> None:
    lsf = driver(tmp_path, cluster() | {"badmin *": Printed("Close <wn1> ...... done\n")})
    lsf.close("wn1", "its age")
    install(tmp_path, {"badmin *": Printed("Open <wn1> ...... done\n")})
    lsf.open("wn1")
    assert calls(tmp_path)[-2:] == [
        "badmin hclose -C kiosk: its age -i kiosk wn1",
        "badmin hopen -i kiosk wn1",
    ]


@pytest.mark.parametrize(
    "answer",
    [
        Printed("Host <wn1> is expired\n"), Printed("", 255, "lsadmin: expire: Unknown command"),
        Printed("", 255, "wn1: Unknown host name."),
    ],
)  # fmt: skip
def test_a_host_that_is_gone_expires_where_the_master_can_be_told(tmp_path: Path, answer: Printed) -> None:
    driver(tmp_path, cluster() | {"lsadmin *": answer}).remove("wn1")
    assert calls(tmp_path)[-1] == "lsadmin expire wn1"


def test_openlavas_shares_have_other_columns(tmp_path: Path) -> None:
    table = SHARES.replace("STARTED  RESERVED  CPU_TIME  RUN_TIME   ADJUST  GPU_RUN_TIME", "PEND RUN RAN")
    table = table.replace("      1        0         5.5     3600      0.000          0", " 5 1 7")
    table = table.replace("      0        0         0.0        0      0.000          0", " 0 0 0")
    shares = driver(tmp_path, cluster() | {"bqueues -l -r": Printed(table)}).look().shares
    assert shares[0] == Share("atlas", 60, "grid", None, None, 18.333)
    assert len(shares) == 3
