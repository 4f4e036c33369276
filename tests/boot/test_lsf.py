"""A real node joins an LSF-compatible cluster, has a job, is drained by its hypervisor, and leaves when that is done:
the guest's own code against a simulated cluster (tests/simulators/lsf), whose programs a site layer brings."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from kiosk.cloud.qemu import argv, process
from kiosk.run import run
from tests.boot import trial
from tests.boot.crafted import DAEMONS
from tests.boot.farm import IMAGE, Farm, attested

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
NODE = "lsf-1"
JOB = {"id": 7, "user": "alice", "name": "long", "hosts": [NODE], "status": "RUN"}
CHANGE = f"""
import sys
sys.path.insert(0, {str(trial.PYTHON)!r})
from pathlib import Path
from tests.simulators.lsf.cluster import State
with State(Path({str(trial.CLUSTER)!r}))() as state:
    state["jobs"] = JOBS
"""


def test_a_node_joins_lsf_has_a_job_is_drained_and_leaves(farm: Farm, folder: Path) -> None:
    trial.published(farm, folder)
    context = folder / "context.json"
    context.write_text(json.dumps({"farm": trial.lsf(timeout=300)}))

    def kiosk(*words: str) -> str:
        return farm.kiosk("hypervisor", "vm", *words)

    def said(*command: str) -> str:
        return kiosk("exec", NODE, "--", *command)

    def state() -> dict[str, Any]:
        found = json.loads(kiosk("show", NODE, "--json"))
        assert isinstance(found, dict)
        return found

    words = ("--layer", trial.NAME, "--name", NODE, "--context", str(context), "--timeout", "600")
    kiosk("start", IMAGE, *words)
    try:
        assert attested(farm, NODE)["attestation"]["farm"] == {"kind": "lsf", "name": "batch"}
        assert said("/opt/site/bin/bhosts", "-w", NODE).splitlines()[1].split()[:2] == [NODE, "ok"]
        log = said("journalctl", "-b", "-u", "kiosk-contextualize", "-o", "cat")
        assert "join: batch: waiting: " in log, log  # for what, depends on when it looked
        assert "join: batch: open: lsload says ok, bhosts says ok" in log
        assert "[resource kiosk]" in said("cat", "/run/kiosk/lsf/lsf.conf")
        assert said("sh", "-c", DAEMONS).strip() == "3"

        said("python3", "-c", CHANGE.replace("JOBS", repr([JOB])))
        kiosk("drain", NODE, "--reason", "new kernel")
        until = time.monotonic() + 120
        while (now := state())["jobs"] is None and time.monotonic() < until:
            time.sleep(0.2)
        assert (now["state"], now["jobs"], now["reason"]) == ("draining", 1, "new kernel")
        assert said("/opt/site/bin/bhosts", "-w", NODE).splitlines()[1].split()[:2] == [NODE, "closed_Adm"]
        said("python3", "-c", CHANGE.replace("JOBS", "[]"))
        while now["uuid"] in process.running() and time.monotonic() < until:
            time.sleep(0.2)
        # Before anybody looks: what a VM that has ended leaves is wiped then, but for what explains its end.
        left = cluster(farm.settings.vms / now["id"], folder)["hosts"][NODE]
        now = state()
        assert (now["state"], now["reason"]) == ("stopped", "new kernel")
    finally:
        kiosk("stop", NODE, "--now")
    assert left["closed"] == "kiosk: new kernel" and left["lock"] == "kiosk"
    assert left["removed"] > left["started"]["sbatchd"]


def cluster(vm: Path, folder: Path) -> dict[str, Any]:
    """The cluster's state at the end, from the scratch disk of the VM."""
    raw = folder / "scratch.raw"
    run(["qemu-img", "convert", "-O", "raw", vm / argv.SCRATCH, raw], timeout=300)
    found = json.loads(run(["debugfs", "-R", "cat /lsf/cluster.json", raw], timeout=60))
    assert isinstance(found, dict)
    return found
