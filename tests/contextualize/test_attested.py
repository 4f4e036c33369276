"""`kiosk-attest`: what holds, what does not, and that nobody is misled about which."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextualize import attest_command, attested
from contextualize.attest_command import ABSENT, FAILS, HOLDS, USAGE
from contextualize.errors import Refused
from contextualize.stages import join
from kiosk.errors import UsageError
from kiosk.model.names import Version
from tests.contextualize.conftest import Files
from tests.contextualize.guest import Guest

ATTESTATION: dict[str, Any] = {
    "schema": "kiosk.attestation/1",
    "node": {"id": "x", "name": "node-7"},
    "image": {"name": "debian-12-worker", "version": "20260301.10", "role": "images"},
    "layers": [
        {"name": "site/cern/batch", "version": "4", "prefix": "/opt/site", "role": "site-cern"},
        {"name": "experiment/atlas/software", "version": "2.1", "prefix": "/opt/experiment/atlas"},
    ],
    "farm": {"kind": "slurm", "name": "blue"},
    "switched_on": ["hooks"],
}
NUMBER = st.integers(min_value=0, max_value=10**9 - 1)
VERSIONS = st.lists(NUMBER, min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))


@given(VERSIONS, VERSIONS)
def test_the_guest_compares_versions_as_kiosk_does(one: str, other: str) -> None:
    ours, theirs = attested.parts(one), attested.parts(other)
    assert (ours < theirs) == (Version.parse(one) < Version.parse(other))
    assert (ours == theirs) == (Version.parse(one) == Version.parse(other))


@given(st.text(alphabet="0123456789. -+v\n", max_size=12) | VERSIONS)
def test_the_guest_takes_for_a_version_what_kiosk_does(text: str) -> None:
    try:
        Version.parse(text)
    except UsageError:
        with pytest.raises(Refused):
            attested.parts(text)
    else:
        attested.parts(text)


def faults(text: str) -> list[tuple[str, str]]:
    return list(attested.faults(ATTESTATION, attested.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "image=debian-12-worker",
        "image=debian-12-worker@20260301.10",
        "image=debian-12-worker@>=20260301.9",
        "layer=atlas/software",
        "layer=atlas/software@>=2.1",
        "layer=experiment/atlas/software@2.1",
        "layer=site/cern/batch@>=3",
        "site=cern",
        "site=cern/batch@4",
        "farm=blue",
        "without=user-data",
        "image=debian-12-worker, layer=atlas/software ,site=cern",
    ],
)
def test_what_holds(text: str) -> None:
    assert faults(text) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image=debian-12", "the image is debian-12-worker"),
        ("image=debian-12-worker@20260301.1", "the version is 20260301.10"),
        ("image=debian-12-worker@>=20260301.11", "the version is 20260301.10"),
        ("layer=atlas/other", "there is no layer experiment/atlas/other"),
        ("layer=site/cern/batch@>=5", "the version is 4"),
        ("site=desy", "there is no layer site/desy"),
        ("site=cer", "there is no layer site/cer"),
        ("farm=red", "the farm is blue"),
        ("without=hooks", "hooks is switched on"),
    ],
)
def test_what_does_not_hold_and_why(text: str, why: str) -> None:
    assert faults(f"image=debian-12-worker,{text}") == [(text, why)]


@pytest.mark.parametrize(
    "text",
    ["", ",", "image", "image=", "image=A", "image=x@", "image=x@>=", "image=x@>1", "image=x@v1", "layer=atlas",
     "layer=a/b/c", "layer=experiment/a", "site=cern@4", "farm=blue@1", "without=hooks@1", "colour=blue",
     "image=x,,layer=a/b", "image=x@1@2", "x" * 5000],
)  # fmt: skip
def test_what_is_no_requirement_is_not_passed_over(text: str) -> None:
    with pytest.raises(Refused):
        attested.parse(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["image", "layers", "farm", "switched_on"]), JSON, max_size=4))
def test_an_attestation_of_another_shape_fulfils_nothing(attestation: dict[str, Any]) -> None:
    for text in ("image=x@1", "layer=a/b", "site=c", "farm=f"):
        try:
            assert list(attested.faults(attestation, attested.parse(text))) != []
        except Refused:
            continue


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "run/kiosk"
    folder.mkdir(parents=True)
    (folder / "attestation.json").write_text(json.dumps(ATTESTATION))
    (folder / "life.json").write_text(json.dumps({"state": "ready", "stops_uptime": 5000}))
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/uptime").write_text("1000.00 0.00\n")
    return tmp_path


def test_exit_codes_are_the_answer(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ask(*words: str) -> int:
        return attest_command.main(list(words), root)

    assert ask() == HOLDS
    assert "debian-12-worker@20260301.10" in capsys.readouterr().out
    assert ask("--json") == HOLDS
    assert json.loads(capsys.readouterr().out) == ATTESTATION
    assert ask("--require", "site=cern", "--stops-after", "4000") == HOLDS
    assert ask("--require=site=cern", "--stops-after=4001") == FAILS
    assert capsys.readouterr().out == "stops-after 4001: this machine stops within 4000 s\n"
    assert ask("--json", "--require", "site=desy") == FAILS
    assert json.loads(capsys.readouterr().out)["faults"][0]["requirement"] == "site=desy"
    for words in (["--require"], ["--stops-after", "1h"], ["--what"], ["--require", "x"], ["--json=1"]):
        assert ask(*words) == USAGE
    (root / "run/kiosk/life.json").unlink()
    assert ask("--stops-after", "1") == FAILS
    (root / "run/kiosk/attestation.json").unlink()
    assert ask("--require", "site=cern") == ABSENT


@pytest.mark.parametrize("how", ["owner", "mode", "link", "text", "list"])
def test_an_attestation_that_others_could_have_written_is_none(root: Path, how: str) -> None:
    path = root / "run/kiosk/attestation.json"
    if how == "owner":
        os.chown(path, 65534, 65534)
    elif how == "mode":
        path.chmod(0o666)
    elif how == "link":
        path.rename(root / "other")
        path.symlink_to(root / "other")
    else:
        path.write_text("{" if how == "text" else "[]")
    assert attest_command.main(["--require", "site=cern"], root) == ABSENT


def test_the_command_is_quick_and_a_jobs_python_does_not_change_it(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(0)")
    script = "import sys; sys.path.insert(0, sys.argv[1]); from contextualize import attest_command as a\n"
    script += (
        "a.main(['--help']); bad = {'tuf', 'ssl', 'http.client', 'socket', 'subprocess'} & set(sys.modules)\n"
    )
    script += "sys.exit(', '.join(bad) or 0)"
    code = Path(attest_command.__file__).parent
    shebang = (code / "files/usr/bin/kiosk-attest").read_text().splitlines()[0]
    assert shebang == "#!/usr/bin/python3 -IS"
    words = [sys.executable, "-IS", "-c", script, str(code.parent)]
    subprocess.run(words, check=True, env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)


def test_a_boot_writes_what_the_command_reads(
    guest: Guest, squashfs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "run", lambda *_: None)  # the farm itself is not what this is about
    files: Files = {"bin/tool": "#!/bin/sh\n"}
    guest.add_layer("site/example/base", squashfs(files), {"farms": {"blue": {"kind": "slurm"}}})
    guest.context["life"] = {"age": 3600, "drain": 600}
    guest.context["farm"] = {"kind": "slurm", "name": "blue", "settings": {}, "secrets": {"key": "c2VjcmV0"}}
    assert guest.boot() == 0
    text = "image=debian-12-minimal@>=20260301,site=example,farm=blue,without=hooks"
    assert attest_command.main(["--require", text, "--stops-after", "4187"], guest.root) == HOLDS
    assert attest_command.main(["--stops-after", "4188"], guest.root) == FAILS
    said = guest.text("/run/kiosk/attestation.json") + guest.text("/run/kiosk/private/plan.json")
    assert "c2VjcmV0" not in said and "secret" not in said
