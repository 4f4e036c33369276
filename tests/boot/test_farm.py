"""A worker's whole life in a real farm: it joins a Slurm cluster over the network, runs jobs, drains at its age while
one of them still runs, leaves, and powers off with no job lost. And a worker that can't join never takes one.

The VM is of the published worker image with layers of three parties, on a tap interface as a hypervisor has it. The
cluster is Debian's slurmctld on this host; the node gets its configuration from it, and jobs are shut in cgroups.
"""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from kiosk import files
from kiosk.cloud.api import VmState
from kiosk.cloud.qemu import process
from kiosk.errors import NotFoundError
from kiosk.model.names import LayerRef
from tests.boot import bridge
from tests.boot.bridge import HOST, Store
from tests.boot.farm import LAYERS, Farm, also
from tests.simulators.slurm import SlurmCluster, free_port, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
WORKER = "debian-12-worker"
OTHER = "experiment/other/tools"
TOML = """
kind = "experiment"
owner = "other"
name = "tools"
description = "Another experiment's software"
images = ["debian-12-worker"]

[environment]
VO_OTHER_SW_DIR = "/opt/experiment/other"
"""
CONF = {
    "ProctrackType": "proctrack/cgroup",
    "TaskPlugin": "task/cgroup",
    "TaskProlog": "/usr/bin/kiosk-jobfeatures",
    "MessageTimeout": "10",
}
AGE = 240
READY = 400
PILOT = "pilot"
ACCOUNT = f"{PILOT}:x:990:990::/home/pilot:/bin/bash"
"""The account that the site's layer declares, as the controller must know it, too."""
CHECK = """
kiosk-attest --require '{requires}' || exit 11
kiosk-attest --require layer=other/missing 2>/dev/null && exit 12
{{
    echo "$(id -un) on $(hostname)"
    "$VO_DEMO_SW_DIR/bin/hello" | head -n 1
    "$VO_OTHER_SW_DIR/bin/count"
    echo "machine: $(cat "$MACHINEFEATURES/total_cpu") processors"
    echo "job $(cat "$JOBFEATURES/job_id"): $(cat "$JOBFEATURES/allocated_cpu") of them"
    echo "stops $(($(cat "$JOBFEATURES/shutdowntime_job") - $(cat "$MACHINEFEATURES/shutdowntime"))) s apart"
    echo "cgroup $(grep -o 'job_[0-9]*' /proc/self/cgroup)"
    ls /run/kiosk/private >/dev/null 2>&1 || echo private
}} >/tmp/$SLURM_JOB_ID.out
curl -fsS -T /tmp/$SLURM_JOB_ID.out {store}/$SLURM_JOB_ID
"""
LONG = """
curl -fsS -X PUT -d began {store}/$SLURM_JOB_ID
curl -fsS {store}/until
curl -fsS -X PUT -d ended {store}/$SLURM_JOB_ID
"""


@pytest.fixture(scope="module")
def layers(farm: Farm, folder: Path) -> tuple[str, ...]:
    """The layers of the site and of both experiments; the second has a key of its own."""
    try:
        farm.cache.resolve(LayerRef.parse(OTHER))
    except NotFoundError:
        recipe, role = folder / "other", "experiment-other"
        (recipe / "files/bin").mkdir(parents=True)
        (recipe / "layer.toml").write_text(TOML)
        files.write(recipe / "files/bin/count", b"#!/bin/sh\necho counted 3\n", mode=0o755)
        farm.kiosk("kiosk-host", "key", "create", role)
        key = str(farm.home / f"kiosk-host/keys/{role}.pub")
        farm.kiosk("kiosk-host", "delegate", "experiment/other", "--key", key)
        farm.kiosk("kiosk-host", "layer", "build", str(recipe))
        farm.kiosk("kiosk-host", "layer", "publish", OTHER)
        farm.kiosk("hypervisor", "sync", OTHER)
    return (*LAYERS, OTHER)


@pytest.fixture(scope="module")
def image(farm: Farm) -> str:
    """The worker image, NAME@VERSION."""
    return str(also(farm, WORKER))


@pytest.fixture(scope="module")
def taps() -> Iterator[tuple[str, ...]]:
    with bridge.bridge() as found:
        yield found


@pytest.fixture(scope="module")
def cluster(taps: tuple[str, ...]) -> Iterator[SlurmCluster]:
    """The controller, at HOST; its nodes reach it by the network alone."""
    home = Path(tempfile.mkdtemp(prefix="kiosk-slurm-", dir="/tmp"))
    home.chmod(0o755)
    found = None
    try:
        spool = Path("/var/spool/slurmd")
        found = SlurmCluster(home / "controller", spool, address=HOST, other=CONF, accounts=[ACCOUNT])
        yield found
    finally:
        if found is not None:
            found.close()
        shutil.rmtree(home)


@pytest.fixture
def store(taps: tuple[str, ...]) -> Iterator[Store]:
    found = Store()
    yield found
    found.close()


def told(folder: Path, tap: str, key: bytes, controller: str, timeout: int = 120) -> Path:
    """The context file of the VM at a tap."""
    settings = {"controllers": controller, "partition": "virtual"}
    context = {
        "network": {"address": f"{bridge.guest(tap)}/24"},
        "life": {"age": AGE, "drain": 600},
        "farm": {
            "kind": "slurm",
            "name": "ci",
            "timeout": timeout,
            "settings": settings,
            "secrets": {"munge_key": base64.b64encode(key).decode()},
        },
    }
    file = folder / f"{tap}.json"
    files.write(file, json.dumps(context).encode(), mode=0o600)
    return file


@contextmanager
def vm(farm: Farm, name: str, image: str, layers: tuple[str, ...], tap: str, context: Path) -> Iterator[None]:
    """A VM that is starting; what is left of it is removed."""
    words = [word for layer in layers for word in ("--layer", layer)]
    words += ["--name", name, "--tap", tap, "--context", str(context), "--no-wait"]
    farm.kiosk("hypervisor", "vm", "start", image, *words)
    try:
        yield
    finally:
        farm.kiosk("hypervisor", "vm", "stop", name, "--now")


def state(farm: Farm, name: str) -> VmState:
    return farm.cloud().find(name)


def reaches(farm: Farm, name: str, phase: str, seconds: float) -> VmState:
    """Waits until a VM is in a phase, or will never be."""
    wait_for(lambda: state(farm, name).phase in (phase, "stopped", "failed"), f"{name}: {phase}", seconds)
    found = state(farm, name)
    assert found.phase == phase, (found, console(farm, name)[-3000:])
    return found


def console(farm: Farm, name: str) -> str:
    return farm.kiosk("hypervisor", "vm", "console", name, "--log")


def submitted(cluster: SlurmCluster, script: str) -> int:
    """A job of the account that the site's layer declares, with the environment that a login on the node gives."""
    options = (
        "-p",
        "virtual",
        "-o",
        "/dev/null",
        "--mem=100",
        "--export=NONE",
        "--chdir=/tmp",
        "--wrap",
        script,
    )
    user = ("setpriv", "--reuid", PILOT, "--regid", "990", "--clear-groups")
    return int(cluster.said(*user, "sbatch", "--parsable", *options))


def test_a_worker_joins_runs_jobs_drains_at_its_age_and_leaves_with_no_job_lost(
    farm: Farm, folder: Path, image: str, layers: tuple[str, ...], cluster: SlurmCluster, store: Store,
    taps: tuple[str, ...],
) -> None:  # fmt: skip
    def inside(*command: str) -> str:
        return farm.kiosk("hypervisor", "vm", "exec", "wn-1", "--", *command)

    with vm(farm, "wn-1", image, layers, taps[0], told(folder, taps[0], cluster.key, cluster.address)):
        reaches(farm, "wn-1", "ready", READY)
        assert cluster.nodes() == ["wn-1 IDLE+DYNAMIC_NORM"]
        requires = f"image={WORKER}@>={image.split('@')[1]},layer=demo/software,layer=other/tools,site=example,farm=ci"
        checks = submitted(cluster, CHECK.format(requires=requires, store=store.url))
        wait_for(lambda: cluster.job(checks) in ("COMPLETED", "FAILED"), "the first job", 60)
        assert cluster.job(checks) == "COMPLETED", cluster.said("scontrol", "show", "job", str(checks))
        assert store.received[str(checks)].splitlines() == [
            "pilot on wn-1",
            "Hello from the demo experiment's software 4.2.0 in /opt/experiment/demo",
            "counted 3",
            "machine: 1 processors",
            f"job {checks}: 1 of them",
            "stops 0 s apart",
            f"cgroup job_{checks}",
            "private",
        ]

        long = submitted(cluster, LONG.format(store=store.url))
        wait_for(lambda: store.received.get(str(long)) == "began", "the second job", 60)
        draining = reaches(farm, "wn-1", "draining", AGE + 60)
        assert str(draining.reason).startswith(f"its age: {AGE} s after its start"), draining
        wait_for(lambda: state(farm, "wn-1").jobs == 1, "the job in the report", 60)
        late = submitted(cluster, "true")

        before = inside("systemctl", "show", "-P", "MainPID", "kiosk-drain")
        inside("systemctl", "kill", "-s", "KILL", "kiosk-drain")
        wait_for(lambda: inside("systemctl", "show", "-P", "MainPID", "kiosk-drain") not in (before, "0\n"),
                 "the drain goes on", 60)  # fmt: skip
        assert cluster.job(long) == "RUNNING" and cluster.job(late) == "PENDING"
        assert "DRAIN" in cluster.nodes()[0], cluster.nodes()
        assert "kiosk: its age" in cluster.said("sinfo", "-h", "-R", "-o", "%E")

        store.open.set()
        stopped = reaches(farm, "wn-1", "stopped", 120)
        assert str(stopped.reason).startswith(f"its age: {AGE} s after its start"), stopped
        assert store.received[str(long)] == "ended"
        assert cluster.job(long) == "COMPLETED"
        assert cluster.nodes() == [] and "wn-1" not in cluster.said("sinfo", "-h", "-N")
        assert cluster.job(late) == "PENDING"
        cluster.said("scancel", str(late))
        words = console(farm, "wn-1")
        assert "kiosk: draining, 1 jobs left: its age" in words and "kiosk: stopping: its age" in words


def test_a_worker_with_another_clusters_key_or_without_its_controller_takes_no_job_and_stops(
    farm: Farm,
    folder: Path,
    image: str,
    layers: tuple[str, ...],
    cluster: SlurmCluster,
    taps: tuple[str, ...],
) -> None:
    """Both are started together: each only waits, most of the time."""
    nowhere = f"{HOST}:{free_port()}"
    waiting = submitted(cluster, "true")
    with ExitStack() as stack:
        wrong = told(folder, taps[1], bytes(range(200)), cluster.address)
        stack.enter_context(vm(farm, "wrong-key", image, layers, taps[1], wrong))
        lost = told(folder, taps[2], cluster.key, nowhere, timeout=40)
        stack.enter_context(vm(farm, "unreached", image, layers, taps[2], lost))
        for name, why in (
            ("wrong-key", f"the controller {cluster.address} does not accept munge's credentials"),
            ("unreached", f"the controller {nowhere} can't be reached"),
        ):
            found = reaches(farm, name, "failed", READY)
            assert (found.stage, why in str(found.reason)) == ("join", True), found
            assert "kiosk: failed in join: farm ci" in console(farm, name)
            wait_for(lambda name=name: not alive(farm, name), f"{name} powers off", 60)
    assert cluster.nodes() == []
    assert cluster.job(waiting) == "PENDING"
    cluster.said("scancel", str(waiting))


def alive(farm: Farm, name: str) -> bool:
    """Whether the VM's process still runs."""
    return state(farm, name).uuid in process.running()
