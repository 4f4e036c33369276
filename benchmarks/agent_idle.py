"""What an idle agent costs, and how soon it moves: `python -m benchmarks.agent_idle [--seconds 60] [--json FILE]`.

A real daemon against a real repository on loopback (tests/simulators has both): memory by smaps_rollup, processor
time by /proc/PID/stat while nothing happens; then versions are published and announced, and the time until the
work asks for its lease and until the first object is asked for is taken.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from tests.simulators.agent_host import Hypervisor, hypervisor
from tests.simulators.kiosk_api import Fleet, fleet
from tests.simulators.published import Kiosk, ready

TICKS = os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> dict[str, float]:
    """Rss and Pss in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.endswith("kB")}
    return {"rss": found["Rss"], "pss": found["Pss"]}


def busy(pid: int) -> float:
    """Seconds of processor time that the process and all its ended children have had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(f) for f in fields[11:15]) / TICKS


def idle(host: Hypervisor, seconds: float) -> dict[str, float]:
    """The cost of doing nothing."""
    assert host.process is not None
    pid = host.process.pid
    before, begin = busy(pid), time.monotonic()
    time.sleep(seconds)
    spent = busy(pid) - before
    return {**memory(pid), "core_percent": 100 * spent / (time.monotonic() - begin)}


def first_bytes(kiosk: Kiosk, server: Fleet, host: Hypervisor, times: int) -> list[float]:
    """Seconds from the event until an object of the new version is asked for."""
    found = []
    for n in range(times):
        host.wait(lambda: host.state().get("state") == "idle" and host.worker() is None)
        kiosk.image(version=str(n + 2))
        with server.told:
            server.asked.clear()
        begin = time.monotonic()
        server.changed()
        host.wait(lambda: any(path.startswith("/objects/") for path in server.asked))
        found.append(time.monotonic() - begin)
        host.wait(lambda wanted=str(n + 2): host.current() == wanted)  # type: ignore[misc]
    return found


def main() -> None:
    """Measures and prints."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--times", type=int, default=5)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kiosk = ready(Path(folder))
        with fleet(kiosk.settings.repository) as server, hypervisor(kiosk, server.url) as host:
            host.wait(lambda: host.state().get("state") == "idle" and host.worker() is None)
            time.sleep(2)
            cost = idle(host, given.seconds)
            moved = first_bytes(kiosk, server, host, given.times)
    print(
        f"idle for {given.seconds:.0f} s: {cost['rss']:.1f} MiB RSS, {cost['pss']:.1f} MiB PSS, "
        f"{cost['core_percent']:.3f} % of a core"
    )
    print(
        f"event to first object: median {statistics.median(moved):.2f} s, worst {max(moved):.2f} s of {len(moved)}"
    )
    if given.json:
        given.json.write_text(json.dumps({"idle": cost, "first_object_seconds": moved}) + "\n")


if __name__ == "__main__":
    main()
