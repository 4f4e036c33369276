"""Real builds: the same tree gives the same image, an interrupted build leaves nothing, two builds never meet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from kiosk.build import image
from kiosk.build.sandbox import mounts_below
from kiosk.config import Settings
from kiosk.errors import BusyError, UsageError
from kiosk.files import locked
from kiosk.model.names import Version
from kiosk.run import run
from tests.simulators.images import NAME, built_image, kept_home

ROOT = Path(__file__).resolve().parents[2]
slow = pytest.mark.slow


def command(home: Path, *words: str) -> list[str]:
    code = "import sys; from kiosk.cli.main import main; sys.argv[0] = 'kiosk'; main()"
    return ["env", f"KIOSK_HOME={home}", f"PYTHONPATH={ROOT}", sys.executable, "-c", code, *words]


def test_a_build_that_is_not_root_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="needs root"):
        image.build(Settings(home=tmp_path), image.Request(NAME, None, None, fresh=False))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="building needs root")
def test_a_second_build_is_told_that_one_runs(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with (
        locked(settings.build_cache / "lock", what="a build"),
        pytest.raises(BusyError, match="already working"),
    ):
        image.build(settings, image.Request(NAME, None, None, fresh=False))
    assert not settings.images.exists()


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path / "home", "build", NAME, "--dry-run"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "kiosk-contextualize" in done.stdout
    assert not (tmp_path / "home").exists()


@slow
@pytest.mark.timeout(3000)
def test_the_same_tree_gives_the_same_image() -> None:
    home = kept_home()
    built_image(home)  # makes the tree, where there is none
    settings, version = Settings(home=home), Version((1, 1))
    seen = []
    for _ in range(2):
        target = settings.images / NAME / str(version)
        run(["rm", "-rf", target], timeout=60)
        made = image.build(settings, image.Request(NAME, version, None, fresh=False))
        assert made.reused_tree
        seen.append((target / "manifest.json").read_bytes())
        bill, packages = (json.loads((target / f"{n}.json").read_text()) for n in ("sbom", "packages"))
        run(["rm", "-rf", target], timeout=60)
    assert seen[0] == seen[1]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    kinds = Counter(c.get("purl", "file:")[:8] for c in bill["components"])
    assert (kinds["pkg:deb/"], kinds["file:"]) == (len(packages), 2)
    assert kinds["pkg:pypi"] >= 3  # the agent's cryptography, securesystemslib and tuf
    assert {p["name"]: p.get("source") for p in packages}["libc6"] == "glibc"
    assert sum(made.seconds.values()) < 120


@slow
@pytest.mark.timeout(600)
def test_an_interrupted_build_leaves_nothing_behind(tmp_path: Path) -> None:
    loops = run(["losetup", "--list", "--noheadings"], timeout=30)
    process = subprocess.Popen(
        command(tmp_path, "build", NAME), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "logs/build-debian-12.log"
    until = time.monotonic() + 300
    while time.monotonic() < until and not (log.exists() and "Retrieving" in log.read_text(errors="replace")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert mounts_below(tmp_path) == []
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not (tmp_path / "built").exists()
    assert run(["losetup", "--list", "--noheadings"], timeout=30) == loops
