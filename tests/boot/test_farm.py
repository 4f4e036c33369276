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
from dataclasses import dataclass
from pathlib import Path

import pytest

from kiosk import files
from kiosk.cloud.api import VmState
from kiosk.cloud.qemu import process
from kiosk.errors import NotFoundError
from kiosk.model.names import LayerRef
from tests.boot import bridge
from tests.boot.bridge import HOST, Store
from tests.boot.farm import Farm, also
from tests.boot.trial import publish
from tests.simulators.slurm import SlurmCluster, free_port, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
WORKER = "debian-12-worker"
SITE, DEMO, OTHER = "site/example/workers", "experiment/demo/software", "experiment/other/tools"
MADE = {
    SITE: """
kind = "site"
owner = "example"
name = "workers"
description = "What the site's workers have"
images = ["debian-12-worker"]
allows = ["farm"]

[[users]]
name = "pilot"
uid = 990
home = "/home/pilot"
shell = "/bin/bash"
""",
    OTHER: """
kind = "experiment"
owner = "other"
name = "tools"
description = "Another experiment's software"
images = ["debian-12-worker"]

[environment]
VO_OTHER_SW_DIR = "/opt/experiment/other"
""",
}
CONF = {
    "ProctrackType": "proctrack/cgroup",
    "TaskPlugin": "task/cgroup",
    "TaskProlog": "/usr/bin/kiosk-jobfeatures",
    "MessageTimeout": "10",
}
AGE = 180
"""Seconds from the start of its kernel after which the worker drains: a slow machine boots it and runs jobs by then."""
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


@dataclass(frozen=True)
class Workers:
    """Workers with the layers of the site and of two experiments, which a hypervisor starts for the cluster."""

    farm: Farm
    folder: Path
    image: str
    layers: tuple[str, ...]

    def told(self, tap: str, key: bytes, controller: str, timeout: int) -> Path:
        """The context file of the VM at a tap."""
        file = self.folder / f"{tap}.json"
        context = {
            "network": {"address": f"{bridge.guest(tap)}/24"},
            "life": {"age": AGE, "drain": 600},
            "farm": {
                "kind": "slurm",
                "name": "ci",
                "timeout": timeout,
                "settings": {"controllers": controller, "partition": "virtual"},
                "secrets": {"munge_key": base64.b64encode(key).decode()},
            },
        }
        files.write(file, json.dumps(context).encode(), mode=0o600)
        return file

    @contextmanager
    def start(self, name: str, tap: str, key: bytes, controller: str, timeout: int = 120) -> Iterator[None]:
        """A VM that is starting; what is left of it is removed."""
        words = [word for layer in self.layers for word in ("--layer", layer)]
        words += ["--tap", tap, "--context", str(self.told(tap, key, controller, timeout)), "--no-wait"]
        self.farm.kiosk("hypervisor", "vm", "start", self.image, "--name", name, *words)
        try:
            yield
        finally:
            self.farm.kiosk("hypervisor", "vm", "stop", name, "--now")

    def state(self, name: str) -> VmState:
        """A VM's state."""
        return self.farm.cloud().find(name)

    def reaches(self, name: str, phase: str, seconds: float) -> VmState:
        """Waits until a VM is in a phase, or will never be."""
        ends = (phase, "stopped", "failed")
        wait_for(lambda: self.state(name).phase in ends, f"{name}: {phase}", seconds)
        found = self.state(name)
        assert found.phase == phase, (found, self.console(name)[-3000:])
        return found

    def console(self, name: str) -> str:
        """What a VM wrote to its console."""
        return self.farm.kiosk("hypervisor", "vm", "console", name, "--log")

    def inside(self, name: str, *command: str) -> str:
        """Runs a command in a VM."""
        return self.farm.kiosk("hypervisor", "vm", "exec", name, "--", *command)


@pytest.fixture(scope="module")
def image(farm: Farm) -> str:
    """The worker image, NAME@VERSION."""
    return str(also(farm, WORKER))


@pytest.fixture(scope="module")
def layers(farm: Farm, folder: Path, image: str) -> tuple[str, ...]:
    """The layers of the site and of both experiments; the site's, which lets a context choose the farm, and the second
    experiment's are made for the image."""
    for layer, toml in MADE.items():
        try:
            farm.cache.resolve(LayerRef.parse(layer))
        except NotFoundError:
            recipe = folder / layer.replace("/", "-")
            (recipe / "files/bin").mkdir(parents=True)
            (recipe / "layer.toml").write_text(toml)
            files.write(recipe / "files/bin/count", b"#!/bin/sh\necho counted 3\n", mode=0o755)
            publish(farm, recipe, layer)
    return (SITE, DEMO, OTHER)


@pytest.fixture(scope="module")
def workers(farm: Farm, folder: Path, image: str, layers: tuple[str, ...]) -> Workers:
    return Workers(farm, folder, image, layers)


@pytest.fixture(scope="module")
def taps() -> Iterator[tuple[str, ...]]:
    with bridge.bridge() as found:
        yield found


@pytest.fixture(scope="module")
def cluster(taps: tuple[str, ...]) -> Iterator[SlurmCluster]:
    """The controller, at HOST; its nodes reach it by the network alone."""
    home = Path(tempfile.mkdtemp(prefix="kiosk-slurm-", dir="/tmp"))
    home.chmod(0o755)
    spool = Path("/var/spool/slurmd")
    try:
        found = SlurmCluster(home / "controller", spool, address=HOST, other=CONF, accounts=[ACCOUNT])
        yield found
        found.close()
    finally:
        shutil.rmtree(home)


@pytest.fixture
def store(taps: tuple[str, ...]) -> Iterator[Store]:
    found = Store()
    yield found
    found.close()


def submitted(cluster: SlurmCluster, script: str) -> int:
    """A job of the account that the site's layer declares, with the environment that a login on the node gives."""
    user = ("setpriv", "--reuid", PILOT, "--regid", "990", "--clear-groups")
    options = ("--partition=virtual", "--output=/dev/null", "--mem=100", "--export=NONE", "--chdir=/tmp")
    return int(cluster.said(*user, "sbatch", "--parsable", *options, "--wrap", script))


def test_a_worker_joins_runs_jobs_drains_at_its_age_and_leaves_with_no_job_lost(
    workers: Workers, cluster: SlurmCluster, store: Store, taps: tuple[str, ...]
) -> None:
    with workers.start("wn-1", taps[0], cluster.key, cluster.address):
        workers.reaches("wn-1", "ready", READY)
        assert cluster.nodes() == ["wn-1 IDLE+DYNAMIC_NORM"]
        a_job_finds_what_it_requires(workers, cluster, store)

        long = submitted(cluster, LONG.format(store=store.url))
        wait_for(lambda: store.received.get(str(long)) == "began", "the second job", 60)
        draining = workers.reaches("wn-1", "draining", AGE + 60)
        assert str(draining.reason).startswith(f"its age: {AGE} s after its start"), draining
        wait_for(lambda: workers.state("wn-1").jobs == 1, "the job in the report", 60)
        late = submitted(cluster, "true")
        the_drain_is_killed_and_goes_on(workers)
        assert cluster.job(long) == "RUNNING" and cluster.job(late) == "PENDING"
        assert "DRAIN" in cluster.nodes()[0], cluster.nodes()
        assert "kiosk: its age" in cluster.said("sinfo", "-h", "-R", "-o", "%E")

        store.open.set()
        stopped = workers.reaches("wn-1", "stopped", 120)
        assert str(stopped.reason).startswith(f"its age: {AGE} s after its start"), stopped
        assert (store.received[str(long)], cluster.job(long)) == ("ended", "COMPLETED")
        assert cluster.nodes() == [] and "wn-1" not in cluster.said("sinfo", "-h", "-N")
        assert cluster.job(late) == "PENDING"
        cluster.said("scancel", str(late))
        words = workers.console("wn-1")
        assert "kiosk: draining, 1 jobs left: its age" in words and "kiosk: stopping: its age" in words


def a_job_finds_what_it_requires(workers: Workers, cluster: SlurmCluster, store: Store) -> None:
    version = workers.image.split("@")[1]
    requires = f"image={WORKER}@>={version},layer=demo/software,layer=other/tools,site=example,farm=ci"
    job = submitted(cluster, CHECK.format(requires=requires, store=store.url))
    wait_for(lambda: cluster.job(job) in ("COMPLETED", "FAILED"), "the first job", 60)
    assert cluster.job(job) == "COMPLETED", cluster.said("scontrol", "show", "job", str(job))
    assert store.received[str(job)].splitlines() == [
        "pilot on wn-1",
        "Hello from the demo experiment's software 4.2.0 in /opt/experiment/demo",
        "counted 3",
        "machine: 1 processors",
        f"job {job}: 1 of them",
        "stops 0 s apart",
        f"cgroup job_{job}",
        "private",
    ]


def the_drain_is_killed_and_goes_on(workers: Workers) -> None:
    def pid() -> str:
        return workers.inside("wn-1", "systemctl", "show", "-P", "MainPID", "kiosk-drain").strip()

    before = pid()
    workers.inside("wn-1", "systemctl", "kill", "-s", "KILL", "kiosk-drain")
    wait_for(lambda: pid() not in (before, "0"), "the drain goes on", 60)


def test_a_worker_with_another_clusters_key_or_without_its_controller_takes_no_job_and_stops(
    workers: Workers, cluster: SlurmCluster, taps: tuple[str, ...]
) -> None:
    """Both are started together: each only waits, most of the time."""
    nowhere = f"{HOST}:{free_port()}"
    waiting = submitted(cluster, "true")
    with ExitStack() as vms:
        vms.enter_context(workers.start("wrong-key", taps[1], bytes(range(200)), cluster.address))
        vms.enter_context(workers.start("unreached", taps[2], cluster.key, nowhere, timeout=40))
        for name, why in (
            ("wrong-key", f"the controller {cluster.address} does not accept munge's credentials"),
            ("unreached", f"the controller {nowhere} can't be reached"),
        ):
            found = workers.reaches(name, "failed", READY)
            assert (found.stage, why in str(found.reason)) == ("join", True), found
            (said,) = [line for line in workers.console(name).splitlines() if "kiosk: failed in" in line]
            assert why in said
            wait_for(lambda uuid=found.uuid: uuid not in process.running(), f"{name} powers off", 60)
    assert cluster.nodes() == []
    assert cluster.job(waiting) == "PENDING"
    cluster.said("scancel", str(waiting))
