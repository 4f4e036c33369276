"""What a context may say of a farm, and that nothing of it gets out of its place."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from contextualize.context import Farm
from contextualize.errors import Refused
from contextualize.farm import drivers, member
from contextualize.farm.driver import Node, Seat, program, told
from contextualize.farm.drivers import driver
from contextualize.farm.htcondor import HTCondor
from contextualize.farm.services import Service, quoted
from contextualize.farm.settings import PROGRAMS, checked, checked_secrets
from contextualize.machine import Machine
from tests.contextualize.farm_machine import FarmMachine

NODE = Node("wn-1", "debian-12-worker", "20261125.1")
NEEDED = {
    "slurm": {"controllers": "ctl"},
    "lsf": {"servers": "m", "bindir": "/usr/lsf/bin", "serverdir": "/usr/lsf/etc"},
    "htcondor": {"collector": "cm"},
}
HOSTILE = ("a b", "a\tb", "a\nb", 'a"b', "a'b", "a$(id)", "a`id`", "a;b", "a\\b", "a%b", "a#b", "a=b c", "-x",
           "a\u00e9", "../x", "/tmp/x", "/opt/experiment/vo/bin", "/opt/site/../tmp", "$ENV(HOME)", "a|b")  # fmt: skip


@pytest.mark.parametrize("kind", drivers.KINDS)
def test_the_needed_settings_are_enough_and_defaults_are_of_their_patterns(kind: str) -> None:
    known = driver(kind).settings
    found = checked(Farm(kind, "f", NEEDED[kind], {}), known)
    assert found.keys() == known.keys()
    for name, setting in known.items():
        assert re.fullmatch(setting.pattern, found[name]), name


@pytest.mark.parametrize("kind", drivers.KINDS)
@pytest.mark.parametrize("value", HOSTILE)
def test_no_setting_takes_a_value_that_breaks_out(kind: str, value: str) -> None:
    for name in driver(kind).settings:
        with pytest.raises(Refused, match=rf"farm f \({kind}\): {name} = "):
            checked(Farm(kind, "f", {**NEEDED[kind], name: value}, {}), driver(kind).settings)


@pytest.mark.parametrize("kind", drivers.KINDS)
def test_unknown_and_missing_settings_and_secrets_are_named_without_a_secrets_bytes(kind: str) -> None:
    known = driver(kind)
    with pytest.raises(Refused, match="unknown setting prolog; it has "):
        checked(Farm(kind, "f", {**NEEDED[kind], "prolog": "x"}, {}), known.settings)
    with pytest.raises(Refused, match=f"the setting {min(NEEDED[kind])} is missing"):
        checked(
            Farm(kind, "f", {k: v for k, v in NEEDED[kind].items() if k != min(NEEDED[kind])}, {}),
            known.settings,
        )
    with pytest.raises(Refused, match="unknown secret password; it takes ") as refused:
        checked_secrets(Farm(kind, "f", {}, {"password": b"hunter2"}), known.secrets)
    assert "hunter2" not in refused.value.reason
    for name, secret in known.secrets.items():
        with pytest.raises(Refused, match=f"the secret {name} has not ") as refused:
            checked_secrets(Farm(kind, "f", {}, {name: b"x" * (secret.most + 1)}), known.secrets)
        assert "xx" not in refused.value.reason
        if secret.needed:
            with pytest.raises(Refused, match=f"the secret {name} is missing: "):
                checked_secrets(Farm(kind, "f", {}, {}), known.secrets)


@pytest.mark.parametrize("kind", drivers.KINDS)
def test_each_setting_and_secret_is_in_the_documentation(kind: str) -> None:
    text = (Path(__file__).parents[2] / "docs/farms.md").read_text()
    for name in (*driver(kind).settings, *driver(kind).secrets):
        assert f"`{name}`" in text, name


def test_a_farm_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="there is no driver 'os'; there are htcondor, lsf, slurm"):
        member.join(FarmMachine(tmp_path), Farm("os", "f", {}, {}), NODE)


def test_a_machine_that_joined_nothing_is_no_member(tmp_path: Path) -> None:
    assert member.load(FarmMachine(tmp_path)) is None


def test_a_reason_is_told_in_plain_words_of_one_line() -> None:
    assert told("age;\nreboot $(id) `x` 'y'  \x1b[0m " + "z" * 500).startswith(
        "kiosk: age reboot id x y 0m zzz"
    )
    assert len(told("z" * 500)) <= 210


def test_words_of_a_unit_mean_themselves_to_systemd() -> None:
    assert quoted('a "b" \\ %h') == '"a \\"b\\" \\\\ %%h"'
    text = Service("x", "a test", ("/bin/echo", "$HOME %h")).text("f")
    assert 'ExecStart="/bin/echo" "$$HOME %%h"\n' in text
    with pytest.raises(Refused):
        quoted("a\nExecStart=/bin/sh")


def test_systemd_takes_the_units_as_they_are_written(tmp_path: Path) -> None:
    machine = FarmMachine(tmp_path / "root")
    units = []
    for kind in drivers.KINDS:
        known = driver(kind)
        seat = Seat(machine, "f", NODE, checked(Farm(kind, "f", NEEDED[kind], {}), known.settings))
        for service in known.services(seat):
            runnable = service._replace(argv=("/bin/true", *service.argv[1:]))
            units.append(tmp_path / service.unit)
            units[-1].write_text(runnable.text("f"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    assert "kiosk-farm" not in done.stderr, done.stderr


@pytest.mark.parametrize("bent", ["owner", "folder", "group", "link", "gone", "folder-for-program"])
def test_root_runs_no_program_that_others_could_replace(tmp_path: Path, bent: str) -> None:
    folder = tmp_path / "usr/x/bin"
    folder.mkdir(parents=True)
    file = folder / "tool"
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    seat = Seat(Machine(tmp_path), "batch", Node("n", "i", "1"), {})
    assert program(seat, "/usr/x/bin", "tool") == str(file)
    if bent == "owner":
        os.chown(file, 1000, 0)
    elif bent == "folder":
        folder.parent.chmod(0o1777)
    elif bent == "group":
        os.chown(folder, 0, 1000)
        folder.chmod(0o775)
    elif bent == "link":
        (tmp_path / "data").mkdir()
        (tmp_path / "data").chmod(0o777)
        file.rename(tmp_path / "data/tool")
        file.symlink_to("../../../data/tool")
    else:
        file.unlink()
        if bent == "folder-for-program":
            file.mkdir()
    with pytest.raises(Refused, match="/usr/x/bin/tool"):
        program(seat, "/usr/x/bin", "tool")


@pytest.mark.parametrize("folder", ["/cvmfs/x/bin", "/data/x", "/mnt", "/afs/x", "/home/x"])
def test_places_that_others_fill_are_no_places_for_roots_programs(folder: str) -> None:
    assert not re.fullmatch(PROGRAMS, folder)


@pytest.mark.parametrize("name", ["ALLOW_WRITE", "CONDOR_HOST", "PATH", "hasX", "x"])
def test_a_feature_of_htcondors_is_none_of_its_settings(name: str) -> None:
    farm = Farm("htcondor", "pool", {"collector": "c", "features": name}, {})
    with pytest.raises(Refused, match="features = "):
        checked(farm, HTCondor.settings)
