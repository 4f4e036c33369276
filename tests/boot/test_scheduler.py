"""The scheduler with a real Slurm and real VMs: what waits in the queue starts nodes, which join and run it; a security
update replaces them one after the other, with no job lost; and when nothing waits any more, the minimum stays.

`kiosk scheduler run` is a process as a farm has it, and is killed once on the way. The cluster is Debian's slurmctld on
this host, the nodes are VMs of the published worker image at taps of a bridge, with addresses by DHCP.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest

from kiosk import clock
from kiosk.cloud.qemu import process
from kiosk.model.names import ImageRef, Version
from tests.boot import bridge
from tests.boot.bridge import HOST, Store
from tests.boot.farm import Farm, also
from tests.boot.scheduled import Scheduling, commands, context, copied
from tests.boot.trial import publish
from tests.simulators.slurm import SlurmCluster, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
WORKER, SITE = "debian-12-worker", "site/example/slurm"
LAYER = """
kind = "site"
owner = "example"
name = "slurm"
description = "Lets a context choose the farm"
images = ["debian-12-worker"]
allows = ["farm"]
"""
CONFIG = """
tick = "4 s"

[batch]
system = "slurm"
commands = "{commands}"

[cloud]
taps = ["kiosk-t1", "kiosk-t2", "kiosk-t3"]
cores = 4

[canary]
nodes = 1

[types.worker]
image = "debian-12-worker"
layers = ["site/example/slurm"]
flavour = "tiny"
minimum = 1
maximum = 3
max_unavailable = 1
keep = "30 s"
context = "{context}"
"""
JOB = """
kiosk-attest --require 'image={image},farm=ci' || exit 11
kiosk-attest --require 'image={newer}' 2>/dev/null && image=new || image=old
sleep 5
curl -fsS -X PUT -d "$(hostname) $image" {store}/$SLURM_JOB_ID
"""
CONF = {"MessageTimeout": "10", "MinJobAge": "3600"}
AT_ONCE = 2
"""Jobs that wait or run at any time, as long as there is demand: as many nodes are wanted."""
BOOT = 240.0
PHASES = ("phase wanted", "phase launching", "phase booting", "phase joined")


@dataclass
class Site:
    """The whole site, and what was seen of it on the way."""

    farm: Farm
    cluster: SlurmCluster
    store: Store
    scheduling: Scheduling
    old: str
    new: str
    demand: bool = True
    jobs: list[int] = field(default_factory=list)
    uuids: dict[str, str] = field(default_factory=dict)
    drained: int = 0
    began: float = field(default_factory=time.monotonic)

    def looks(self) -> None:
        """What holds at any moment; and jobs are submitted."""
        for name, vm in self.scheduling.vms().items():
            if name == "?":
                continue  # its folder is just being removed
            assert self.uuids.setdefault(name, vm.uuid) == vm.uuid, f"{name} was started twice"
        draining = sum("DRAIN" in node for node in self.cluster.nodes())
        self.drained = max(self.drained, draining)
        assert draining <= 1, self.cluster.nodes()
        left = self.cluster.said("squeue", "-h", "-o", "%i").split()
        for _ in range(AT_ONCE - len(left) if self.demand else 0):
            base = WORKER + "@>="
            script = JOB.format(
                image=base + self.old.partition("@")[2],
                newer=base + self.new.partition("@")[2],
                store=self.store.url,
            )
            options = ("--partition=virtual", "-o", "/dev/null", "--mem=100", "--export=NONE", "--chdir=/tmp")
            words = ("sbatch", "--parsable", *options, "--wrap", script)
            self.jobs.append(int(self.cluster.said(*words)))

    def until(self, what: str, holds: Callable[[], bool], seconds: float) -> None:
        """Waits until something holds."""
        end = time.monotonic() + seconds
        while True:
            self.looks()
            running = self.scheduling.process
            assert running is not None and running.poll() is None, self.told()
            if holds():
                print(f"{time.monotonic() - self.began:4.0f} s: {what}")
                return
            assert time.monotonic() < end, f"{what}: not after {seconds} s\n{self.told()}"
            time.sleep(1)  # a look takes processor time that the VMs need

    def told(self) -> str:
        """What explains a failure."""
        words = [str(n) for n in self.scheduling.nodes().values()] + self.cluster.nodes()
        logs = self.farm.settings.vms.glob("*/console.log")
        consoles = [log.read_text(errors="replace")[-1500:] for log in logs]
        return "\n".join([*words, self.scheduling.log.read_text()[-4000:], *consoles])

    def ran(self, word: str) -> set[str]:
        """The nodes on which jobs ran that found the old or the new image."""
        said = [text.split() for text in self.store.received.values()]
        return {node for node, image in said if image == word}


@pytest.fixture(scope="module")
def worker(farm: Farm) -> str:
    """The worker image, and a newer version of the same tree that is built and not published; this returns its
    NAME@VERSION."""
    old, built = also(farm, WORKER), farm.home / "kiosk-host/built" / WORKER
    if [folder.name for folder in built.iterdir()] == [str(old.version)]:
        farm.kiosk("kiosk-host", "build", WORKER, timeout=2400)
    return f"{WORKER}@{max(Version.parse(folder.name) for folder in built.iterdir())}"


@pytest.fixture
def site(farm: Farm, folder: Path, worker: str) -> Iterator[Site]:
    """A site on which no scheduler runs yet."""
    own = copied(farm, folder)
    (folder / "slurm/files").mkdir(parents=True)
    (folder / "slurm/layer.toml").write_text(LAYER)
    publish(own, folder / "slurm", SITE)
    with ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="kiosk-slurm-", dir="/tmp"))
        stack.callback(shutil.rmtree, home)
        home.chmod(0o755)
        stack.enter_context(bridge.bridge())
        stack.enter_context(bridge.addresses(folder))
        cluster = SlurmCluster(home / "controller", Path("/var/spool/slurmd"), address=HOST, other=CONF)
        stack.callback(cluster.close)
        store = Store()
        stack.callback(store.close)
        config = folder / "scheduler.toml"
        config.write_text(
            CONFIG.format(
                commands=commands(cluster, folder / "commands"),
                context=context(cluster, folder / "context.json"),
            )
        )
        scheduling = Scheduling(own, config)
        old = str(own.cache.resolve(ImageRef(WORKER)))
        try:
            yield Site(own, cluster, store, scheduling, old, worker)
        finally:
            if scheduling.process is not None:
                scheduling.kill()
            for vm in own.cloud().list_vms():
                own.cloud().stop(vm.id, now=True)


def test_demand_starts_nodes_an_update_replaces_them_one_by_one_and_the_minimum_stays(site: Site) -> None:
    scheduling = site.scheduling
    site.looks()
    scheduling.start()
    site.until("the first node joins", lambda: "joined" in scheduling.phases(), BOOT)
    site.until("the second one boots", lambda: scheduling.phases() == ["booting", "joined"], 60)
    killed_and_started_again_it_goes_on(site)
    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(site.farm.kiosk, "kiosk-host", "publish", site.new)
        site.until("jobs ran on two nodes", lambda: len(site.ran("old")) == 2, BOOT)
        site.until("both are known to have joined", lambda: scheduling.phases() == ["joined", "joined"], 60)
        it_says_why(site)
        without_its_controller_no_node_ends(site)
        site.until("the update is published", published.done, 240)
        published.result()
        first = set(scheduling.nodes())
        synced = pool.submit(site.farm.kiosk, "hypervisor", "sync", WORKER)
        site.until("the hypervisor has it", synced.done, 240)
        synced.result()
    site.until("jobs ran on two new nodes", lambda: len(site.ran("new")) == 2, 2 * BOOT)
    assert {node.image for id, node in scheduling.nodes().items() if id not in first} == {site.new}
    reasons = sorted(left_because(site, id) for id in first)
    assert reasons == sorted([f"{site.new} is tried in its place", f"{site.old} is older than {site.new}"])

    site.demand = False
    site.until("the minimum is left", lambda: len(scheduling.vms()) == 1, 300)
    assert scheduling.end() == 0
    assert scheduling.phases().count("joined") == 1
    assert [site.cluster.job(job) for job in site.jobs] == ["COMPLETED"] * len(site.jobs)
    assert sorted(site.store.received) == sorted(map(str, site.jobs))
    assert (len(site.uuids), site.drained) == (4, 1)


def killed_and_started_again_it_goes_on(site: Site) -> None:
    """Killed while a node boots: both are still there, and no other is started."""
    scheduling = site.scheduling
    nodes, uuids = set(scheduling.nodes()), {vm.uuid for vm in scheduling.vms().values()}
    scheduling.kill()
    assert uuids <= process.running().keys()
    began = clock.now()
    scheduling.start()
    site.until("it ticks again", lambda: ticked(site, began), 60)
    assert set(scheduling.nodes()) == nodes
    assert {vm.uuid for vm in scheduling.vms().values()} == uuids <= process.running().keys()
    for node in nodes:
        starts = [e for e in scheduling.said("explain", node) if e["what"].startswith("start ")]
        assert [e["note"] for e in starts] == ["done"]


def it_says_why(site: Site) -> None:
    status = site.scheduling.said("status")
    assert status["queries"] <= 4 and status["faults"] == []
    assert {n["phase"] for n in status["nodes"]} == {"joined"} and status["types"]["worker"]["target"] == 2
    worker = site.scheduling.said("explain", "worker")["types"]["worker"]
    assert "nodes' worth of jobs wait" in worker["because"][0]
    for node in status["nodes"]:
        phases = [e["what"] for e in site.scheduling.said("explain", node["id"])]
        assert [p for p in phases if p in PHASES] == list(PHASES), phases


def without_its_controller_no_node_ends(site: Site) -> None:
    """Where the batch system does not answer, nothing is wanted and nobody goes."""
    scheduling = site.scheduling
    before = scheduling.nodes().keys()
    site.cluster.stop_controller()
    stopped = clock.now()

    def unknown() -> bool:
        last = scheduling.last()
        return ticked(site, stopped) and any("batch system is unknown" in fault for fault in last["faults"])

    wait_for(unknown, "a tick without the controller", 120)
    last = scheduling.last()
    assert (last["types"]["worker"]["target"], last["effects"]) == (None, [])
    site.cluster.configure(64)
    site.until(
        "the controller is heard again",
        lambda: ticked(site, stopped) and not site.scheduling.last()["faults"],
        60,
    )
    assert scheduling.nodes().keys() == before and scheduling.phases() == ["joined", "joined"]


def ticked(site: Site, since: datetime) -> bool:
    """Whether a tick began after a moment and has ended."""
    last = site.scheduling.last()
    return bool(last) and datetime.fromisoformat(last["at"]) > since


def left_because(site: Site, node: str) -> str:
    """Why a node drained."""
    notes = [e["note"] for e in site.scheduling.said("explain", node) if e["what"] == "phase draining"]
    return str(notes[0])
