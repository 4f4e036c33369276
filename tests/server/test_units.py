"""The units that a kiosk host installs are ones that systemd takes, and call commands that kiosk has."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
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


@pytest.mark.parametrize(("name", "most"), [("agent", 28), ("serve", 16), ("rollout", 22), ("scheduler", 31)])
def test_what_runs_all_the_time_is_confined(name: str, most: int, tmp_path: Path) -> None:
    """`most` is the exposure in tenths of systemd's points, of 100."""
    unit = tmp_path / f"kiosk-{name}.service"
    unit.write_text(
        next(u for u in UNITS if u.name == unit.name).read_text().replace("/usr/bin/kiosk", "/bin/true")
    )
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={most}", unit]
    assert "OK" in run(argv, timeout=60)  # an error where the exposure is above it


def test_snapshots_at_the_same_moment_wait_for_each_other() -> None:
    shared = [call for call in calls() if {"publish", "prune"} & set(call)]
    assert len(shared) == 2
    assert all(any(word.startswith("--wait=") for word in call) for call in shared)


def test_host_keys_are_made_before_an_ssh_server_that_a_socket_starts(tmp_path: Path) -> None:
    unit = Path(__file__).parents[2] / "contextualize/systemd/kiosk-ssh-keys.service"
    (tmp_path / unit.name).write_text(unit.read_text())
    (tmp_path / "ssh.socket").write_text(
        "[Socket]\nListenStream=22\nAccept=no\nService=ssh.service\n[Install]\nWantedBy=sockets.target\n"
    )
    (tmp_path / "ssh.service").write_text("[Service]\nExecStart=/bin/true\n")
    for target, name in (("sockets", "ssh.socket"), ("multi-user", unit.name)):
        (tmp_path / f"{target}.target.wants").mkdir()
        (tmp_path / f"{target}.target.wants" / name).symlink_to(tmp_path / name)
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "multi-user.target"],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
    )
    assert not re.search(r"cycle|deleted", said.stdout + said.stderr), said.stderr
