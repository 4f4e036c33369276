"""`kiosk host list`, `prune` and `handover`, as they are typed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kiosk import config
from tests.publish.test_commands import Terminal
from tests.simulators.hypervisor import Hypervisor

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="prunes as root")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Terminal:
    monkeypatch.setattr(config, "AGENT_FILE", tmp_path / "agent.toml")
    (tmp_path / "images").mkdir(mode=0o755)
    text = '[[handover]]\nkind = "files"\nfolder = "{0}/images"\n[[handover]]\nkind = "files"\nfolder = "{0}/gone"\n'
    (tmp_path / "agent.toml").write_text(text.format(tmp_path))
    return Terminal(monkeypatch, capsys, tmp_path / "home")


def test_what_fails_decides_the_exit_code_and_what_works_is_done(terminal: Terminal, tmp_path: Path) -> None:
    Hypervisor(tmp_path / "home").put("1")
    code, out, err = terminal.run("host", "handover")
    assert code == 6 and "there is no such folder" in err
    assert "handed over" in out and "failed" in out
    assert (tmp_path / "images/worker.raw").exists()
    (tmp_path / "gone").mkdir(mode=0o755)
    found = terminal.json("host", "handover")
    assert [o["state"] for o in found] == ["stands", "handed over"]


def test_without_a_table_the_command_says_where_one_belongs(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "agent.toml").unlink()
    code, _, err = terminal.run("host", "handover")
    assert code == 2 and "agent.toml" in err and "docs/handover.md" in err


def test_the_list_says_who_uses_what_and_prune_keeps_it(terminal: Terminal, tmp_path: Path) -> None:
    host = Hypervisor(tmp_path / "home")
    host.put("1", "2", "3", "4", "5")
    with host.disk("worker@2").open("rb"):
        assert [len(r["used_by"]) for r in terminal.json("host", "list")] == [0, 1, 0, 0, 0]
        _, out, _ = terminal.run("host", "prune", "--dry-run")
        assert "worker@1  would be removed" in out and "worker@2  stays: in use: process" in out
        assert host.versions() == ["1", "2", "3", "4", "5"]
        found = terminal.json("host", "prune")
    assert [r["version"] for r in found["removed"]] == ["worker@1", "worker@3"]
    assert host.versions() == ["2", "4", "5"]


def test_room_that_cannot_be_made_is_an_error_and_room_that_is_there_costs_nothing(
    terminal: Terminal, tmp_path: Path
) -> None:
    host = Hypervisor(tmp_path / "home")
    host.put("1", "2", "3")
    assert terminal.json("host", "prune", "--free", "1MB")["removed"] == []
    code, _, err = terminal.run("host", "prune", "--free", "900000TB")
    assert code == 7 and "were asked for" in err
    assert host.versions() == ["2", "3"]
    code, _, err = terminal.run("host", "prune", "--free", "lots")
    assert code == 2 and "is not a size" in err


def test_the_list_looks_where_the_named_file_says(terminal: Terminal, tmp_path: Path) -> None:
    Hypervisor(tmp_path / "home").put("1")
    other = tmp_path / "other.toml"
    other.write_text('[[handover]]\nkind = "tape"\n')
    code, _, err = terminal.run("host", "list", "--agent-config", str(other))
    assert code == 2 and "other.toml" in err
    assert [r["name"] for r in terminal.json("host", "list")] == ["worker"]


def test_the_table_in_kiosk_toml_is_the_agents_as_well(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hypervisor(tmp_path / "home").put("1")
    (tmp_path / "agent.toml").unlink()
    file = tmp_path / "kiosk.toml"
    file.write_text(f'[[agent.handover]]\nkind = "files"\nfolder = "{tmp_path}/images"\n')
    monkeypatch.setenv("KIOSK_CONFIG", str(file))
    assert [o["state"] for o in terminal.json("host", "handover")] == ["handed over"]
