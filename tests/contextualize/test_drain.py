"""Draining: no job is lost before the limit, no doubt reads as "no jobs", and it goes on after every interruption."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from contextualize.errors import Refused
from contextualize.life import drain, plan, requests, state
from contextualize.life.drain import Drain
from contextualize.life.plan import Plan
from contextualize.machine import Machine
from contextualize.stages.report import CONSOLE, PORT, Reporter
from tests.contextualize.guest import NODE
from tests.contextualize.machines import Clocked, Seat

DAY = 86400
OFF = ("systemctl", "poweroff", "--no-block")


class Node:
    """A node that was ready: a machine with a plan, and perhaps a member of a farm."""

    def __init__(self, home: Path, seat: Seat | None, *, drains: int = DAY, patience: int = 600) -> None:
        self.machine = Clocked(home / "root", home / "context")
        self.seat = seat
        self.machine.set_uptime(1000)
        for path in (CONSOLE, PORT):
            self.machine.replace(path, b"")
        plan.write(self.machine, Plan(NODE, "worker", "1", (), "cmdline", drains, patience))

    def load(self, _machine: Machine) -> Seat | None:
        gone = self.seat is None or any(word.startswith("leave") for word in self.seat.said)
        return None if gone else self.seat

    def drain(self, reason: str | None = None) -> int:
        return Drain(self.machine, Reporter(self.machine, patience=1), self.load).run(reason)

    def asked(self) -> list[tuple[str, ...]]:
        """What systemd was asked for, but for timers."""
        return [words for words in self.machine.asked if words[0] != "systemd-run"]

    def reports(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.machine.read(PORT).splitlines()]

    def life(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.machine.read(state.PUBLIC))
        return found


Make = Callable[..., Node]


@pytest.fixture
def node(tmp_path: Path) -> Make:
    return lambda seat=None, **more: Node(tmp_path, seat, **more)


def test_without_a_farm_there_is_nothing_to_wait_for(node: Make) -> None:
    one = node()
    assert one.drain("a test") == 0
    assert one.asked() == [OFF]
    assert [(r["state"], r["reason"]) for r in one.reports()][-1] == ("stopping", "a test")
    assert one.reports()[0]["state"] == "draining"
    assert (one.life()["state"], one.life()["reason"]) == ("stopping", "a test")
    assert stat.S_IMODE(one.machine.path(state.PUBLIC).stat().st_mode) == 0o644
    assert stat.S_IMODE(one.machine.path(state.STATE).stat().st_mode) == 0o600


def test_running_jobs_end_before_the_machine_does(node: Make) -> None:
    seat = Seat(jobs=2)
    one = node(seat)
    one.machine.later = [(1100, lambda: setattr(seat, "jobs", 1)), (1200, lambda: setattr(seat, "jobs", 0))]
    assert one.drain("a test") == 0
    assert one.machine.uptime() < 1300
    assert (seat.said[0], seat.said[-1]) == ("close: a test", "leave: a test")
    assert {r.get("jobs") for r in one.reports()} >= {2, 1, 0}
    assert one.reports()[-1] == {"schema": "kiosk.report/1", "state": "stopping", "reason": "a test"}


def test_jobs_that_run_at_the_limit_are_counted_in_the_report(node: Make) -> None:
    one = node(Seat(jobs=3))
    assert one.drain("a test") == 0
    assert one.machine.uptime() == pytest.approx(1600, abs=1)
    assert one.reports()[-1]["reason"] == "a test; 3 jobs still ran"
    assert one.asked() == [OFF]


@pytest.mark.parametrize("deaf", ["close", "busy"])
def test_a_master_that_does_not_answer_is_not_a_node_without_jobs(node: Make, deaf: str) -> None:
    seat = Seat(jobs=0)
    seat.deaf = {deaf}
    one = node(seat)
    assert one.drain("a test") == 0
    assert one.machine.uptime() == pytest.approx(1600, abs=1)


def test_a_master_that_comes_back_is_believed_again(node: Make) -> None:
    seat = Seat(jobs=0)
    seat.deaf = {"close", "busy"}
    one = node(seat)
    one.machine.later = [(1200, seat.deaf.clear)]
    assert one.drain("a test") == 0
    assert 1200 <= one.machine.uptime() < 1300


def test_a_farm_that_can_not_be_left_does_not_keep_the_machine(node: Make) -> None:
    seat = Seat(jobs=0)
    seat.deaf = {"leave"}
    one = node(seat)
    assert one.drain("a test") == 0
    assert one.asked() == [OFF]
    assert one.machine.uptime() < 1100
    assert seat.last == [False, False, True]


def test_a_membership_that_can_not_be_read_is_waited_for(node: Make) -> None:
    one = node()

    def broken(_machine: Machine) -> Seat | None:
        raise Refused("farm.json: not valid JSON")

    assert Drain(one.machine, Reporter(one.machine, patience=1), broken).run("a test") == 0
    assert one.machine.uptime() == pytest.approx(1600, abs=5)
    assert one.reports()[-1]["reason"] == "a test; nobody could tell whether jobs still ran"


def test_the_first_reason_stands_and_later_ones_are_remembered(node: Make) -> None:
    seat = Seat(jobs=1)
    one = node(seat)
    one.machine.later = [
        (1050, lambda: requests.record(one.machine, "second thoughts\nkiosk: ready")),
        (1060, lambda: requests.record(one.machine, "second thoughts\nkiosk: ready")),
        (1200, lambda: setattr(seat, "jobs", 0)),
    ]
    assert one.drain("first") == 0
    assert one.life()["reason"] == "first"
    assert one.life()["asked"] == ["second thoughts kiosk: ready"]
    assert [r["reason"] for r in one.reports() if r["state"] == "stopping"] == ["first"]


def test_at_its_age_it_drains_because_of_its_age(node: Make) -> None:
    one = node(drains=1000)
    assert one.drain() == 0
    assert str(one.reports()[0]["reason"]).startswith("its age: 1000 s")
    one = node(drains=DAY)
    one.machine.path(state.STATE).unlink()
    assert one.drain() == 0
    assert "systemctl start kiosk-drain" in str(one.reports()[-1]["reason"])


def test_an_early_drain_brings_the_shutdown_time_forward(node: Make) -> None:
    one = node(Seat(jobs=1), patience=600)
    state.publish(one.machine, plan.load(one.machine))
    before = int(one.machine.read("/run/kiosk/machinefeatures/shutdowntime"))
    assert one.life()["stops_uptime"] == DAY + 600
    assert one.drain("a test") == 0
    after = int(one.machine.read("/run/kiosk/machinefeatures/shutdowntime"))
    assert before - after == pytest.approx(DAY - 400, abs=5)


def test_an_early_drain_has_an_end_of_its_own_whatever_becomes_of_it(node: Make) -> None:
    one = node(Seat(jobs=1), patience=600)
    assert one.drain("a test") == 0
    (timer,) = [words for words in one.machine.asked if words[0] == "systemd-run"]
    assert timer[1:4] == ("--unit=kiosk-drain-end", "--on-active=900", "--timer-property=AccuracySec=1s")
    assert timer[4:] == ("systemctl", "start", "--no-block", "kiosk-stop.service")
    aged = node(Seat(jobs=1), drains=1000)
    aged.machine.path(state.STATE).unlink()
    aged.machine.set_uptime(1000)
    assert aged.drain() == 0
    assert aged.asked() == aged.machine.asked


class Killed(BaseException):
    """Stands for kill -9: nothing of the process runs after it."""


@pytest.mark.parametrize("after", range(14))
def test_it_goes_on_wherever_it_was_killed(node: Make, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each of its writes in turn; then it is started again, as systemd does."""
    seat = Seat(jobs=1)
    one = node(seat)
    one.machine.later = [(1100, lambda: setattr(seat, "jobs", 0))]
    whole, count = Machine.replace, [0]

    def replace(self: Machine, absolute: str, data: bytes, mode: int = 0o644) -> None:
        count[0] += 1
        if count[0] == after + 1:
            raise Killed
        whole(self, absolute, data, mode)

    monkeypatch.setattr(Machine, "replace", replace)
    try:
        assert one.drain("a test") == 0
    except Killed:
        assert one.drain() == 0
    assert one.asked() == [OFF]
    reason = "a test" if after else "asked for on the machine (systemctl start kiosk-drain)"
    assert one.reports()[-1]["reason"] == reason
    assert [word for word in seat.said if word.startswith("leave")] == [f"leave: {reason}"]
    assert seat.said.index(f"close: {reason}") < seat.said.index(f"leave: {reason}")
    assert seat.said[-2] == "busy"


def test_a_real_process_killed_while_it_waits_goes_on_with_its_reason(node: Make) -> None:
    one = node(Seat(jobs=1))
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.contextualize.machines import Clocked, Seat\n"
        "from contextualize.life.drain import Drain; from contextualize.stages.report import Reporter\n"
        "class Waits(Clocked):\n"
        "    def sleep(self, seconds): print('waits', flush=True); sys.stdin.read()\n"
        "machine = Waits(Path(sys.argv[1]), Path(sys.argv[1])); seat = Seat(jobs=1)\n"
        "Drain(machine, Reporter(machine), lambda _: seat).run('from the first process')\n"
    )
    words = [sys.executable, "-c", script, str(one.machine.root)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line == "waits\n" for line in process.stdout)
        assert one.drain("from a second one") == 0  # told, and not in its way
        assert one.asked() == []
        process.send_signal(signal.SIGKILL)
    one.seat = Seat(jobs=0)
    assert one.drain() == 0
    assert one.life()["reason"] == "from the first process"
    assert one.life()["asked"] == ["from a second one"]


def test_a_shutdown_by_others_leaves_the_farm_once(node: Make) -> None:
    seat = Seat(jobs=1)
    one = node(seat)
    reporter = Reporter(one.machine, patience=1)
    assert drain.leave(one.machine, reporter, one.load) == 0
    assert seat.said == ["leave: it was told to shut down"]
    assert one.reports()[-1]["state"] == "stopping"
    other = node(Seat())
    assert other.drain("a test") == 0
    before = len(other.reports())
    assert drain.leave(other.machine, reporter, other.load) == 0
    assert len(other.reports()) == before


def test_requests_are_bounded_and_plain(node: Make) -> None:
    machine = node().machine
    for number in range(80):
        requests.record(machine, f"\x1b[2J{number}" + "x" * 5000)
    found = requests.reasons(machine)
    assert len(found) == requests.MOST
    assert all(len(reason) <= 500 and "\x1b" not in reason for reason in found)
    assert found[0].startswith("[2J0x")
    requests.ask(machine, "one more")
    assert machine.asked == [("systemctl", "start", "--no-block", "kiosk-drain.service")]
