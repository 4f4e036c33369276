"""Whatever ends a build, its mounts and processes end with it; a failure shows the lines that matter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kiosk.build.dib import explain_failure
from kiosk.build.sandbox import mounts_below, run_confined
from kiosk.errors import BuildError, StorageError
from kiosk.run import CommandError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
MOUNTS = 'mkdir -p "$0/a" && mount -t tmpfs x "$0/a" && mkdir "$0/a/b" && mount --bind /usr "$0/a/b"'


@needs_root
def test_mounts_are_the_builds_own(tmp_path: Path) -> None:
    seen: list[str] = []
    run_confined(
        ["sh", "-c", f'{MOUNTS} && grep -c "$0" /proc/mounts', str(tmp_path)],
        folder=tmp_path, timeout=30, log_to=tmp_path / "log", on_line=seen.append, env={},
    )  # fmt: skip
    assert seen == ["2"]
    assert mounts_below(tmp_path) == []
    assert list((tmp_path / "a").iterdir()) == []


@needs_root
def test_a_failing_build_leaves_no_mount(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as caught:
        run_confined(
            ["sh", "-c", f"{MOUNTS} && exit 7", str(tmp_path)],
            folder=tmp_path, timeout=30, log_to=tmp_path / "log", on_line=str, env={},
        )  # fmt: skip
    assert caught.value.status == 7
    assert mounts_below(tmp_path) == []


@needs_root
def test_ctrl_c_ends_every_process_of_the_build(tmp_path: Path) -> None:
    marker = f"31{os.getpid()}"
    code = f"""
import sys
from pathlib import Path
from kiosk.build.sandbox import run_confined
folder = Path(sys.argv[1])
run_confined(["sh", "-c", '{MOUNTS} && echo up && (trap "" TERM INT; setsid sleep {marker} & wait)', str(folder)],
    folder=folder, timeout=60, log_to=folder / "log", on_line=lambda l: print(l, flush=True), env={{}})
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    time.sleep(0.3)
    assert marker in commands()
    process.send_signal(signal.SIGINT)
    process.wait(timeout=15)
    time.sleep(0.2)
    assert marker not in commands()
    assert mounts_below(tmp_path) == []


def commands() -> str:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0] == b"sleep":
            found.append(b" ".join(words).decode())
    return "\n".join(found)


LOG = """\
dib-run-parts Running /x/hooks/install.d/01-package-installs
2026-01-01 00:00:00.000 | + set -eu
> Reading package lists...
> E: Unable to locate package no-such-thing
install-packages failed with returncode 100
"""


def test_a_failed_build_says_why(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text(LOG)
    error = explain_failure(log, 1)
    assert isinstance(error, BuildError)
    assert "install.d/01-package-installs" in error.what
    assert "E: Unable to locate package no-such-thing" in error.what
    assert "Reading package lists" not in error.what
    assert str(log) in str(error.hint)
    log.write_text(LOG + "tar: ./x: Cannot write: No space left on device\n")
    assert isinstance(explain_failure(log, 1), StorageError)


def test_a_release_whose_keys_the_host_does_not_know_comes_with_what_to_do(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text(
        "dib-run-parts Running /x/root.d/08-debootstrap\n"
        "I: Checking Release signature\n"
        "E: Release signed by unknown key (key id 762F67A0B2C39DE4)\n"
        "   The specified keyring /usr/share/keyrings/debian-archive-keyring.gpg may be incorrect\n"
    )
    error = explain_failure(log, 1)
    assert "unknown key" in error.what
    assert (
        error.hint is not None and "install debian-archive-keyring" in error.hint and str(log) in error.hint
    )
