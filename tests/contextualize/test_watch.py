"""The watch and the health checks: they ask for a drain when they saw a reason, and for nothing when in doubt."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from contextualize.context import Farm
from contextualize.document import LayerName
from contextualize.errors import Refused
from contextualize.farm import member
from contextualize.farm.driver import Node, Seat
from contextualize.farm.settings import checked
from contextualize.farm.slurm import Slurm
from contextualize.life import health, plan, requests, watch
from contextualize.life.asked import asked
from contextualize.life.plan import Plan
from contextualize.trust import Signed
from kiosk.cloud.metadata import Service, handler
from tests.contextualize.conftest import Files
from tests.contextualize.guest import NODE, Guest
from tests.contextualize.machines import Clocked

DEMO = LayerName("experiment", "demo", "software")
SITE = LayerName("site", "example", "base")
START = ("systemctl", "start", "--no-block", "kiosk-drain.service")


def planned(source: str = "nocloud:/dev/disk/by-label/CIDATA", **more: object) -> Plan:
    layers = ((SITE, "4"), (DEMO, "2.1"))
    return Plan(NODE, "worker", "20260301.1", layers, source, 86400, 600, **more)  # type: ignore[arg-type]


@pytest.fixture
def machine(tmp_path: Path) -> Clocked:
    (tmp_path / "context/kiosk").mkdir(parents=True)
    found = Clocked(tmp_path / "root", tmp_path / "context")
    found.set_uptime(1000)
    plan.write(found, planned())
    return found


def test_a_plan_is_read_as_it_was_written(machine: Clocked) -> None:
    assert plan.load(machine) == planned(users={})


def test_a_file_on_the_context_disk_asks_for_a_drain(machine: Clocked) -> None:
    assert watch.run(machine) == 0
    assert machine.asked == []
    (machine.context / "kiosk/drain").write_text("kernel update\nmore\n")
    assert watch.run(machine) == 0
    assert requests.reasons(machine) == ["the context asks for it: kernel update"]
    assert machine.asked == [START]
    assert machine.mounts == {}


def test_opennebulas_variable_asks_too(machine: Clocked) -> None:
    (machine.context / "context.sh").write_text("ETH0_IP='192.0.2.1'\n")
    assert asked(machine, "opennebula:/dev/disk/by-label/CONTEXT") is None
    (machine.context / "context.sh").write_text("ETH0_IP='192.0.2.1'\nKIOSK_DRAIN=\"move\"\n")
    assert asked(machine, "opennebula:/dev/disk/by-label/CONTEXT") == "the context asks for it: move"
    (machine.context / "context.sh").write_text("KIOSK_DRAIN=''\n")
    assert asked(machine, "opennebula:/dev/disk/by-label/CONTEXT") is None
    (machine.context / "context.sh").write_text("KIOSK_DRAIN=$(hostname)\n")
    with pytest.raises(Refused, match="not NAME='value'"):
        asked(machine, "opennebula:/dev/disk/by-label/CONTEXT")


def test_a_source_that_is_gone_changes_nothing_and_says_so(
    machine: Clocked, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(machine.context)
    assert watch.run(machine) == 0
    assert machine.asked == []
    assert "the context's source: nothing changes: " in capsys.readouterr().out


@pytest.fixture
def imds() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A metadata service: what it has, by path below /latest/, can be changed."""
    service = Service({})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(service))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"ec2:http://127.0.0.1:{server.server_port}", service.content
    server.shutdown()
    thread.join()
    server.server_close()


def test_ec2s_tag_and_its_notice_of_the_end_are_seen_within_seconds(
    machine: Clocked, imds: tuple[str, dict[str, bytes]]
) -> None:
    source, answers = imds
    plan.write(machine, planned(source))
    notice = json.dumps({"action": "terminate", "time": "2026-03-01T10:00:00Z"}).encode()
    machine.later = [(1100, lambda: answers.update({"meta-data/spot/instance-action": notice}))]
    assert watch.run(machine) == 0
    assert machine.uptime() < 1130
    assert requests.reasons(machine) == [
        "the cloud takes the machine back: terminate at 2026-03-01T10:00:00Z"
    ]
    answers["meta-data/tags/instance/kiosk-drain"] = b"by the operator"
    assert asked(machine, source) == "the context asks for it: by the operator"
    answers["meta-data/tags/instance/kiosk-drain"] = b"x" * 66_000
    with pytest.raises(Refused, match="more than"):
        asked(machine, source)
    with pytest.raises(Refused, match="does not answer"):
        asked(machine, "ec2:http://127.0.0.1:1")
    with pytest.raises(Refused, match="is not the address"):
        asked(machine, "ec2:file:///etc/passwd")


def floor(name: str, below: str, **more: object) -> bytes:
    said = {"schema": "kiosk.floor/1", "name": name, "below": below, "reason": "CVE-1", "date": "2026-03-01"}
    return json.dumps({**said, **more}).encode()


class Floors:
    """A repository of floors, by path, and of faults."""

    def __init__(self, floors: dict[str, bytes | Refused]) -> None:
        self._floors = floors

    def optional(self, path: str, role: str) -> Signed | None:
        found = self._floors.get(path)
        if isinstance(found, Refused):
            raise found
        return None if found is None else Signed(path, found, role, ())


def revoked(floors: dict[str, bytes | Refused]) -> str | None:
    return watch.below(Floors(floors), planned())


def test_what_runs_below_its_signed_floor_is_revoked() -> None:
    assert revoked({}) is None
    assert revoked({"images/worker/floor.json": floor("worker", "20260301.1")}) is None
    found = revoked({"images/worker/floor.json": floor("worker", "20260301.2")})
    assert found == "worker@20260301.1 was revoked: nothing below 20260301.2 may run (CVE-1)"
    layer = {"layers/experiment/demo/software/floor.json": floor("experiment/demo/software", "2.10")}
    assert str(revoked({**layer})).startswith("experiment/demo/software@2.1 was revoked")


def test_a_floor_that_does_not_hold_revokes_nothing_and_hides_no_other() -> None:
    layer = {"layers/site/example/base/floor.json": floor("site/example/base", "5")}
    for bad in (Refused("no answer"), b"{", floor("other", "9999999999"), floor("worker", "high")):
        with pytest.raises(Refused):
            revoked({"images/worker/floor.json": bad})
        assert str(revoked({"images/worker/floor.json": bad, **layer})).startswith("site/example/base@4")


@pytest.fixture
def well(machine: Clocked) -> Iterator[Clocked]:
    """A machine that works, whose root other users may enter."""
    home = Path(tempfile.mkdtemp(prefix="kiosk-health-", dir="/var/tmp"))
    home.chmod(0o755)
    found = Clocked(home, machine.context)
    found.set_uptime(1000)
    for folder in ("/var/tmp", "/scratch"):
        found.folder(folder)
    found.replace("/proc/self/mounts", b"/dev/vdb /scratch ext4 rw 0 0\n")
    plan.write(found, planned(scratch="/scratch", users={str(DEMO): "daemon"}))
    yield found
    shutil.rmtree(home)


def check(machine: Clocked, layer: LayerName, script: str) -> None:
    machine.replace(f"{layer.prefix}/bin/check", f"#!/bin/sh\n{script}\n".encode(), 0o755)
    known = [{"layer": str(layer), "program": f"{layer.prefix}/bin/check"}]
    machine.replace(health.PROGRAMS, json.dumps(known).encode())


def test_a_machine_that_works_is_left_alone(well: Clocked) -> None:
    check(well, SITE, "id -u > /dev/null")
    for _ in range(4):
        assert health.run(well) == 0
    assert well.asked == []
    assert list(well.path("/scratch").iterdir()) == []


def test_three_failures_in_a_row_ask_for_a_drain_and_two_do_not(well: Clocked) -> None:
    check(well, SITE, "echo the disk is tired; exit 3")
    for _ in range(2):
        health.run(well)
    check(well, SITE, "exit 0")
    health.run(well)
    check(well, SITE, "echo the disk is tired; exit 3")
    for _ in range(2):
        health.run(well)
    assert well.asked == []
    health.run(well)
    assert well.asked == [START]
    (reason,) = requests.reasons(well)
    assert reason == (
        "health check site/example/base check failed 3 times in a row: status 3: the disk is tired"
    )


def test_a_site_checks_as_root_and_an_experiment_as_its_user(well: Clocked) -> None:
    check(well, SITE, 'test "$(id -un)" = root')
    health.run(well)
    check(well, DEMO, 'test "$(id -un)" = daemon && test "$(id -G)" = "$(id -g)"')
    health.run(well)
    assert health._counts(well) == {}
    plan.write(well, planned(scratch="/scratch"))
    check(well, DEMO, f'test "$(id -u) $(id -G)" = "{health.OWN + 1} {health.OWN + 1}"')
    health.run(well)
    assert health._counts(well) == {}
    with pytest.raises(KeyError):
        pwd.getpwuid(health.OWN + 1)


def test_a_check_that_never_ends_or_talks_without_end_is_ended(
    well: Clocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "SECONDS", 0.3)
    check(well, SITE, "sleep 600 & yes")
    health.run(well)
    assert health._counts(well) == {"site/example/base check": 1}


def test_what_a_check_leaves_behind_does_not_hold_it_up(
    well: Clocked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    child = f"setsid sh -c 'echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 20' & while [ ! -e {pid} ]; do :; done"
    check(well, SITE, f"{child}; echo well")
    begin = time.monotonic()
    health.run(well)
    assert health._counts(well) == {}
    os.kill(int(pid.read_text()), signal.SIGKILL)
    monkeypatch.setattr(health, "SECONDS", 0.3)
    check(well, SITE, "setsid sleep 8 & wait")
    health.run(well)
    assert health._counts(well) == {"site/example/base check": 1}
    assert time.monotonic() - begin < 5


def test_a_file_that_a_job_made_under_an_earlier_name_is_no_fault(well: Clocked) -> None:
    well.replace(f"/scratch/.kiosk-health-{os.getpid()}", b"")
    health.run(well)
    assert health._counts(well) == {}


def test_what_the_boot_writes_the_health_check_runs(guest: Guest, squashfs: Callable[[Files], bytes]) -> None:
    for name in ("site/example/base", "experiment/demo/software"):
        image = squashfs({"libexec/check": f"#!/bin/sh\necho of {name}; exit 3\n"})
        guest.add_layer(name, image, {"health": ["libexec/check"]})
    assert guest.boot() == 0
    found = list(health.programs(guest.machine, plan.load(guest.machine)))
    assert [(one.path, one.user) for one in found] == [
        ("/opt/site/libexec/check", "root"),
        ("/opt/experiment/demo/libexec/check", health.OWN + 1),
    ]
    with pytest.raises(Refused, match="status 3: of site/example/base"):
        health._program(guest.machine, found[0])


@pytest.mark.parametrize(
    ("what", "harm"),
    [
        ("scratch", lambda m: m.replace("/proc/self/mounts", b"")),
        ("root", lambda m: shutil.rmtree(m.path("/var/tmp"))),
        ("farm", lambda m: m.units.update({"kiosk-farm-slurmd.service": "failed"})),
        ("programs", lambda m: m.replace(health.PROGRAMS, b"[{}]")),
        ("programs", lambda m: m.replace(health.PROGRAMS, b"{")),
    ],
)
def test_the_machines_own_checks(well: Clocked, what: str, harm: object) -> None:
    known = {"controllers": "head.example.org", "memory": "1000"}
    seat = Seat(
        well,
        "grid",
        Node("node-7", "worker", "20260301.1"),
        checked(Farm("slurm", "grid", known, {}), Slurm.settings),
    )
    member.Member(Slurm(), seat).remember()
    health.run(well)
    assert health._counts(well) == {}
    harm(well)  # type: ignore[operator]
    health.run(well)
    assert health._counts(well) == {what: 1}


def test_a_corrupted_block_of_a_layer_is_enough(well: Clocked) -> None:
    well.replace("/sys/block/dm-1/dm/name", b"kiosk-layer-0\n")
    health.run(well)
    assert well.asked == []
    well.blocks["kiosk-layer-0"] = "C"
    for _ in range(2):
        health.run(well)
    assert requests.reasons(well) == [
        "health check layers failed: what was read of the layer on the disk layer-0 is not what was signed"
    ]


def test_only_programs_of_layers_that_run_here_are_started(well: Clocked) -> None:
    for layer, program in (("site/other/base", "bin/x"), (str(SITE), "../../etc/x"), (str(SITE), "/bin/sh")):
        well.replace(health.PROGRAMS, json.dumps([{"layer": layer, "program": program}]).encode())
        with pytest.raises(Refused):
            list(health.programs(well, plan.load(well)))


def test_checks_that_hang_for_ever_are_noticed_by_the_watch(well: Clocked) -> None:
    health._keep(well, {}, started=1000)
    assert health.stuck(well) is None
    well.set_uptime(2000)
    assert watch.run(well) == 0
    assert requests.reasons(well) == ["health checks have not ended for 15 minutes"]
