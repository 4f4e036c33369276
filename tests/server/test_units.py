"""The units that a kiosk host installs are ones that systemd takes, and call commands that kiosk has."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from kiosk import data
from kiosk.run import run

UNITS = sorted((data.folder("server") / "systemd").iterdir())


def calls() -> list[list[str]]:
    """Every command line of kiosk's in the units."""
    lines = [
        line for unit in UNITS for line in unit.read_text().splitlines() if line.startswith("ExecStart=")
    ]
    return [shlex.split(line.partition("=")[2]) for line in lines]


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.name)
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    for other in UNITS:  # a timer is verified together with its service
        text = other.read_text().replace("/usr/bin/kiosk", "/bin/true")
        (tmp_path / other.name.replace("@.", "@batch.")).write_text(text)
    named = tmp_path / unit.name.replace("@.", "@batch.")
    assert run(["systemd-analyze", "verify", "--man=no", named], timeout=60) == ""


def test_a_unit_with_a_fault_is_not_taken(tmp_path: Path) -> None:
    bad = tmp_path / "bad.service"
    bad.write_text("[Service]\nType=oneshot\nExecStart=/nowhere/kiosk\n")
    with pytest.raises(Exception, match=r"not executable|Command"):
        run(["systemd-analyze", "verify", "--man=no", bad], timeout=60)


@pytest.mark.parametrize("call", calls(), ids=" ".join)
def test_the_commands_exist(call: list[str]) -> None:
    assert call[0] == "/usr/bin/kiosk"
    words = [w for w in call[1:] if not w.startswith(("-", "%"))]
    assert "Usage" in run([sys.executable, "-m", "kiosk", *words, "--help"], timeout=60)
