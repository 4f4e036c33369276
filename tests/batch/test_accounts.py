"""Jobs of the past, from each kind of accounts; a line that can't be read is named."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from kiosk.batch.accounts.read import accounts
from kiosk.batch.api import Requirements
from kiosk.errors import BatchError
from tests.batch.mbatchd import Mbatchd

SWF = """; Version: 2.2
; UnixStartTime: 1027839845
;
    1        0 308434  31405   30  31405    -1   30  37980    -1  1   1   1  -1 -1  1 -1 -1
   16   347726      5     -1    2 240379    -1    2 345600  1048576 -1   5   1  -1 3  1 -1 -1
"""
SACCT = """JobID|User|Account|Partition|ReqCPUS|NNodes|ReqMem|Timelimit|Submit|Start|End|NodeList|Constraints
12|alice|atlas|grid|4|1|8000M|1-00:00:00|1790000000|1790000100|1790003700|wn1|os=debian12&kiosk
12.batch||atlas||4|1||||1790000100|1790003700|wn1|
13_4|bob||main|8|2|1Gc|UNLIMITED|1790000000|Unknown|1790000050|None assigned|
14|bob||main|8|2|4Gn|10:00|1790000000|1790000100|1790000200|n[1-2]|
15|bob||main|1|1||10:00|1790000000|1790000100|Unknown|n1|
"""


def test_the_standard_workload_format(tmp_path: Path) -> None:
    path = tmp_path / "trace.swf"
    path.write_text(SWF)
    first, second = accounts(path, cores_per_host=2).jobs()
    assert (first.id, first.queue, first.user, first.group) == ("1", "q", "u1", "g1")
    assert first.submitted == datetime.fromtimestamp(1027839845, UTC)
    assert first.started is not None
    assert (first.started - first.submitted).total_seconds() == 308434
    assert (first.ended - first.started).total_seconds() == 31405
    assert first.requirements == Requirements(30, False, None, 37980)
    assert second.started is None
    assert second.requirements == Requirements(2, True, 2048, 345600)
    assert second.queue == "q3"


def test_sacct(tmp_path: Path) -> None:
    path = tmp_path / "sacct.txt"
    path.write_text(SACCT)
    first, second, third = accounts(path).jobs()
    assert (first.id, first.queue, first.user, first.group, first.hosts) == (
        "12",
        "grid",
        "alice",
        "atlas",
        ("wn1",),
    )
    assert first.requirements == Requirements(
        4, True, 8000, 86400, frozenset({"kiosk"}), frozenset({("os", "debian12")}), "os=debian12&kiosk"
    )
    assert (second.started, second.hosts, second.group) == (None, (), None)
    assert second.requirements == Requirements(8, False, 1024, None)
    assert (third.requirements.memory, third.hosts) == (1024, ("n1", "n2"))  # two nodes of 4 GiB, 8 cores


def test_lsb_acct(tmp_path: Path) -> None:
    master = Mbatchd(tmp_path, ibm=True)
    master.finish(7, ["wn1"], index=3)
    [job] = accounts(master.accounts).jobs()
    assert (job.id, job.queue, job.requirements.memory) == ("7[3]", "normal", 500)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SWF + "1 2 3\n", "line 6 has 3 numbers instead of 18"),
        (SWF + "a b c\n", "line 6 is not all numbers"),
        (SWF + "1 nan" + " 1" * 16 + "\n", "line 6 has 18 numbers"),
        (SACCT + "16|eve\n", r"line 7 has 2 columns instead of 13(.|\n)*JobName"),
        (
            SACCT + SACCT.splitlines()[1].replace("1790000000", "yesterday") + "\n",
            "line 7 has a time that is none",
        ),
        ("JobID|User\n1|2\n", "line 1 is no header of sacct's: it lacks Partition, Submit, End"),
        ('"JOB_FINISH" "10.1" 1790000000 1 2 3\n', "line 1 can't be understood"),
        ("some text\n", "line 1 is of no accounts that are known"),
        ("", "is empty"),
    ],
)
def test_a_line_that_can_not_be_read_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "accounts"
    path.write_text(text)
    with pytest.raises(BatchError, match=message) as error:
        list(accounts(path).jobs())
    assert str(path) in str(error.value)


def test_accounts_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match=r"nothing: can't be read: No such file"):
        accounts(tmp_path / "nothing")


def test_jobs_are_read_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "trace.swf"
    path.write_text(SWF + "what is wrong\n")
    jobs = accounts(path).jobs()
    assert [next(jobs).id, next(jobs).id] == ["1", "16"]
