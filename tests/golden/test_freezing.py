"""A node that was frozen is thawed: at the end, after an error, when its time is up, when kiosk is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kiosk.errors import GuestError
from kiosk.golden.freezing import frozen
from tests.golden.agents import NEVER, FakeAgent, fake_agent

KILLED = """
import sys
from kiosk.golden.freezing import frozen
with frozen({"kind": "qemu", "agent": sys.argv[1]}, window=30):
    print("frozen", flush=True)
    sys.stdin.read()
"""


def spec(agent: FakeAgent, **more: object) -> dict[str, object]:
    return {"kind": "qemu", "agent": str(agent.path), "answer": 1, "patience": 1, **more}


def test_a_node_is_frozen_while_the_block_runs_and_no_longer(tmp_path: Path) -> None:
    with fake_agent(tmp_path / "qga") as agent:
        with frozen(spec(agent), window=10) as window:
            assert agent.frozen
        assert not agent.frozen
    assert window.file_systems == 2 and 0 < window.seconds < 5 and window.warnings == ()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_node_is_thawed_when_the_block_fails(error: type[BaseException], tmp_path: Path) -> None:
    with fake_agent(tmp_path / "qga") as agent:
        with pytest.raises(error), frozen(spec(agent), window=10):
            assert agent.frozen
            raise error
        assert not agent.frozen


def test_a_node_is_thawed_when_kiosk_is_killed(tmp_path: Path) -> None:
    with fake_agent(tmp_path / "qga") as agent:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, agent.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"frozen\n" and agent.frozen
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        agent.wait_until("guest-fsfreeze-thaw")
        assert not agent.frozen
        process.stdin.close()
        process.stdout.close()


def test_a_node_is_thawed_when_the_time_is_up_and_the_state_is_not_used(tmp_path: Path) -> None:
    with fake_agent(tmp_path / "qga") as agent:
        with pytest.raises(GuestError, match=r"thawed after 0.5 s, before"), frozen(spec(agent), window=0.5):
            agent.wait_until("guest-fsfreeze-thaw")
        assert not agent.frozen


def test_an_agent_that_does_not_answer_is_never_told_to_freeze(tmp_path: Path) -> None:
    with fake_agent(tmp_path / "qga", guest_sync_delimited=NEVER) as agent:
        begun = time.monotonic()
        said = "could not be frozen: the guest agent does not answer"
        with pytest.raises(GuestError, match=said), frozen(spec(agent), window=10):
            pass
        assert time.monotonic() - begun < 10
        assert set(agent.seen) == {"guest-sync-delimited"}


def test_an_agent_that_refuses_to_freeze_is_thawed_all_the_same(tmp_path: Path) -> None:
    refusal = b'{"error": {"class": "GenericError", "desc": "command disabled"}}\n'
    with fake_agent(tmp_path / "qga", guest_fsfreeze_freeze=refusal) as agent:
        with pytest.raises(GuestError, match="command disabled"), frozen(spec(agent), window=10):
            pass
        assert "guest-fsfreeze-thaw" in agent.seen


def test_a_node_that_does_not_thaw_is_said_as_loudly_as_can_be(tmp_path: Path) -> None:
    with (
        fake_agent(tmp_path / "qga", guest_fsfreeze_thaw=NEVER) as agent,
        pytest.raises(GuestError, match="MAY STILL BE FROZEN"),
        frozen(spec(agent), window=10),
    ):
        pass


def test_a_node_that_somebody_left_frozen_is_thawed_after_a_while(tmp_path: Path) -> None:
    with fake_agent(tmp_path / "qga") as agent:
        agent.frozen = True
        with frozen(spec(agent), window=0.5) as window:
            assert agent.frozen
        assert not agent.frozen and "found frozen" in window.warnings[0]


def test_an_agent_that_froze_nothing_gives_no_snapshot(tmp_path: Path) -> None:
    with (
        fake_agent(tmp_path / "qga", guest_fsfreeze_freeze=0) as agent,
        pytest.raises(GuestError, match="no file system"),
        frozen(spec(agent), window=10),
    ):
        pass


@pytest.mark.parametrize(
    "answer", [b"x" * (1 << 16), b"[]\n", b'"text"\n', b"not json\n", b'{"return": {}}\n']
)
def test_an_agent_that_talks_nonsense_freezes_nothing_for_long(answer: bytes, tmp_path: Path) -> None:
    with fake_agent(tmp_path / "qga", guest_fsfreeze_freeze=answer) as agent:
        # The limit of an answer is short here: the first of these never ends its line.
        with pytest.raises(GuestError), frozen(spec(agent, freeze=1), window=10):
            pass
        assert not agent.frozen and "guest-fsfreeze-thaw" in agent.seen


def test_signals_do_not_end_the_freezer_before_it_has_thawed(tmp_path: Path) -> None:
    with fake_agent(tmp_path / "qga") as agent:
        with frozen(spec(agent), window=10):
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            for pid in map(int, children):
                if b"kiosk.golden.freezer" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGTERM)
                    os.kill(pid, signal.SIGINT)
        assert not agent.frozen
