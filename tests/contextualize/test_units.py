"""The guest's own units and commands are what systemd and the shell read without complaint."""

from __future__ import annotations

import subprocess
from pathlib import Path

import contextualize
from contextualize.stages import attest

CODE = Path(contextualize.__file__).parent


def test_systemd_knows_every_word_of_our_units(tmp_path: Path) -> None:
    timers = [tmp_path / name for name in attest.TIMERS]
    for timer in timers:
        timer.write_text(attest.TIMER.format(seconds=86400))
    units = sorted(p for p in (CODE / "systemd").iterdir() if p.suffix in (".service", ".timer", ".target"))
    words = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *map(str, [*units, *timers])]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_commands_are_programs_and_the_rest_is_not() -> None:
    for path in (p for p in (CODE / "files").rglob("*") if p.is_file()):
        program = path.parent.name in ("bin", "sbin")
        assert path.read_bytes().startswith(b"#!") == program, path


def test_shell_files_are_good_shell() -> None:
    for name in ("usr/sbin/kiosk-drain", "etc/profile.d/kiosk-features.sh"):
        subprocess.run(["sh", "-n", CODE / "files" / name], check=True)
    done = subprocess.run(
        ["sh", CODE / "files/usr/sbin/kiosk-drain"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split(":")[0]) == (0, "usage")
