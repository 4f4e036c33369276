"""A machine joins an HTCondor pool and leaves it: the guest's own code against programs written from HTCondor's
documentation (its daemons could not be had)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contextualize.context import Farm
from contextualize.errors import Refused
from contextualize.farm import member
from contextualize.farm.driver import Node
from tests.contextualize.farm_machine import FarmMachine
from tests.simulators.condor import install
from tests.simulators.units import owner

NODE = Node("wn-1.example.org", "debian-12-worker", "20261125.1")
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJwb29sIn0.c2lnbmF0dXJl"


class Pool:
    """A pool, and a machine that may join it."""

    def __init__(self, home: Path) -> None:
        self.machine = FarmMachine(home / "root")
        self.file = home / "pool.json"
        install(self.machine.path("/opt/site/condor"), self.file, TOKEN)

    def change(self, **changes: Any) -> None:
        self.file.write_text(json.dumps({**json.loads(self.file.read_text()), **changes}))

    def slots(self) -> list[list[str]]:
        found: list[list[str]] = json.loads(self.file.read_text())["slots"].get(NODE.name, [])
        return found

    def join(self, token: str = TOKEN, timeout: int = 10, **settings: str) -> member.Member:
        known = {"collector": "cm.example.org:9618", "prefix": "/opt/site/condor", **settings}
        return member.join(
            self.machine, Farm("htcondor", "pool", known, {"token": token.encode()}, timeout), NODE
        )


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setattr(member, "GRACE", 0.0)
    pool = Pool(tmp_path)
    yield pool
    for unit in pool.machine.units.alive():
        pool.machine.units.stop(unit)


def nothing_left(pool: Pool) -> bool:
    assert pool.machine.units.alive() == []
    assert not pool.machine.exists("/run/kiosk/condor/tokens.d/pool")
    assert not pool.machine.exists(member.MEMORY)
    return True


def test_a_node_joins_ends_its_jobs_and_leaves(pool: Pool) -> None:
    joined = pool.join(features="HasGold")
    assert pool.slots() == [["Unclaimed", "Idle"]]
    assert joined.busy() == 0
    pool.change(slots={NODE.name: [["Unclaimed", "Idle"], ["Claimed", "Busy"]]})
    assert joined.busy() == 1
    joined.close("age")
    assert pool.slots() == [["Claimed", "Busy"]]
    assert joined.busy() == 1
    pool.change(slots={})
    assert joined.busy() == 0
    joined.leave()
    assert nothing_left(pool)


def test_its_configuration_names_the_pool_the_image_and_what_jobs_get(pool: Pool) -> None:
    pool.join(features="HasGold,HasSilver", cpus="4")
    text = pool.machine.read("/run/kiosk/condor/condor_config").decode()
    for line in (
        "CONDOR_HOST = cm.example.org:9618",
        "DAEMON_LIST = MASTER, STARTD",
        "MEMORY = 2488",
        "NUM_CPUS = 4",
        'KioskImage = "debian-12-worker"',
        "HasGold = True",
        "STARTD_ATTRS = KioskImage, KioskImageVersion, HasGold, HasSilver",
    ):
        assert f"\n{line}\n" in text, line
    assert TOKEN not in text
    assert owner(pool.machine.path("/run/kiosk/condor/tokens.d/pool")) == "root 0600"
    assert TOKEN.encode() not in pool.machine.read(member.MEMORY)


def test_another_pools_token_is_refused_with_what_the_startd_logged(pool: Pool) -> None:
    with pytest.raises(Refused, match=r"whose token it did not accept: .*SECMAN:2010") as refused:
        pool.join(token="another.pools.token-of-some-length")
    assert "another.pools" not in refused.value.reason
    assert nothing_left(pool)


def test_a_token_that_is_none_is_refused_without_showing_it(pool: Pool) -> None:
    with pytest.raises(Refused, match=r"the secret token is not a token") as refused:
        pool.join(token="two lines\nof something else")
    assert "two lines" not in refused.value.reason
    assert nothing_left(pool)


def test_a_collector_that_can_not_be_reached_is_named(pool: Pool) -> None:
    pool.change(up=False)
    with pytest.raises(
        Refused, match=r"within 2 s: the collector cm.example.org:9618 can't be reached: .*to connect"
    ):
        pool.join(timeout=3)
    assert nothing_left(pool)


def test_a_pool_that_could_not_be_told_is_told_at_the_next_try(pool: Pool) -> None:
    joined = pool.join()
    pool.change(up=False)
    with pytest.raises(Refused, match="may still know"):
        joined.leave(last=False)
    assert pool.machine.exists("/run/kiosk/condor/tokens.d/pool")
    pool.change(up=True)
    again = member.load(pool.machine)
    assert again is not None
    again.leave()
    assert pool.slots() == []
    assert nothing_left(pool)


def test_a_collector_that_does_not_answer_never_reads_as_no_jobs(pool: Pool) -> None:
    joined = pool.join()
    pool.change(up=False)
    with pytest.raises(Refused, match=r"whether wn-1.example.org has jobs can't be told"):
        joined.busy()
    pool.change(denied=True)
    with pytest.raises(Refused, match=r"was not closed: .*PERMISSION DENIED"):
        joined.close("age")
