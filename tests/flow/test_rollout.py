"""A roll-out from its first host to its last: hosts do what the verified document offers them, their reports are
what the driver looks at, and faults are met on the way."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kiosk.errors import BusyError, ExpiredError, NetworkError, PolicyError, UsageError
from kiosk.model.names import parse_ref
from kiosk.model.rollout import Rollout
from kiosk.publish import publish, signed
from kiosk.publish.prune import prune
from kiosk.publish.retention import Rule
from kiosk.rollout import orders, record, sign
from kiosk.rollout.driver import Look
from kiosk.rollout.plan import Plan
from kiosk.sync import sync
from kiosk.trust.client import TrustedRepository
from tests.attacks.mutable import Attacker, expire
from tests.failures.interrupted import killed_at
from tests.simulators.fleet import Fleet, Time
from tests.simulators.published import Kiosk, ask, build_image, ready, without_fsync
from tests.simulators.rolled import (
    WORKER,
    driver,
    ordered,
    plan_of,
    publish_with_rollout,
    reader,
    seen,
    started,
)

__all__ = ["without_fsync"]


@dataclass
class Farm:
    """A kiosk whose clocks stand still until they are told to go on, and hosts that follow it."""

    kiosk: Kiosk
    folder: Path
    time: Time = field(default_factory=Time)
    fleet: Fleet = field(init=False)

    def __post_init__(self) -> None:
        self.fleet = Fleet.of(self.time, 120)

    def look(self) -> Look | None:
        """The hosts follow and report; then a driver that has just been started looks once."""
        self.fleet.follow(self.offered())
        return next(iter(driver(self.kiosk, self.fleet, self.time).look()), None)

    def minutes(self, count: int) -> list[str]:
        """Time goes by with a look each minute; returns the moves that were made."""
        moves = []
        for _ in range(count):
            self.time.wait(60)
            look = self.look()
            if look is not None and look.step.move != "hold":
                moves.append(look.step.move)
        return moves

    def offered(self) -> Rollout | None:
        """What the verified metadata says."""
        return seen(self.kiosk, self.folder / "host")

    def share(self) -> int:
        """The share that is reached."""
        found = self.offered()
        assert found is not None
        return found.share


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    time = Time()
    return Farm(ready(tmp_path / "kiosk", now=time.now), tmp_path, time)


def test_from_the_canary_to_all(farm: Farm) -> None:
    publish_with_rollout(farm.kiosk, "2")
    farm.look()
    canary = farm.fleet.with_version("2")
    assert 1 <= canary <= 14, "about one in twenty"
    assert farm.minutes(29) == []
    assert farm.minutes(3) == ["advance"]
    assert farm.share() == 250
    farm.minutes(1)
    assert canary < farm.fleet.with_version("2") < 50
    assert farm.minutes(95) == ["advance", "advance", "done"]
    assert farm.fleet.with_version("2") == 120
    kept = record.read(record.path_of(farm.kiosk.settings, WORKER))
    assert kept is not None
    assert [e.share for e in kept.history if e.said.endswith("%") and "on to" in e.said] == [250, 500, 1000]


def test_a_version_that_fails_returns_all_hosts_to_the_one_before(farm: Farm) -> None:
    publish_with_rollout(farm.kiosk, "2", plan_of(stages=["25%", "100%"], hold="5m"))
    farm.minutes(3)
    assert farm.fleet.with_version("2") > 10
    farm.fleet.broken.add("2")  # its nodes fail, the hosts find
    look = farm.look()
    assert look is not None
    assert look.step.move == "abort"
    assert "hosts failed, more than 10%" in look.step.rollout.reason
    farm.minutes(30)
    assert farm.fleet.with_version("1") == 120
    assert farm.offered() == look.step.rollout, "and so it stays until a person starts anew"
    farm.fleet.broken.clear()
    assert started(farm.kiosk, "2").before == "1"


def test_hosts_that_fall_silent_and_reports_that_are_lost_hold_it(farm: Farm) -> None:
    publish_with_rollout(farm.kiosk, "2", plan_of(stages=["25%", "100%"], hold="15m"))
    farm.minutes(3)
    part = {h for h, v in farm.fleet.has.items() if v == "2"}
    farm.fleet.silent |= part
    assert farm.minutes(60) == [], "nothing moves an hour long"
    for host in part:
        del farm.fleet.heard[host]  # the server forgets them
    assert farm.minutes(60) == [], "hosts that took part before are still missing"
    farm.fleet.silent.clear()
    assert farm.minutes(12) == ["advance"]


def test_a_server_that_has_no_reports_holds_it(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_with_rollout(farm.kiosk, "2", plan_of(hold="0s"))

    def unreachable(_: Fleet) -> list[object]:
        raise NetworkError("the database can't be reached")

    with monkeypatch.context() as m:
        m.setattr(Fleet, "latest", unreachable)
        assert farm.minutes(3) == []
        look = farm.look()
        assert look is not None
        assert "can't be had" in look.step.said
    assert farm.minutes(1) == ["advance"]


def test_a_pause_holds_and_resume_goes_on(farm: Farm) -> None:
    publish_with_rollout(farm.kiosk, "2", plan_of(hold="2m"))
    farm.minutes(1)
    ordered(farm.kiosk, orders.pause)
    had = farm.fleet.with_version("2")
    assert farm.minutes(60) == []
    assert farm.fleet.with_version("2") == had
    with pytest.raises(PolicyError, match="is paused"):
        ordered(farm.kiosk, orders.pause)
    ordered(farm.kiosk, orders.resume)
    assert farm.minutes(4) == ["advance"]
    ordered(farm.kiosk, lambda r: orders.abort(r, "jobs fail"))
    assert farm.minutes(60) == []
    assert farm.fleet.with_version("1") == 120


def test_an_order_that_is_given_during_a_look_stands(farm: Farm, tmp_path: Path) -> None:
    """A command is asked whether the version is well, and takes its time; meanwhile a person aborts."""
    asked = tmp_path / "ask"
    asked.write_text("#!/bin/sh\nexit 0\n")
    asked.chmod(0o755)
    publish_with_rollout(farm.kiosk, "2", plan_of(hold="0s", ask=[str(asked)]))
    farm.fleet.follow(farm.offered())
    slow = driver(farm.kiosk, farm.fleet, farm.time)
    judged = slow._judged

    def meanwhile(*args: object) -> Look:
        found = judged(*args)  # type: ignore[arg-type]
        ordered(farm.kiosk, lambda r: orders.abort(r, "a person saw it"))
        return found

    slow._judged = meanwhile  # type: ignore[method-assign]
    assert slow.look() == []
    found = farm.offered()
    assert found is not None
    assert (found.state, found.reason) == ("aborted", "a person saw it")


@pytest.mark.parametrize(
    ("script", "move", "says"),
    [
        ("exit 0", "advance", "on to"),
        ("exit 1", "abort", "not well"),
        ("exit 2", "hold", "no answer"),
        ("kill -9 $$", "hold", "no answer"),
        ("exec sleep 60", "hold", "no answer"),
        (
            'test "$*" = "worker 2" && test "$ROLLOUT_BEFORE $ROLLOUT_SHARE" = "1 50" || exit 1',
            "advance",
            "on to",
        ),
    ],
)
def test_a_command_is_asked(farm: Farm, tmp_path: Path, script: str, move: str, says: str) -> None:
    asked = tmp_path / "ask"
    asked.write_text(f"#!/bin/sh\n{script}\n")
    asked.chmod(0o755)
    publish_with_rollout(farm.kiosk, "2", plan_of(hold="0s", ask=[str(asked)], ask_timeout="1s"))
    look = farm.look()
    assert look is not None
    assert look.step.move == move
    assert says in look.step.said
    asked.unlink()  # one that is gone says nothing
    if move == "hold":
        assert farm.minutes(2) == []


def test_clocks_that_are_set_and_machines_that_start_anew_do_not_shorten_a_stage(farm: Farm) -> None:
    publish_with_rollout(farm.kiosk, "2")
    farm.minutes(10)
    for _ in range(5):
        farm.time.wall = farm.time.wall.replace(hour=(farm.time.wall.hour + 5) % 24)
        farm.look()
        farm.time.reboot()
        farm.look()
    assert farm.share() == 50
    assert farm.minutes(20) == []
    assert farm.minutes(3) == ["advance"]


def test_the_driver_killed_at_every_step_goes_on_where_the_signed_document_is(farm: Farm) -> None:
    publish_with_rollout(farm.kiosk, "2", plan_of(stages=["10%", "50%", "100%"], hold="1m"))
    farm.minutes(1)
    shares = []
    for step in range(1, 30):
        home = farm.folder / f"killed-{step}"
        shutil.copytree(farm.kiosk.home, home)
        there = Farm(Kiosk(home, farm.kiosk.now), farm.folder / f"hosts-{step}", farm.time)
        farm.time.wait(60)
        there.fleet.follow(there.offered())
        killed = killed_at(step, lambda t=there: driver(t.kiosk, t.fleet, t.time).look())  # type: ignore[misc]
        shares.append(there.share())
        assert shares[-1] in (100, 500)
        moves = there.minutes(12)
        assert moves == ["advance"] * (1 + (shares[-1] == 100)) + ["done"], "no stage is lost or skipped"
        assert there.fleet.with_version("2") == 120
        shutil.rmtree(home)
        farm.time.wait(-60)
        if not killed:
            break
    assert shares == sorted(shares), "the old share up to some step, the next from then on"
    assert set(shares) == {100, 500}


def test_publishing_killed_at_every_step_never_offers_a_version_to_all(tmp_path: Path) -> None:
    seen_states = set()
    for step in range(1, 60):
        kiosk = ready(tmp_path / f"k{step}")
        folder = build_image(kiosk.settings, version="2")
        begin = sign.together(kiosk.settings, lambda _: Plan())
        killed = killed_at(step, lambda k=kiosk, f=folder, b=begin: publish(k.settings, f, ask, together=b))  # type: ignore[misc]
        host = reader(kiosk, tmp_path / f"r{step}")
        seen_states.add((str(host.newest(WORKER).version), host.rollout(WORKER) is not None))
        publish(kiosk.settings, folder, ask, together=begin)
        found = reader(kiosk, tmp_path / f"r{step}").rollout(WORKER)
        assert found is not None
        assert (found.version, found.before, found.share) == ("2", "1", 50)
        shutil.rmtree(kiosk.home)
        if not killed:
            break
    assert seen_states == {("1", False), ("2", True)}


def test_a_newer_version_without_a_roll_out_reaches_nobody_until_one_is_started(farm: Farm) -> None:
    publish_with_rollout(farm.kiosk, "2", plan_of(stages=["100%"], hold="0s"))
    with pytest.raises(PolicyError, match="worker@2 is being rolled out now"):
        publish_with_rollout(farm.kiosk, "3")
    farm.minutes(3)
    farm.kiosk.image(version="3")
    farm.minutes(3)
    assert farm.fleet.with_version("2") == 120
    assert started(farm.kiosk, "3").before == "2"
    writer = farm.kiosk.repository()
    with writer.locked(), pytest.raises(PolicyError, match="without its roll-out"):
        sign.end(farm.kiosk.settings, writer, WORKER)
    ordered(farm.kiosk, orders.finish)
    with writer.locked():
        sign.end(farm.kiosk.settings, writer, WORKER)
    assert farm.offered() is None


def test_old_versions_that_a_roll_out_names_are_not_withdrawn(farm: Farm) -> None:
    from datetime import timedelta

    publish_with_rollout(farm.kiosk, "2", plan_of(stages=["100%"], hold="0s"))
    farm.minutes(3)
    for version in ("3", "4", "5"):
        farm.kiosk.image(version=version)
    done = prune(farm.kiosk.settings, ask, Rule(keep=1), grace=timedelta(0), now=farm.kiosk.now)
    assert done.withdrawn == ("worker@3", "worker@4")
    farm.fleet.follow(farm.offered())
    assert [str(r) for r in reader(farm.kiosk, farm.folder / "other").versions(WORKER)] == [
        "worker@1",
        "worker@2",
        "worker@5",
    ]
    assert farm.offered() is not None, "its document was not removed either"


def test_a_layer_is_rolled_out_as_an_image_is(farm: Farm) -> None:
    layer = parse_ref("site/a/base@2")
    farm.kiosk.layer("site/a", version="2")
    writer = farm.kiosk.repository()
    with writer.locked():
        sign.start(farm.kiosk.settings, writer, layer, Plan(), recall=True)
        assert {r.name for _, r in signed.rollouts(writer)} == {"site/a/base"}
    host = reader(farm.kiosk, farm.folder / "host")
    found = host.rollout(parse_ref("site/a/base"))
    assert found is not None
    assert (found.version, found.before) == ("2", "1")
    assert host.rollout(WORKER) is None


def test_a_mirror_has_the_roll_out_and_both_its_versions(farm: Farm) -> None:
    from kiosk.mirror.copy import mirror

    publish_with_rollout(farm.kiosk, "2", plan_of(stages=["100%"], hold="0s"))
    farm.kiosk.image(version="3")
    copy = farm.folder / "mirror"
    mirror(farm.kiosk.settings, farm.kiosk.settings.repository, copy, newest=1)
    host = TrustedRepository(farm.folder / "far", copy, farm.kiosk.root.read_bytes())
    assert host.rollout(WORKER) == farm.offered()
    for version in ("1", "2", "3"):
        assert host.manifest(parse_ref(f"worker@{version}")).version == version


def test_a_driver_that_finds_the_repository_locked_moves_nothing(farm: Farm) -> None:
    publish_with_rollout(farm.kiosk, "2", plan_of(hold="0s"))
    with farm.kiosk.repository().locked(), pytest.raises(BusyError):
        farm.look()
    assert farm.share() == 50
    assert record.path_of(farm.kiosk.settings, WORKER).exists()


def test_kiosk_sync_goes_by_the_roll_out_forward_and_back(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    kiosk = farm.kiosk
    kiosk.sync("worker")
    plan = plan_of(stages=["0%", "100%"], hosts=["canary.example.org"], hold="0s")
    publish_with_rollout(kiosk, "2", plan)

    def current() -> str:
        return kiosk.held()["images/worker/current"]

    for names in ((), ("worker",)):
        assert kiosk.sync(*names).failure is None
        assert current() == "1"
    monkeypatch.setattr("socket.gethostname", lambda: "Canary.example.org")
    assert kiosk.sync().failure is None
    assert current() == "2"
    ordered(kiosk, lambda r: orders.abort(r, "jobs fail"))
    done = kiosk.sync()
    assert done.failure is None
    assert ("worker", "1", "switched") in [(r.name, r.version, r.state) for r in done.results]
    assert current() == "1"
    assert kiosk.sync("worker@2").failure is None, "a person may still name a version"
    assert current() == "2"


def test_kiosk_sync_has_the_place_in_a_roll_out_that_the_agent_has(farm: Farm, tmp_path: Path) -> None:
    kiosk = farm.kiosk
    kiosk.sync("worker")
    publish_with_rollout(kiosk, "2", plan_of(stages=["0%", "100%"], hosts=["canary"], hold="0s"))
    file = tmp_path / "agent.toml"
    file.write_text('poll = 60\nhost = "canary"\n')
    named = kiosk.hypervisor.model_copy(update={"agent": {"host": "other"}})
    assert sync(named).failure is None
    assert kiosk.held()["images/worker/current"] == "1"
    with pytest.raises(UsageError, match="configured twice"):
        sync(named, agent_file=file)
    assert sync(kiosk.hypervisor, agent_file=file).failure is None
    assert kiosk.held()["images/worker/current"] == "2"
    file.write_text('host = "Not A Name"\n')
    with pytest.raises(UsageError, match="host"):
        sync(kiosk.hypervisor, agent_file=file)


def test_a_host_that_can_not_tell_its_version_leaves_all_as_it_is(farm: Farm) -> None:
    kiosk = farm.kiosk
    kiosk.sync()
    before = kiosk.held()
    publish_with_rollout(kiosk, "2")
    expired = Attacker(kiosk)
    expired.edit("rollouts", ["rollouts"], expire)
    expired.chain("rollouts")
    assert type(kiosk.sync("worker").failure) is ExpiredError
    assert type(kiosk.sync().failure) is ExpiredError
    assert kiosk.held() == before
    kiosk.resign()
    assert kiosk.sync("worker").failure is None


def test_a_first_version_is_on_no_host_outside_of_its_share(farm: Farm) -> None:
    kiosk = farm.kiosk
    folder = build_image(kiosk.settings, name="new")
    plan = plan_of(stages=["0%", "100%"], hosts=["nobody"])
    publish(kiosk.settings, folder, ask, together=sign.together(kiosk.settings, lambda _: plan))
    done = kiosk.sync("new")
    assert done.failure is None
    assert [(r.name, r.state) for r in done.results] == [("new", "not yet")]
