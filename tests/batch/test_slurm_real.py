"""A real Slurm: a node joins, jobs of many kinds wait and run, and kiosk looks, closes, opens and removes."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from contextualize.context import Farm
from contextualize.farm import member
from contextualize.farm.driver import Node
from kiosk.batch.api import Look
from kiosk.batch.configured import batch_system
from kiosk.batch.slurm.driver import Slurm
from kiosk.errors import BatchError
from tests.contextualize.farm_machine import FarmMachine
from tests.simulators.slurm import SlurmCluster, needs_control_groups, node_namespaces, reachable, wait_for

NODE = Node("wn-1.example.org", "debian-12-worker", "20261125.1")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with reachable() as path:
        yield path


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[SlurmCluster]:
    cluster = SlurmCluster(home / "controller", home / "node/spool", other={"MessageTimeout": "5"})
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def machine(home: Path, cluster: SlurmCluster) -> Iterator[FarmMachine]:
    needs_control_groups()
    root = home / "node"
    namespaces = node_namespaces(root)
    machine = FarmMachine(root, namespaces.inside)
    settings = {
        "controllers": cluster.address, "spool": "/var/spool/slurmd", "memory": "500",
        "features": "kiosk,debian12", "partition": "virtual",
    }  # fmt: skip
    member.join(machine, Farm("slurm", "ci", settings, {"munge_key": cluster.key}, 30), NODE)
    yield machine
    namespaces.close()


@pytest.fixture(scope="module")
def slurm(home: Path, cluster: SlurmCluster, machine: FarmMachine) -> Slurm:
    """The driver, by programs that run Slurm's where the controller is."""
    folder = home / "commands"
    folder.mkdir()
    for name in ("squeue", "sinfo", "sshare", "scontrol"):
        command = shlex.join(cluster.namespaces.inside([name]))
        conf = f"{cluster.home}/slurm.conf"
        (folder / name).write_text(f'#!/bin/sh\nexport SLURM_CONF={conf}\nexec {command} "$@"\n')
        (folder / name).chmod(0o755)
    found = batch_system("slurm", folder, timeout=30)
    assert isinstance(found, Slurm)
    return found


def waits(look: Look) -> Counter[tuple[str, bool, int, int | None]]:
    found: Counter[tuple[str, bool, int, int | None]] = Counter()
    for g in look.pending:
        found[g.queue, g.held, g.requirements.cores, g.requirements.memory] += g.jobs
    return found


def test_jobs_of_all_kinds_are_looked_at(cluster: SlurmCluster, slurm: Slurm) -> None:
    cores = os.cpu_count() or 1
    everything = ("-p", "virtual", "--exclusive", "-n", str(cores), "--mem=100")
    first = cluster.submit("exec sleep 300", *everything, "-J", "a|b\nc\x1b[2J")
    wait_for(lambda: cluster.job(first) == "RUNNING", "the job")
    cluster.submit(
        "true", "-p", "virtual", "--array=1-20%30,30", "--mem=300", "-C", "kiosk&debian12", "-t", "10"
    )
    cluster.submit("true", "-p", "virtual", "--mem-per-cpu=20", "-n1", "-c1", "-J", "\x1f\x1f\x1f")
    cluster.submit("true", "-p", "virtual", "-H")
    cluster.submit("true", "-p", "virtual", "-d", f"afterok:{first}")
    cluster.submit("true", "-p", "virtual", "--begin=now+1hour", "-C", "kiosk|debian12")
    wait_for(lambda: sum(g.jobs for g in slurm.look().pending if g.held) == 3, "slurmctld's reasons")
    look = slurm.look()
    assert slurm.name == "slurm 22.05"
    assert waits(look) == {
        ("virtual", False, 1, 300): 21,
        ("virtual", False, 1, 20): 1,
        ("virtual", True, 1, None): 3,
    }
    [array] = [g for g in look.pending if g.requirements.memory == 300]
    assert (array.requirements.tags, array.requirements.values) == ({"kiosk", "debian12"}, frozenset())
    assert (array.requirements.run_limit, array.user, array.group) == (600, "root", None)
    [alternative] = [g for g in look.pending if g.requirements.text == "kiosk|debian12"]
    assert (alternative.requirements.tags, alternative.held) == (frozenset(), True)
    [runs] = look.running
    assert (runs.jobs, runs.requirements.cores) == (1, cores)
    host = next(host for host in look.hosts if host.name == "wn-1")
    assert (host.status, host.slots, host.used, host.jobs, host.memory) == ("open", cores, cores, 1, 500)
    assert (host.tags, host.values) == ({"kiosk", "debian12"}, frozenset())
    assert {queue.name: queue.is_open for queue in look.queues} == {
        "main": True,
        "virtual": True,
        "other": True,
    }
    assert look.shares == ()  # there is no slurmdbd


def test_a_second_look_asks_once_of_each_kind(slurm: Slurm) -> None:
    before = slurm.queries
    slurm.look()
    assert slurm.queries - before == 4


def node(cluster: SlurmCluster) -> str:
    return cluster.said("scontrol", "-o", "show", "node", "wn-1")


def test_kiosk_opens_only_what_it_closed(cluster: SlurmCluster, slurm: Slurm) -> None:
    slurm.close("wn-1", 'its age limit; $(reboot) "x"\n')
    assert "+DRAIN" in node(cluster)
    assert "Reason=kiosk: its age limit; $(reboot) 'x'" in node(cluster)
    [host] = [host for host in slurm.look().hosts if host.name == "wn-1"]
    assert (host.status, host.mine, host.others) == ("closed", True, False)
    slurm.close("wn-1", "again")
    assert "Reason=kiosk: its age limit" in node(cluster)
    slurm.open("wn-1")
    assert "DRAIN" not in node(cluster)
    cluster.said("scontrol", "update", "nodename=wn-1", "state=drain", "reason=broken fan")
    slurm.close("wn-1", "its age")
    slurm.open("wn-1")
    assert "DRAIN" in node(cluster)
    assert "Reason=broken fan" in node(cluster)
    [host] = [host for host in slurm.look().hosts if host.name == "wn-1"]
    assert (host.mine, host.others, host.reason) == (False, True, "broken fan")


def test_what_is_not_known_is_told(slurm: Slurm) -> None:
    with pytest.raises(BatchError, match="does not know the node wn-9"):
        slurm.close("wn-9", "x")
    slurm.open("wn-9")
    slurm.remove("wn-9")
    for name in ("ALL", "a,b", "-h", "wn-[1-9]"):
        with pytest.raises(BatchError, match="no node's name"):
            slurm.remove(name)


def test_a_node_with_jobs_is_not_removed_and_one_that_is_gone_is(
    cluster: SlurmCluster, slurm: Slurm, machine: FarmMachine
) -> None:
    with pytest.raises(BatchError, match=r"wn-1 answers and has [0-9]+ CPUs busy"):
        slurm.remove("wn-1")
    cluster.said("scancel", "--user=root")
    wait_for(lambda: "CPUAlloc=0 " in node(cluster) and "COMPLETING" not in node(cluster), "the jobs' end")
    for unit in machine.units.alive():
        if "slurmd" in unit:
            machine.units.kill(unit)
    slurm.remove("wn-1")
    assert cluster.nodes() == []
    assert [host.name for host in slurm.look().hosts] == ["static1"]


def test_a_controller_that_is_away_is_an_error_and_no_empty_look(cluster: SlurmCluster, slurm: Slurm) -> None:
    cluster.stop_controller()
    with pytest.raises(BatchError, match=r"squeue .* does not reach slurmctld"):
        slurm.look()
