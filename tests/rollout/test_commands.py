"""The commands as a user types them, and what they print."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiosk.config import Settings
from kiosk.model.names import parse_ref
from kiosk.trust.client import TrustedRepository
from tests.publish.test_commands import UNREAD, Terminal
from tests.simulators.published import build_image, ready


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Terminal:
    kiosk = ready(tmp_path)
    made = Terminal(monkeypatch, capsys, kiosk.settings.home)
    (tmp_path / "passphrase").write_text("correct horse battery staple\n")
    made.set("KIOSK_PASSPHRASE_FILE", tmp_path / "passphrase")
    return made


def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "kiosk")


def done(terminal: Terminal, *words: object) -> str:
    """What a command that goes well prints."""
    code, out, err = terminal.run(*words)
    assert code == 0, err
    return out


def test_a_version_is_published_and_rolled_out_in_one_step_and_ordered_about(
    terminal: Terminal, tmp_path: Path
) -> None:
    s = settings(tmp_path)
    assert "go by the newest version" in done(terminal, "rollout", "status")
    build_image(s, version="2")
    said = done(terminal, "publish", "worker@2", "--rollout", *UNREAD)
    assert "5% of the hosts are offered worker@2, the others worker@1" in said
    assert terminal.json("rollout", "status")[0]["rollout"]["share"] == 50
    said = done(terminal, "rollout", "status", "worker")
    assert "Stages: 5% for 30m, 25% for 30m, 50% for 30m, 100% for 30m" in said
    assert "no host of this share has reported" in done(terminal, "rollout", "run", "--once")
    assert "paused: 5% of the hosts" in done(terminal, "rollout", "pause", "worker")
    assert "running" in done(terminal, "rollout", "resume", "worker")
    assert "all hosts are offered worker@1" in done(
        terminal, "rollout", "abort", "worker", "--reason", "jobs fail"
    )
    assert "jobs fail" in done(terminal, "rollout", "status", "--watch")
    code, _, err = terminal.run("rollout", "resume", "worker")
    assert code == 10
    assert "aborted: jobs fail" in err
    assert terminal.run("rollout", "end", "worker")[0] == 10
    said = done(terminal, "rollout", "start", "worker@2", "--stages", "0%,50%/2h,100%", "--hosts", "canary*")
    assert "0% of the hosts, and canary*, are offered worker@2" in said
    assert "50% for 2h" in said
    assert "done: all hosts are offered worker@2" in done(terminal, "rollout", "finish", "worker")
    build_image(s, version="3")
    said = done(terminal, "publish", "worker@3", *UNREAD)
    assert "No host gets worker@3 until `kiosk rollout start worker@3`" in said
    assert "no roll-out any more" in done(terminal, "rollout", "end", "worker", "--force")
    reader = TrustedRepository(
        tmp_path / "r", s.repository, (s.repository / "metadata/1.root.json").read_bytes()
    )
    assert reader.rollout(parse_ref("worker")) is None


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["start", "worker@9"], 6, "worker@9 is not published"),
        (["start", "other"], 6, "no version"),
        (["start", "worker", "--stages", "5%,4%,100%"], 2, "larger share"),
        (["start", "worker", "--hold", "soon"], 2, "30m"),
        (["start", "worker", "--hosts", "UPPER"], 2, "hosts"),
        (["pause", "worker"], 6, "has no roll-out"),
        (["status", "worker"], 6, "has no roll-out"),
        (["abort", "worker@1"], 2, "is one version"),
        (["abort", "worker", "--reason", "two\nlines"], 2, "one line"),
    ],
)
def test_mistakes_are_named(terminal: Terminal, words: list[str], code: int, says: str) -> None:
    found, _, err = terminal.run("rollout", *words)
    assert found == code, err
    assert says in err


def test_dry_runs_change_nothing(terminal: Terminal, tmp_path: Path) -> None:
    def everything() -> dict[str, bytes]:
        home = settings(tmp_path).home
        return {str(p): p.read_bytes() for p in home.rglob("*") if p.is_file() and p.name != ".lock"}

    build_image(settings(tmp_path), version="2")
    before = everything()
    done(terminal, "publish", "worker@2", "--rollout", "--dry-run", *UNREAD)
    assert "Would sign" in done(terminal, "rollout", "start", "worker@1", "--recall", "--dry-run")
    assert everything() == before
    done(terminal, "publish", "worker@2", "--rollout", *UNREAD)
    before = everything()
    for words in (["pause"], ["abort"], ["finish"], ["end", "--force"]):
        done(terminal, "rollout", words[0], "worker", *words[1:], "--dry-run")
    done(terminal, "rollout", "run", "--once", "--dry-run")
    assert everything() == before


def test_publishing_again_with_a_roll_out_says_what_is_the_case(terminal: Terminal, tmp_path: Path) -> None:
    build_image(settings(tmp_path), version="2")
    done(terminal, "publish", "worker@2", "--rollout", *UNREAD)
    assert "published already" in done(terminal, "publish", "worker@2", "--rollout", *UNREAD)
    done(terminal, "rollout", "finish", "worker")
    done(terminal, "rollout", "end", "worker")
    code, _, err = terminal.run("publish", "worker@2", "--rollout", *UNREAD)
    assert code == 10
    assert "was published before" in err
    code, _, err = terminal.run("rollout", "start", "worker@2")
    assert code == 10
    assert "--recall" in err
    said = done(terminal, "rollout", "start", "worker@2", "--recall")
    assert "5% of the hosts are offered worker@2, the others worker@1" in said


def test_the_plans_of_the_settings_hold(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "rollouts.toml").write_text('stages = ["1%/1d", "100%"]\n[name."site/*"]\nhold = "5m"\n')
    (tmp_path / "kiosk.toml").write_text(
        f'home = "{settings(tmp_path).home}"\nrollouts = "{tmp_path}/rollouts.toml"\n'
    )
    terminal.set("KIOSK_CONFIG", tmp_path / "kiosk.toml")
    assert "1% for 1d, 100% for 30m" in done(terminal, "rollout", "start", "worker", "--recall", "--dry-run")
    assert "1% for 1d, 100% for 5m" in done(
        terminal, "rollout", "start", "site/a/base", "--recall", "--dry-run"
    )
