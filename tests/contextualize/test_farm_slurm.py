"""A machine joins a real Slurm controller, gets jobs, and leaves: the guest's own code, munged and slurmd."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contextualize.context import Farm
from contextualize.errors import Refused
from contextualize.farm import member, slurm
from contextualize.farm.driver import Node
from contextualize.farm.slurm import Listed, tail, wants_cgroups
from tests.contextualize.farm_machine import FarmMachine
from tests.simulators.slurm import (
    SlurmCluster,
    free_port,
    needs_control_groups,
    node_namespaces,
    reachable,
    wait_for,
)
from tests.simulators.units import owner

NODE = Node("wn-1.example.org", "debian-12-worker", "20261125.1")


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with reachable() as path:
        yield path


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[SlurmCluster]:
    cluster = SlurmCluster(home / "controller", home / "node/spool")
    yield cluster
    cluster.close()


@pytest.fixture
def machine(home: Path) -> Iterator[FarmMachine]:
    needs_control_groups()
    root = home / "node"
    namespaces = node_namespaces(root)
    yield FarmMachine(root, namespaces.inside)
    namespaces.close()
    shutil.rmtree(root)


@pytest.fixture
def farm(cluster: SlurmCluster) -> Callable[..., Farm]:
    def farm(timeout: int = 30, key: bytes = cluster.key, **settings: str) -> Farm:
        known = {"controllers": cluster.address, "spool": "/var/spool/slurmd", "memory": "500", **settings}
        return Farm("slurm", "ci", known, {"munge_key": key}, timeout)

    return farm


def nothing_left(machine: FarmMachine) -> bool:
    """No daemon, no secret, no memory of the farm."""
    assert machine.units.alive() == []
    assert not machine.exists("/run/kiosk/munge/key")
    assert not machine.exists(member.MEMORY)
    assert list(machine.path("/run/systemd/system").iterdir()) == []
    return True


def test_a_node_joins_runs_a_job_drains_and_is_forgotten(
    cluster: SlurmCluster, machine: FarmMachine, farm: Callable[..., Farm]
) -> None:
    member.join(machine, farm(features="kiosk,gold", partition="virtual"), NODE)
    assert cluster.nodes() == ["wn-1 IDLE+DYNAMIC_NORM"]

    first = cluster.submit(
        "echo on $SLURMD_NODENAME; exec sleep 300", "-p", "virtual", "-C", "gold", "--mem=100"
    )
    wait_for(lambda: cluster.job(first) == "RUNNING", "the job")
    joined = member.load(machine)
    assert joined is not None
    assert (joined.farm, joined.name) == ("ci", "wn-1")
    assert joined.busy() == 1

    joined.close("its age limit of 24 h; $(reboot)")
    assert "wn-1 ALLOCATED+DRAIN" in cluster.nodes()[0] or "MIXED+DRAIN" in cluster.nodes()[0]
    assert "kiosk: its age limit of 24 h reboot" in cluster.said("sinfo", "-h", "-R", "-o", "%E")
    second = cluster.submit("true", "-p", "virtual")
    assert joined.busy() == 1
    assert cluster.job(second) == "PENDING"

    cluster.said("scancel", str(first))
    wait_for(lambda: joined.busy() == 0, "the job's end")
    joined.leave()
    assert cluster.output(first).startswith("on wn-1")
    assert cluster.nodes() == []
    assert cluster.job(second) == "PENDING"
    cluster.said("scancel", str(second))
    assert nothing_left(machine)
    assert member.load(machine) is None


def test_the_munge_key_is_wiped_and_is_in_no_file_argument_or_memory(
    cluster: SlurmCluster, machine: FarmMachine, farm: Callable[..., Farm]
) -> None:
    joined = member.join(machine, farm(), NODE)
    try:
        assert not machine.exists("/run/kiosk/munge/key")
        assert owner(machine.path("/run/kiosk/munge")) == "munge 0700"
        assert owner(machine.path(member.MEMORY)) == "root 0600"
        held = subprocess.run(
            ["grep", "-rlF", "--null-data", cluster.key.split(b"\0")[0][:64].hex(), machine.root]
        )
        assert held.returncode == 1
        assert json.loads(machine.read(member.MEMORY))["settings"]["controllers"] == cluster.address
        assert "secrets" not in json.loads(machine.read(member.MEMORY))
    finally:
        joined.leave()


def test_another_clusters_munge_key_is_refused_before_the_timeout(
    cluster: SlurmCluster, machine: FarmMachine, farm: Callable[..., Farm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "GRACE", 1.0)
    with pytest.raises(Refused, match=r"does not accept munge's credentials .another cluster's munge_key"):
        member.join(machine, farm(key=bytes(range(200))), NODE)
    assert cluster.nodes() == []
    assert nothing_left(machine)


@pytest.mark.slow
def test_a_controller_that_can_not_be_reached_is_named(
    machine: FarmMachine, farm: Callable[..., Farm]
) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    with pytest.raises(
        Refused, match=f"did not take this node within 9 s: the controller {nowhere} can't be reach"
    ):
        member.join(machine, farm(timeout=12, controllers=nowhere), NODE)
    assert nothing_left(machine)


@pytest.mark.slow
def test_a_name_of_the_controllers_own_configuration_is_refused(
    cluster: SlurmCluster, machine: FarmMachine, farm: Callable[..., Farm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "GRACE", 0.0)
    with pytest.raises(
        Refused, match=r"the name static1 belongs to a node of the controller's own slurm.conf"
    ):
        member.join(machine, farm(), Node("static1", NODE.image, NODE.version))
    assert nothing_left(machine)
    assert cluster.nodes() == []


@pytest.mark.slow
def test_a_controller_without_room_for_another_node_is_named(
    cluster: SlurmCluster, machine: FarmMachine, farm: Callable[..., Farm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "GRACE", 0.0)
    cluster.stop_controller()
    cluster.configure(most=1)
    try:
        with pytest.raises(Refused, match=r"has no place for a dynamic node wn-1 .MaxNodeCount"):
            member.join(machine, farm(), NODE)
    finally:
        cluster.stop_controller()
        cluster.configure(most=64)
    assert nothing_left(machine)


@pytest.mark.slow
def test_a_node_outside_its_partition_leaves_again(
    cluster: SlurmCluster, machine: FarmMachine, farm: Callable[..., Farm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "GRACE", 0.0)
    with pytest.raises(Refused, match="is in the partitions main, virtual, not in other"):
        member.join(machine, farm(partition="other"), NODE)
    assert nothing_left(machine)
    assert cluster.nodes() == []


@pytest.mark.slow
def test_more_memory_than_the_machine_has_is_refused_with_slurms_reason(
    cluster: SlurmCluster, machine: FarmMachine, farm: Callable[..., Farm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "GRACE", 0.0)
    with pytest.raises(Refused, match="Low RealMemory"):
        member.join(machine, farm(timeout=10, memory="99999999"), NODE)
    assert nothing_left(machine)
    assert cluster.nodes() == []


@pytest.mark.slow
def test_a_node_that_was_left_drained_by_kiosk_opens_again_and_one_drained_by_somebody_does_not(
    cluster: SlurmCluster, machine: FarmMachine, farm: Callable[..., Farm], monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = member.join(machine, farm(), NODE)
    joined.close("a life before")
    machine.units.stop("kiosk-farm-slurmd.service")
    machine.units.stop("kiosk-farm-munged.service")
    joined = member.join(machine, farm(), NODE)
    assert joined.look().state == "open"
    cluster.said("scontrol", "update", "nodename=wn-1", "state=drain", "reason=disk is bad")
    assert joined.look().saw == "somebody has drained this node: DRAIN+DYNAMIC_NORM+IDLE, reason: disk is bad"
    joined.leave()
    assert nothing_left(machine)


def test_an_unreachable_controller_never_reads_as_no_jobs(
    cluster: SlurmCluster, machine: FarmMachine, farm: Callable[..., Farm]
) -> None:
    joined = member.join(machine, farm(), NODE)
    cluster.stop_controller()
    try:
        with pytest.raises(Refused, match=r"whether wn-1 has jobs can't be told: .*connect failure"):
            joined.busy()
        with pytest.raises(Refused, match="the controller did not drain wn-1"):
            joined.close("age")
    finally:
        cluster.configure(most=64)
    joined.close("age")
    cluster.stop_controller()
    try:
        with pytest.raises(Refused, match="the controller did not delete wn-1"):
            joined.leave(last=False)
    finally:
        cluster.configure(most=64)
    assert machine.units.alive() == ["kiosk-farm-munged.service"]
    again = member.load(machine)
    assert again is not None
    again.leave()
    assert cluster.nodes() == []
    assert nothing_left(machine)


def test_a_node_that_is_shut_down_leaves_without_a_word_to_systemd_which_waits_for_it(
    cluster: SlurmCluster, machine: FarmMachine, farm: Callable[..., Farm], monkeypatch: pytest.MonkeyPatch
) -> None:
    member.join(machine, farm(), NODE)

    def waits_for_us(*words: str) -> None:
        raise AssertionError(f"systemctl {words} never ends")

    monkeypatch.setattr(machine, "systemctl", waits_for_us)
    joined = member.load(machine, ends=True)
    assert joined is not None
    joined.leave("it was told to shut down")
    assert cluster.nodes() == []
    assert machine.units.alive() == []
    assert not machine.exists(member.MEMORY)


@pytest.mark.slow
def test_a_slurmd_that_dies_comes_back_and_its_job_goes_on(
    cluster: SlurmCluster, machine: FarmMachine, farm: Callable[..., Farm]
) -> None:
    joined = member.join(machine, farm(), NODE)
    job = cluster.submit("sleep 60 & wait", "--mem=100")
    wait_for(lambda: cluster.job(job) == "RUNNING", "the job")
    machine.units.kill("kiosk-farm-slurmd.service")
    assert joined.look().state == "waiting"
    wait_for(lambda: joined.look().state == "open", "slurmd")
    assert cluster.job(job) == "RUNNING"
    cluster.said("scancel", str(job))
    wait_for(lambda: joined.busy() == 0, "the job's end")
    joined.leave()


@pytest.mark.parametrize(
    ("line", "states", "reason"),
    [
        (
            "NodeName=a State=IDLE*+DYNAMIC_NORM ThreadsPerCore=1",
            {"IDLE", "DYNAMIC_NORM", "NOT_RESPONDING"},
            "",
        ),
        (
            "NodeName=a State=DOWN+DRAIN Partitions=x,y Reason=kiosk: age = 3 [root@2026-11-25T12:00:00]",
            {"DOWN", "DRAIN"},
            "kiosk: age = 3",
        ),
    ],
)
def test_what_scontrol_says_of_a_node_is_read(line: str, states: set[str], reason: str) -> None:
    assert (Listed.read(line).states, Listed.read(line).reason) == (states, reason)


@pytest.mark.parametrize(
    ("conf", "wants"),
    [
        ("ClusterName=ci\n", True),
        ("ProctrackType=proctrack/cgroup\n", True),
        ("ProctrackType=proctrack/linuxproc\nTaskPlugin=task/affinity,task/cgroup\n", True),
        ("proctracktype = proctrack/linuxproc\nTaskPlugin=task/none\n#TaskPlugin=task/cgroup\n", False),
        ("ClusterName=ci\nInclude more.conf\n", False),
    ],
)
def test_whether_a_configuration_has_jobs_in_cgroups_is_read(conf: str, wants: bool) -> None:
    assert wants_cgroups(conf) is wants


def test_of_a_long_complaint_the_end_is_told_in_whole_words() -> None:
    assert tail("no\n  such  file") == "no such file"
    assert tail("one two three four", 12) == "... three four"


@pytest.mark.slow
def test_a_controller_without_cgroup_conf_that_would_lose_each_job_is_refused(
    home: Path, machine: FarmMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm 22.05's node daemon starts without that file all the same, and its steps can't. Here it runs with a
    configuration that needs none, so that no cgroup of this host is touched; what it has is read as the other one."""
    monkeypatch.setattr(member, "GRACE", 0.0)
    monkeypatch.setattr(slurm, "wants_cgroups", lambda conf: True)
    cluster = SlurmCluster(home / "bare", machine.root / "spool", cgroups=False)
    try:
        settings = {"controllers": cluster.address, "spool": "/var/spool/slurmd", "memory": "500"}
        with pytest.raises(Refused, match=r"the controller has no cgroup.conf"):
            member.join(machine, Farm("slurm", "ci", settings, {"munge_key": cluster.key}, 30), NODE)
        assert cluster.nodes() == []
        assert nothing_left(machine)
    finally:
        cluster.close()


@pytest.fixture
def apart(machine: FarmMachine) -> Iterator[FarmMachine]:
    """The machine in a network of its own, as a VM is: 10.99.7.2, and the controller at 10.99.7.1. Its own name
    leads to its loopback, as the boot writes it."""
    name, host, guest = "kiosk-farm", "kf-host", "kf-guest"
    (machine.root / "hosts").write_text("127.0.0.1 localhost\n127.0.1.1 wn-1.example.org wn-1\n")
    inside = f"nsenter --net=/run/netns/{name}"
    for left in (["ip", "link", "del", host], ["ip", "netns", "del", name]):  # by a run that was killed
        subprocess.run(left, stderr=subprocess.DEVNULL)
    for words in (
        f"ip netns add {name}",
        f"ip link add {host} type veth peer name {guest} netns {name}",
        f"ip addr add 10.99.7.1/24 dev {host}",
        f"ip link set {host} up",
        f"{inside} ip addr add 10.99.7.2/24 dev {guest}",
        f"{inside} ip link set {guest} up",
        f"{inside} ip link set lo up",
    ):
        subprocess.run(words.split(), check=True)
    network = inside.split()
    found = FarmMachine(machine.root, lambda argv: [*network, *machine.inside(argv)])
    subprocess.run(machine.inside(["mount", "--bind", f"{machine.root}/hosts", "/etc/hosts"]), check=True)
    yield found
    for unit in found.units.alive():
        found.units.stop(unit)
    subprocess.run(["ip", "link", "del", host], check=True)
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.slow
def test_the_controller_reaches_a_node_at_the_address_that_it_connects_from(
    home: Path, apart: FarmMachine
) -> None:
    cluster = SlurmCluster(home / "apart", apart.root / "spool", address="10.99.7.1")
    try:
        settings = {"controllers": cluster.address, "memory": "500"}
        joined = member.join(apart, Farm("slurm", "ci", settings, {"munge_key": cluster.key}, 30), NODE)
        assert "NodeAddr=10.99.7.2 NodeHostName=localhost" in cluster.said(
            "scontrol", "-o", "show", "node", "wn-1"
        )
        job = cluster.submit("echo ran on $SLURMD_NODENAME", "--mem=100")
        wait_for(lambda: cluster.job(job) == "COMPLETED", "the job")
        assert cluster.output(job) == "ran on wn-1\n"
        joined.close("age")
        wait_for(lambda: joined.busy() == 0, "the job's end")
        joined.leave()
        assert cluster.nodes() == []
    finally:
        cluster.close()
