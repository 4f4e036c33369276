"""The road end to end, by the commands that the README names: `kiosk demo` on real input."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(os.environ.get("KIOSK_TEST_HOME", "/var/tmp/kiosk-test"))


def processes_below(folder: Path) -> list[str]:
    """Command lines of running processes that name the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and entry.parent.name != str(os.getpid()):
            found.append(line)
    return found


def moved(report: str) -> list[float]:
    """Bytes that the hypervisor moved in each sync, as the closing table says."""
    units = {"kB": 1e3, "MB": 1e6}
    return [float(n) * units[unit] for n, unit in re.findall(r"([0-9.]+) (kB|MB) moved in", report)]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_demo_walks_the_whole_road_and_leaves_nothing_running() -> None:
    home = HOME / "demo"
    home.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "kiosk", "demo", "--home", str(home)],
        env={**os.environ, "KIOSK_CACHE": str(HOME / "cache")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1400,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    full, difference = moved(done.stdout)
    assert difference < full / 10, "the second sync moves only the difference"
    assert "Hello from the demo experiment" in done.stdout
    assert "signed by site-example" in done.stdout
    for line in ("hello: 4 done", "burst: 4 done", "2 joined", "no VM is left"):
        assert line in done.stdout, "the scheduler started nodes for jobs, and they went"
    assert "8 jobs ran on 2 nodes, which are gone" in " ".join(done.stdout.split())
    assert processes_below(home) == []
    assert str(home) not in Path("/proc/self/mounts").read_text()
    root = home / "kiosk-host"
    built = sorted((root / "built/debian-12-minimal").iterdir())
    assert [b.name.split(".")[1] for b in built] == ["1", "2"]
