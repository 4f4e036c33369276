"""A work that hangs while its signs of life go on: a real one, that opens a pipe nobody writes to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kiosk.agent import daemon
from kiosk.agent.child import STUCK
from kiosk.agent.config import read
from kiosk.agent.daemon import Daemon
from kiosk.agent.ends import Ends
from kiosk.agent.swarm import join
from kiosk.config import Settings
from kiosk.model.names import parse_ref
from kiosk.sync import HostCache
from tests.simulators.agent_host import Hypervisor
from tests.simulators.published import Kiosk, ready


@pytest.fixture
def kiosk(tmp_path: Path) -> Kiosk:
    return ready(tmp_path)


def made(kiosk: Kiosk, root: Path) -> Daemon:
    """A daemon whose loop is the test's; it reports nowhere."""
    keys = {"root": str(root), "swarm": {"enabled": False}, "images": ["worker"]}
    host = Hypervisor(kiosk, kiosk.hypervisor.url or "", **keys)
    orders = read(Settings(home=host.home), host.file)
    return Daemon(orders, join(orders))


def turns(made: Daemon, until: Callable[[], bool], seconds: float = 30) -> None:
    """Has the loop take what the work says."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        if made._selector.select(0.5):
            made.take("work")


def test_a_work_that_gets_nowhere_is_ended_and_started_again(
    kiosk: Kiosk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(daemon, "BEAT", 0.05)
    root = tmp_path / "hanging.json"
    os.mkfifo(root)
    agent = made(kiosk, root)
    agent.start_work()
    hanging = agent.child
    assert hanging is not None
    begun = hanging.stepped_at
    hanging.heard_at = 0
    turns(agent, lambda: hanging.heard_at > 0)
    agent.look_at_child()
    assert agent.child is hanging and hanging.stepped_at == begun, "a sign of life is no step"

    hanging.stepped_at -= STUCK + 1
    agent.look_at_child()
    agent.look_at_child()
    turns(agent, lambda: agent.child is None)
    assert agent.state.state == "failed"
    assert "gets nowhere, for 15 min: it is ended" in (agent.state.error or "")
    assert capsys.readouterr().err.count("gets nowhere") == 1
    assert agent.at["work"] < time.monotonic() + 900, "and is started again"

    root.unlink()
    root.write_bytes(kiosk.root.read_bytes())
    agent.start_work()
    turns(agent, lambda: agent.child is None)
    assert (agent.state.state, agent.state.error) == ("idle", None)
    assert str(HostCache(agent.orders.folder).current(parse_ref("worker"))) == "1"


def test_what_may_rightly_take_long_is_waited_for(kiosk: Kiosk, tmp_path: Path) -> None:
    root = tmp_path / "hanging.json"
    os.mkfifo(root)
    agent = made(kiosk, root)
    agent.start_work()
    child = agent.child
    assert child is not None
    try:
        child.stepped_at -= STUCK + 1
        assert child.hangs() is not None
        child.expect(60)
        assert child.hangs() is None
        child.stepped_at -= STUCK + 61
        assert child.hangs() is not None
        child._within = 120.0
        assert child.hangs() is None
        child.heard_at -= 121
        assert child.hangs() == "gives no sign of life"
    finally:
        child.kill()
        child.wait(10)


def test_hooks_and_copies_say_how_long_they_may_take(tmp_path: Path) -> None:
    cache = HostCache(tmp_path)
    hook = {"kind": "hook", "run": ["/bin/true"], "timeout": 600, "events": ["ProcessPrefix", "ExpirePrefix"]}
    assert Ends(cache, tmp_path, [hook]).longest(30) == 1200 + 30
    assert Ends(cache, tmp_path, []).longest(30) == 0
