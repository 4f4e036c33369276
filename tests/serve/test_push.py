"""`kiosk push` as it is typed: agents on loopback hear of it, fetch, report, and are shown."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kiosk.cli import push
from kiosk.cli.push import Run, duration, follow, shares
from kiosk.config import Settings
from kiosk.errors import NetworkError, UsageError
from kiosk.fleet import catalogue
from kiosk.fleet.database import Host
from kiosk.fleet.pushes import Push
from kiosk.model.report import LATE, REPORT_SECONDS
from tests.serve.fleet import Agent, Fleet, serving
from tests.simulators.published import Kiosk, ready, without_fsync

__all__ = ["without_fsync"]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[tuple[Kiosk, Fleet]]:
    kiosk = ready(tmp_path)
    with serving(kiosk.settings) as made:
        yield kiosk, made


def kiosk_says(settings: Settings, *words: str) -> subprocess.CompletedProcess[str]:
    """The real command."""
    env = {**os.environ, "KIOSK_HOME": str(settings.home)}
    argv = [sys.executable, "-m", "kiosk", *words]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)


def answers(fleet: Fleet, agent: Agent, **report: Any) -> threading.Thread:
    """An agent that listens, and reports that once it is pushed."""
    agent.report()
    listening = threading.Event()

    def run() -> None:
        with fleet.listener(agent.host) as listener:
            listening.set()
            listener.wait("push", seconds=30)
            agent.report(**report)

    thread = threading.Thread(target=run)
    thread.start()
    assert listening.wait(10)
    return thread


HELD = [{"name": "worker", "version": "1"}]


def test_a_push_ends_when_all_hold_the_version(fleet: tuple[Kiosk, Fleet]) -> None:
    kiosk, server = fleet
    threads = [answers(server, server.agent(f"hv-{n}"), held=HELD) for n in range(3)]
    server.agent("other").report()
    done = kiosk_says(kiosk.settings, "push", "worker", "--hosts", "hv-*", "--timeout", "30s")
    assert done.returncode == 0, done.stderr
    assert "hv-1: asked" in done.stdout
    assert "hv-1: done" in done.stdout
    assert "Push 1: 3 hosts: 3 done." in done.stdout
    assert "other" not in done.stdout
    for thread in threads:
        thread.join()
    assert server.kiosk.database.open_pushes(0) == []


def test_a_push_that_some_hosts_fail_or_miss_says_so(fleet: tuple[Kiosk, Fleet]) -> None:
    kiosk, server = fleet
    thread = answers(server, server.agent("hv-1"), state="failed", failed=["worker@1"], error="disk full")
    done = kiosk_says(kiosk.settings, "push", "worker", "--timeout", "30s", "--json")
    assert (done.returncode, json.loads(done.stdout)["hosts"]) == (1, {"hv-1": "failed"})
    assert "1 of 1 hosts failed: hv-1" in done.stderr
    thread.join()
    server.agent("hv-2").report()
    late = kiosk_says(kiosk.settings, "push", "worker", "--hosts", "hv-2", "--timeout", "1s")
    assert late.returncode == 8
    assert "hv-2 have not finished in time" in late.stderr


def test_a_host_that_is_lost_in_the_meantime_is_not_waited_for(fleet: tuple[Kiosk, Fleet]) -> None:
    kiosk, server = fleet
    server.agent("hv-1").report()
    server.agent("hv-2").report(held=HELD)

    class Leaving(Run):
        looks = 0

        def hosts(self) -> list[Host]:
            self.looks += 1
            return [h for h in super().hosts() if self.looks == 1 or h.host != "hv-1"]

    now = time.time()
    wanted = Push(1, ("worker",), hosts=(), waves=(100,), every=1, created=now, expires=now + 60)
    database = server.kiosk.database
    run = Leaving(database, catalogue.current(kiosk.settings.repository), wanted)
    assert follow(run, json=True) == {"hv-1": "asked", "hv-2": "done"}
    assert run.looks == 2


def test_hosts_that_say_nothing_are_named_and_not_waited_for(
    fleet: tuple[Kiosk, Fleet], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "LOOK", 0)
    kiosk, server = fleet
    begun = time.time()
    server.agent("hv-1").report()
    server.agent("hv-2").report(held=HELD)
    wanted = Push(1, ("worker",), created=begun, expires=begun + 3600)
    database, offered = server.kiosk.database, catalogue.current(kiosk.settings.repository)
    clock = (begun + 5 * n for n in range(1000))
    states = follow(Run(database, offered, wanted, now=lambda: next(clock)), json=False)
    assert states == {"hv-1": "silent", "hv-2": "done"}
    assert next(clock) < begun + LATE * REPORT_SECONDS + 60, "it ends soon after"
    assert "hv-1: silent, nothing heard for" in capsys.readouterr().out
    with pytest.raises(
        NetworkError, match="1 of 2 hosts do not have it yet: hv-1 have said nothing"
    ) as found:
        push.end(wanted, states, [], json=True)
    assert found.value.exit_code == 8


def test_hosts_that_are_lost_already_are_named(fleet: tuple[Kiosk, Fleet]) -> None:
    kiosk, server = fleet
    database = server.kiosk.database
    database.accept("hv-9", 1, now=time.time() - 3000)
    alone = kiosk_says(kiosk.settings, "push", "worker")
    assert (alone.returncode, "(lost: hv-9)" in alone.stderr) == (6, True)
    server.agent("hv-1").report(held=HELD)
    done = kiosk_says(kiosk.settings, "push", "worker")
    assert (done.returncode, "Lost, and not waited for: hv-9." in done.stdout) == (0, True)


def test_a_dry_run_says_who_would_be_asked_for_what_and_asks_nobody(fleet: tuple[Kiosk, Fleet]) -> None:
    kiosk, server = fleet
    server.agent("hv-1").report(held=HELD)
    server.agent("hv-2").report()
    said = kiosk_says(kiosk.settings, "push", "worker", "--dry-run", "--json")
    assert json.loads(said.stdout)["hosts"] == {"hv-1": [], "hv-2": ["worker@1"]}
    shown = kiosk_says(kiosk.settings, "push", "worker", "--dry-run").stdout
    assert "2 hosts would be asked; 1 lack something." in shown
    assert server.kiosk.database.open_pushes(0) == []


def test_what_can_not_be_said_together_is_refused(fleet: tuple[Kiosk, Fleet], tmp_path: Path) -> None:
    kiosk, _ = fleet
    assert kiosk_says(kiosk.settings, "push", "worker", "--ssh", "hv-1", "--detach").returncode == 2
    nowhere = kiosk_says(Settings(home=tmp_path / "nowhere"), "push", "worker")
    assert (nowhere.returncode, "no repository here" in nowhere.stderr) == (6, True)
    nobody = kiosk_says(Settings(home=tmp_path / "nowhere"), "fleet", "status")
    assert "No host has reported here" in nobody.stdout


def test_on_a_terminal_the_hosts_are_redrawn(fleet: tuple[Kiosk, Fleet]) -> None:
    kiosk, server = fleet
    agent = server.agent("hv-1")
    busy = {"name": "worker", "version": "1", "done": 45, "size": 100, "transport": "swarm"}
    thread = answers(server, agent, state="fetching", fetching=busy)
    ours, theirs = pty.openpty()
    env = {**os.environ, "KIOSK_HOME": str(kiosk.settings.home), "TERM": "xterm"}
    argv = [sys.executable, "-m", "kiosk", "push", "worker", "--timeout", "30s"]
    shown, finished = b"", False
    with subprocess.Popen(argv, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):
            while part := os.read(ours, 65536):
                shown += part
                if not finished and b"45% by swarm" in shown:
                    finished = True
                    agent.report(held=HELD)
    os.close(ours)
    thread.join()
    assert process.returncode == 0
    assert b"hv-1" in shown
    assert b"45% by swarm" in shown
    assert b"1 done" in shown


def test_what_can_not_be_pushed_is_said(fleet: tuple[Kiosk, Fleet]) -> None:
    kiosk, server = fleet
    assert "no host that has reported lately" in kiosk_says(kiosk.settings, "push", "worker").stderr
    assert "nothing is not in the repository" in kiosk_says(kiosk.settings, "push", "nothing").stderr
    detached = kiosk_says(kiosk.settings, "push", "worker", "--detach", "--json")
    assert json.loads(detached.stdout) == {"push": 1}
    with server.listener("hv-9") as listener:
        listener.wait("push", push=1)


def test_the_fleet_is_shown_and_hosts_are_forgotten(fleet: tuple[Kiosk, Fleet]) -> None:
    kiosk, server = fleet
    server.agent("hv-1").report(error="no space left", held=HELD, origin_bytes=5_000_000)
    server.agent("hv-2").report()
    shown = kiosk_says(kiosk.settings, "fleet", "status").stdout
    assert "no space left" in shown
    assert "2 hosts: 2 online; 0 behind, 1 with errors." in shown
    one = json.loads(kiosk_says(kiosk.settings, "fleet", "status", "--json", "--host", "*-2").stdout)
    assert [h["host"] for h in one["hosts"]] == ["hv-2"]
    token = kiosk_says(kiosk.settings, "fleet", "token", "hv-1").stdout.strip()
    assert token == server.agent("hv-1").token
    assert kiosk_says(kiosk.settings, "fleet", "forget", "hv-1").returncode == 0
    assert kiosk_says(kiosk.settings, "fleet", "forget", "hv-1").returncode == 6


def test_times_and_waves_are_read_strictly() -> None:
    assert [duration(t) for t in ("90", "30s", "5m", "1h")] == [90, 30, 300, 3600]
    assert [shares(t) for t in ("100", "10,50,100")] == [(100,), (10, 50, 100)]
    for bad in ("", "0", "-1", "1d", "m", "1.5h"):
        with pytest.raises(UsageError):
            duration(bad)
    for bad in ("", "10", "50,10,100", "0,100", "10,10,100", "10,200", "a,100"):
        with pytest.raises(UsageError):
            shares(bad)
