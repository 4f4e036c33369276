"""The driver against a simulated cluster, of three dialects: the same story, told by other commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kiosk.batch.ask import Commands
from kiosk.batch.lsf.driver import Lsf
from kiosk.batch.lsf.follow import EventLog, Followed
from kiosk.errors import BatchError
from tests.batch.mbatchd import Mbatchd
from tests.simulators.lsf import programs
from tests.simulators.lsf.cluster import DAEMONS, State, host


@pytest.fixture(params=["volclava", "ibm", "old ibm"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> State:
    state = State.create(tmp_path / "state", request.param.split()[-1])
    with state() as now:
        now["old"] = request.param.startswith("old")  # no JSON, no locks
        for name in ("lava1", "lava2"):
            entry = host(now, name)
            entry.update(admitted=0.0, started=dict.fromkeys(DAEMONS, 0.0), resources=["kiosk"])
        now["jobs"] = [
            {"id": 1, "user": "alice", "status": "RUN", "name": "a1", "hosts": ["lava1", "lava1"], "slots": 2},
            {"id": 2, "user": "bob", "status": "PEND", "name": "b1", "hosts": [], "slots": 4,
             "text": "select[os==debian12] rusage[mem=2000] span[hosts=1]"},
            {"id": 3, "user": "bob", "status": "PSUSP", "name": "hold", "hosts": []},
        ]  # fmt: skip
    return state


@pytest.fixture
def restarted(state: State, tmp_path: Path) -> Callable[[], Lsf]:
    """A driver that knows nothing yet."""
    programs.install(tmp_path / "bin", tmp_path / "etc", state)
    return lambda: Lsf(Commands(tmp_path / "bin", 30))


def seat(lsf: Lsf, name: str = "lava1") -> tuple[str, bool, bool]:
    [found] = [host for host in lsf.look().hosts if host.name == name]
    return found.status, found.mine, found.others


def test_all_dialects_give_the_same_look(state: State, restarted: Callable[[], Lsf]) -> None:
    look = restarted().look()
    waits = {(g.user, g.held): g for g in look.pending}
    assert set(waits) == {("bob", False), ("bob", True)}
    wanted = waits["bob", False].requirements
    assert (wanted.cores, wanted.one_host, wanted.memory) == (4, True, 2000)
    assert wanted.values == {("os", "debian12")}
    assert [(g.user, g.jobs, g.requirements.cores) for g in look.running] == [("alice", 1, 2)]
    hosts = {h.name: h for h in look.hosts}
    assert set(hosts) == {"lavam", "lava1", "lava2"}
    assert (hosts["lava1"].used, hosts["lava1"].slots, hosts["lava1"].jobs) == (2, 2, 1)
    assert (hosts["lava2"].tags, hosts["lava2"].memory) == ({"cs", "kiosk"}, 24105)


def test_kiosk_opens_what_it_closed_even_after_a_restart(restarted: Callable[[], Lsf]) -> None:
    restarted().close("lava1", "its age limit")
    assert seat(restarted()) == ("closed", True, False)
    restarted().open("lava1")
    assert seat(restarted()) == ("open", False, False)


def test_what_an_administrator_closed_stays_closed(state: State, restarted: Callable[[], Lsf]) -> None:
    with state() as now:
        programs.badmin(now, ["hclose", "-C", "broken fan", "lava1"])
    lsf = restarted()
    lsf.close("lava1", "its age limit")
    lsf.open("lava1")
    assert seat(lsf) == ("closed", False, True)


def test_a_host_that_is_gone_is_removed(state: State, restarted: Callable[[], Lsf]) -> None:
    with state() as now:
        now["jobs"] = now["jobs"][1:]
        now["hosts"]["lava1"]["started"] = {}
        now["hosts"]["lava1"]["admitted"] = None
    lsf = restarted()
    lsf.remove("lava2")
    with state() as now:
        assert "removed" in now["hosts"]["lava2"]
        now["now"] += 100
    assert "lava2" not in {h.name for h in lsf.look().hosts}


def test_a_master_that_is_away_is_an_error(state: State, restarted: Callable[[], Lsf]) -> None:
    lsf = restarted()
    lsf.look()
    with state() as now:
        now["up"] = False
    with pytest.raises(BatchError, match="does not reach the batch system"):
        lsf.look()
    with pytest.raises(BatchError, match="does not reach the batch system"):
        restarted().look()


def test_jobs_by_the_log_and_hosts_by_asking(
    state: State, restarted: Callable[[], Lsf], tmp_path: Path
) -> None:
    master = Mbatchd(tmp_path)
    master.start(master.submit(), ["lava1"])
    master.submit()
    driver = restarted()
    followed = Followed(EventLog(tmp_path), driver, asks=True)
    look = followed.look()
    assert (len(look.pending), len(look.running)) == (1, 1)
    assert {h.name: (h.slots, h.jobs) for h in look.hosts} == {
        "lavam": (2, 0),
        "lava1": (2, 1),
        "lava2": (2, 0),
    }
    assert [queue.priority for queue in look.queues] == [30]
    before = followed.queries
    followed.look()
    assert followed.queries - before == 3
