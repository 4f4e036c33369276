"""Programs run from argument lists; failures, deadlines and missing tools are told as a person could retry them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from kiosk.errors import MissingToolError
from kiosk.run import CommandError, run, stream, tool


def test_output_comes_back_and_the_shell_has_no_say() -> None:
    assert run(["printf", "%s", "$HOME; echo x"], timeout=5) == "$HOME; echo x"


def test_a_failure_shows_the_command_as_typed_and_its_last_words() -> None:
    with pytest.raises(CommandError, match=r"ls '/no such' --' ended|No such file") as caught:
        run(["ls", "/no such"], timeout=5)
    assert "'/no such'" in str(caught.value)
    assert caught.value.status == 2


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kiosk.run.SYSTEM_PATHS", ())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingToolError, match="apt-get install cryptsetup-bin"):
        tool("veritysetup")


def test_a_deadline_ends_the_whole_group(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(CommandError, match="not done after"):
        stream(
            ["sh", "-c", "sleep 77 & echo $! > pid; wait"],
            timeout=0.5, log_to=tmp_path / "log", on_line=print, cwd=tmp_path,
        )  # fmt: skip
    assert time.monotonic() - start < 10
    time.sleep(0.2)
    child = int((tmp_path / "pid").read_text())
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_an_error_in_the_reader_ends_the_program(tmp_path: Path) -> None:
    def refuse(line: str) -> None:
        raise RuntimeError(line)

    with pytest.raises(RuntimeError, match="one"):
        stream(["sh", "-c", "echo one; sleep 60"], timeout=30, log_to=tmp_path / "log", on_line=refuse)
    assert (tmp_path / "log").read_text() == "one\n"


def test_our_secrets_do_not_reach_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIOSK_PASSPHRASE_FILE", "/secret")
    assert "KIOSK_PASSPHRASE_FILE" in os.environ
    assert "KIOSK" not in run(["env"], timeout=5)
