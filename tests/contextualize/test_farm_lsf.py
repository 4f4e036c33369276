"""A machine joins an LSF-compatible cluster and leaves it: the guest's own code against simulated programs, in two
dialects that nothing but their output tells apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contextualize.context import Farm
from contextualize.errors import Refused
from contextualize.farm import member
from contextualize.farm.driver import Node
from tests.contextualize.lsf_farm import BIN, SERVER, LsfFarm
from tests.simulators.units import owner

NODE = Node("lava1", "debian-12-worker", "20261125.1")
DIALECTS = ("volclava", "ibm")


@pytest.fixture(params=DIALECTS)
def lsf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LsfFarm]:
    lsf = LsfFarm(tmp_path, request.param)
    yield lsf
    for unit in list(lsf.machine.units.started):
        lsf.machine.units.stop(unit)


@pytest.fixture
def ibm(tmp_path: Path) -> Iterator[LsfFarm]:
    lsf = LsfFarm(tmp_path, "ibm")
    yield lsf
    for unit in list(lsf.machine.units.started):
        lsf.machine.units.stop(unit)


def context(timeout: int = 120, secrets: dict[str, bytes] | None = None, **settings: str) -> Farm:
    known = {"servers": "lavam,lavam2", "bindir": BIN, "serverdir": SERVER, **settings}
    return Farm("lsf", "batch", known, secrets or {}, timeout)


def join(lsf: LsfFarm, farm: Farm | None = None) -> member.Member:
    """Joins; in the dialect that wants it, somebody runs lsaddhost on the master after a while."""
    if lsf.state.path.read_text().find('"dialect": "volclava"') >= 0:
        lsf.machine.at[1008.0] = lambda: lsf.master("lsaddhost", "lava1")
    return member.join(lsf.machine, farm or context(), NODE)


def nothing_left(lsf: LsfFarm) -> bool:
    assert lsf.machine.units.alive() == []
    for unit in lsf.machine.units.started:
        assert lsf.machine.units.left(unit) == []
    assert not lsf.machine.exists("/etc/lsf.sudoers")
    assert not lsf.machine.exists(member.MEMORY)
    return True


def test_a_host_waits_until_both_lsload_and_bhosts_say_ok(
    lsf: LsfFarm, capsys: pytest.CaptureFixture[str]
) -> None:
    join(lsf)
    assert lsf.hosts()["lava1"] == "ok"
    steps = [
        line.split(": ", 2)[2] for line in capsys.readouterr().out.splitlines() if line.startswith("join: ")
    ]
    assert steps[0].startswith("waiting: lsload does not list lava1")
    assert steps[1:] == [
        "waiting: lsload says unavail, bhosts says unreach",
        "waiting: lsload says unavail, bhosts says ok",
        "open: lsload says ok, bhosts says ok",
    ]


def test_its_configuration_says_where_the_master_is_and_what_this_host_has(lsf: LsfFarm) -> None:
    join(lsf, context(image_resource="kiosk_image", resources="kiosk,gold"))
    conf = lsf.machine.read("/run/kiosk/lsf/lsf.conf").decode()
    assert 'LSF_SERVER_HOSTS="lavam lavam2"\n' in conf
    assert "LSF_GET_CONF=lim\n" in conf
    assert lsf.machine.read("/run/kiosk/lsf/hosts") == b"192.0.2.7 lava1\n"
    assert "(cs kiosk gold debian-12-worker*kiosk_image)" in lsf.said("lshosts")


def test_it_closes_waits_for_its_jobs_and_leaves(lsf: LsfFarm) -> None:
    join(lsf)
    lsf.add_job(1, "alice", "analysis of 3 PEND runs", "lava1")
    lsf.add_job(2, "bob", "arr[7]", "lava1", "lava1")
    lsf.add_job(2, "bob", "arr[8]", "lava1", status="USUSP")
    lsf.add_job(4, "bob", "elsewhere", "lavam")
    lsf.add_job(5, "bob", "waits", status="PEND")
    joined = member.load(lsf.machine)
    assert joined is not None
    assert joined.busy() == 3

    joined.close("its age limit")
    assert lsf.hosts()["lava1"] == "closed_Adm"
    assert joined.busy() == 3

    lsf.end_jobs()
    assert joined.busy() == 0
    joined.leave()
    assert nothing_left(lsf)
    assert lsf.hosts()["lavam"] == "ok"
    lsf.said("lsload")
    lsf.wait(90)
    assert "lava1                   unavail" in lsf.said("lsload", "-w")


@pytest.mark.parametrize("daemon", ["lim", "res", "sbatchd"])
def test_a_daemon_that_has_died_is_seen_although_its_unit_stays_active(lsf: LsfFarm, daemon: str) -> None:
    joined = join(lsf)
    joined.check()
    lsf.crash(daemon)
    with pytest.raises(Refused, match=rf"farm batch: LSF's {daemon} does not run"):
        joined.check()


def test_a_lock_of_our_own_where_the_dialect_has_one(lsf: LsfFarm) -> None:
    join(lsf).close("revoked")
    with lsf.state() as state:
        closed = state["hosts"]["lava1"]
        assert closed["closed"] == "kiosk: revoked"
        assert closed["lock"] == ("kiosk" if state["dialect"] == "ibm" else "")


def test_an_older_ibm_lsf_without_locks_is_closed_all_the_same(ibm: LsfFarm) -> None:
    ibm.change(old=True)
    join(ibm).close("age")
    assert ibm.hosts()["lava1"] == "closed_Adm"


@pytest.mark.parametrize("status", [0, 254, 255])
def test_no_jobs_is_what_is_printed_whatever_the_exit_status(lsf: LsfFarm, status: int) -> None:
    joined = join(lsf)
    lsf.change(no_jobs_status=status)
    assert joined.busy() == 0


def test_slots_that_bhosts_still_counts_are_jobs(lsf: LsfFarm) -> None:
    joined = join(lsf)
    lsf.add_job(1, "alice", "starting", "lava1", status="PROV")
    assert joined.busy() == 1


def test_a_master_that_does_not_answer_never_reads_as_no_jobs(lsf: LsfFarm) -> None:
    joined = join(lsf)
    lsf.change(up=False)
    with pytest.raises(
        Refused, match=r"whether lava1 has jobs can't be told: (batch system daemon not|Cannot conn)"
    ):
        joined.busy()
    with pytest.raises(Refused, match=r"lava1 was not closed"):
        joined.close("age")


def test_a_master_that_can_not_be_reached_is_named_within_the_timeout(lsf: LsfFarm) -> None:
    lsf.change(up=False)
    with pytest.raises(
        Refused, match=r"farm batch did not take this node within 48 s: lavam,lavam2 can't be reached"
    ):
        member.join(lsf.machine, context(60), NODE)
    assert lsf.machine.clock() <= 1060
    assert nothing_left(lsf)


def test_a_host_that_the_master_does_not_admit_is_told_what_is_missing(lsf: LsfFarm) -> None:
    lsf.change(admits=False)
    with pytest.raises(
        Refused, match=r"lsload does not list lava1 .does the master admit it, by LSF_HOST_ADDR_RANGE"
    ):
        member.join(lsf.machine, context(60), NODE)
    assert nothing_left(lsf)


def test_a_host_that_an_administrator_has_closed_waits_and_is_never_opened(lsf: LsfFarm) -> None:
    lsf.machine.at[1020.0] = lambda: lsf.master("badmin", "hclose", "lava1")
    lsf.machine.at[1022.0] = lambda: None
    with pytest.raises(
        Refused, match=r"an administrator has closed lava1, and has to open it \(badmin hopen lava1"
    ):
        join(lsf, context(90))
    assert nothing_left(lsf)
    assert not any("hopen" in argv for argv in lsf.machine.asked)


def test_it_joins_as_soon_as_the_administrator_has_opened_it(lsf: LsfFarm) -> None:
    lsf.machine.at[1020.0] = lambda: lsf.master("badmin", "hclose", "lava1")
    lsf.machine.at[1060.0] = lambda: lsf.master("badmin", "hopen", "lava1")
    join(lsf)
    assert lsf.machine.clock() < 1070


def test_a_host_whose_res_does_not_run_is_not_ok(lsf: LsfFarm) -> None:
    lsf.machine.path(f"{SERVER}/res").write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(Refused, match=r"lsload says -ok, bhosts says ok"):
        join(lsf, context(90))


def test_a_closing_that_is_denied_says_so(lsf: LsfFarm) -> None:
    joined = join(lsf)
    lsf.change(denied=["hclose"])
    with pytest.raises(Refused, match=r"User permission denied"):
        joined.close("age")


def test_a_host_that_was_removed_has_no_jobs_and_counts_as_closed(lsf: LsfFarm) -> None:
    joined = join(lsf)
    lsf.master("lsrmhost", "lava1")
    lsf.wait(60)
    joined.close("age")
    assert joined.busy() == 0


def test_where_it_is_asked_for_the_host_is_expired(ibm: LsfFarm) -> None:
    joined = join(ibm, context(removal="expire"))
    joined.close("age")
    joined.leave()
    assert "lava1" not in ibm.said("lshosts")
    assert nothing_left(ibm)


def test_a_removal_that_only_the_master_may_do_is_refused_after_all_was_stopped(lsf: LsfFarm) -> None:
    joined = join(lsf, context(removal="remove"))
    joined.close("age")
    with pytest.raises(Refused, match=r"`lsrmhost lava1` failed: ls_rmhost: Cannot locate master LIM now"):
        joined.leave()
    assert nothing_left(lsf)


def test_the_key_of_eauth_is_roots_alone_and_goes_with_the_host(lsf: LsfFarm) -> None:
    joined = join(lsf, context(secrets={"eauth_key": b"s3cretKey\n"}))
    assert lsf.machine.read("/etc/lsf.sudoers") == b"LSF_EAUTH_KEY=s3cretKey\n"
    assert owner(lsf.machine.path("/etc/lsf.sudoers")) == "root 0600"
    assert b"s3cretKey" not in lsf.machine.read(member.MEMORY)
    joined.leave()
    assert nothing_left(lsf)


def test_a_program_that_everybody_may_change_is_not_run(lsf: LsfFarm) -> None:
    lsf.machine.path(f"{SERVER}/sbatchd").chmod(0o777)
    with pytest.raises(Refused, match=r"/usr/lsf/etc/sbatchd is no program for root: others may change"):
        member.join(lsf.machine, context(), NODE)
    assert lsf.machine.units.started == []
    assert nothing_left(lsf)
