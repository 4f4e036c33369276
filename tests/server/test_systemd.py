"""The units as they are installed, under a real systemd: the agent and the kiosk's server on one machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kiosk import data
from kiosk.fleet.tokens import FleetKey
from tests.batch.programs import install, recorded
from tests.simulators.machine import Machine, can_boot
from tests.simulators.published import PASSPHRASE, Kiosk, ready, without_fsync
from tests.simulators.rolled import plan_of, publish_with_rollout

__all__ = ["without_fsync"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_boot(), reason="takes root, systemd, and cgroups of version 2"),
]
USER = 977


@pytest.fixture
def kiosk(tmp_path: Path) -> Kiosk:
    return ready(tmp_path / "k")


def installed(kiosk: Kiosk, folder: Path) -> Machine:
    """A machine with the units, the repository, a token, and agent.toml."""
    made = Machine(folder)
    for unit in (data.folder("server") / "systemd").iterdir():
        made.put(f"/etc/systemd/system/{unit.name}", unit.read_text())
    home = made.tree / "var/lib/kiosk"
    shutil.copytree(kiosk.settings.repository, home / "repository")
    made.put("/etc/kiosk/token", FleetKey.of(home / "fleet.key").token("hv-1"), 0o600)
    shutil.chown(home / "fleet.key", USER, USER)
    for name in ("keys", "rollouts"):
        if (kiosk.settings.home / name).exists():
            shutil.copytree(kiosk.settings.home / name, home / name)
    made.put("/etc/kiosk/passphrase", PASSPHRASE.decode(), 0o600)
    made.put(
        "/etc/passwd", f"{Path('/etc/passwd').read_text()}kiosk:x:{USER}:{USER}::/var/lib/kiosk:/bin/false\n"
    )
    made.put("/etc/group", f"{Path('/etc/group').read_text()}kiosk:x:{USER}:\n")
    made.put("/etc/kiosk/root.json", kiosk.root.read_text())
    made.put("/etc/kiosk/kiosk.toml", 'fleet_database = "sqlite:////var/lib/kiosk-fleet/fleet.sqlite"\n')
    made.put(
        "/etc/kiosk/agent.toml",
        'url = "http://127.0.0.1:8080"\nroot = "/etc/kiosk/root.json"\nhost = "hv-1"\nkeep_free = "0"\n'
        '[[handover]]\nkind = "files"\nfolder = "/var/lib/kiosk/images"\n'
        '[swarm]\nlisten = "127.0.0.1:6881"\npeers = ["127.0.0.0/8"]\n',
    )
    (home / "images").mkdir()
    made.put("/etc/systemd/system/kiosk-agent.service.d/soon.conf", "[Service]\nRestartSec=1\n")
    return made


WAIT = """
until_() { n=0; until eval "$1"; do n=$((n + 1)); [ $n -lt 300 ] || exit 9; sleep 0.2; done; }
main() { systemctl show -P MainPID "$1"; }
systemctl start kiosk-serve kiosk-agent
until_ 'kiosk agent status | grep -q "reports are taken"'
until_ 'test -e /var/lib/kiosk/host/images/worker/current'
until_ 'test -e /var/lib/kiosk/images/worker.raw'
"""


def test_the_agent_and_the_server_work_in_their_confinement(kiosk: Kiosk, tmp_path: Path) -> None:
    machine = installed(kiosk, tmp_path)
    said = machine.run(
        WAIT
        + """
kiosk fleet status --json >fleet.json
until_ '! kiosk agent status | grep -q fetching'
kiosk agent status
systemctl show -P StatusText kiosk-agent
pid=$(main kiosk-agent)
grep -E "Seccomp:|NoNewPrivs|CapBnd" /proc/$pid/status
systemctl reload kiosk-agent
until_ 'journalctl -u kiosk-agent | grep -c "kiosk agent: keeps" | grep -qx 2'
test "$pid" = "$(main kiosk-agent)"
systemctl kill -s KILL --kill-whom=main kiosk-agent
until_ 'test "$(systemctl show -P NRestarts kiosk-agent)" = 1'
until_ 'kiosk agent status | grep -q "reports are taken"'
systemctl kill -s KILL --kill-whom=main kiosk-serve
until_ 'test "$(systemctl show -P NRestarts kiosk-serve)" = 1'
systemctl stop kiosk-agent kiosk-serve
systemctl show -P Result kiosk-agent kiosk-serve
systemctl --failed --plain --no-legend list-units 'kiosk*' >failed
journalctl -o cat -u kiosk-agent -u kiosk-serve >words
"""
    )
    words = (machine.out / "words").read_text()
    assert "hv-1: idle" in said
    assert "versions held" in said
    assert "NoNewPrivs:\t1" in said and "Seccomp:\t2" in said
    assert said.rstrip().count("success") == 2, said
    assert (machine.out / "failed").read_text() == ""
    assert '"hv-1"' in (machine.out / "fleet.json").read_text()
    assert "Traceback" not in words
    assert "not permitted" not in words.lower()


def test_roll_outs_are_signed_in_their_confinement(kiosk: Kiosk, tmp_path: Path) -> None:
    """Three processes as three units: what the agent reports is read, and the next step is signed by it."""
    publish_with_rollout(kiosk, "2", plan_of(stages=["0%", "100%"], hosts=["hv-*"], hold="1s"))
    machine = installed(kiosk, tmp_path)
    machine.put(
        "/etc/systemd/system/kiosk-rollout.service.d/soon.conf",
        "[Service]\nExecStart=\nExecStart=/usr/bin/kiosk rollout run --every 1\n",
    )
    machine.run(
        WAIT
        + """
export KIOSK_PASSPHRASE_FILE=/etc/kiosk/passphrase
kiosk rollout status worker | grep " running "
systemctl start kiosk-rollout
trap 'kiosk rollout status worker; journalctl --no-pager -o cat -u kiosk-rollout' EXIT
sleep 3; systemctl is-active kiosk-rollout
n=0; until kiosk rollout status worker | grep -q " done "; do n=$((n + 1)); [ $n -lt 100 ]; sleep 1; done
systemctl stop kiosk-rollout
test "$(systemctl show -P Result kiosk-rollout)" = success
""",
        seconds=300,
    )


def test_a_wrong_configuration_is_not_started_again_and_again(kiosk: Kiosk, tmp_path: Path) -> None:
    machine = installed(kiosk, tmp_path)
    machine.put("/etc/kiosk/agent.toml", 'url = "http://127.0.0.1:8080"\nhots = "x"\n')
    machine.run(
        """
n=0; systemctl start kiosk-agent || true
until systemctl is-failed kiosk-agent; do n=$((n + 1)); [ $n -lt 100 ]; sleep 0.2; done
sleep 2
test "$(systemctl show -P NRestarts kiosk-agent)" = 0
test "$(systemctl show -P ExecMainStatus kiosk-agent)" = 2
journalctl -o cat -u kiosk-agent | grep "unknown key 'hots'"
"""
    )


QEMU = (
    "qemu-system-x86_64 -accel tcg -m 64 -display none -monitor none -serial none -pidfile /var/lib/kiosk/qemu.pid "
    "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
)


def test_the_scheduler_ticks_in_its_confinement_and_goes_on_after_it_was_killed(
    kiosk: Kiosk, tmp_path: Path
) -> None:
    """LSF's commands run in there; its ledger, status and metrics are written; a VM that began there lives on."""
    machine = installed(kiosk, tmp_path)
    names = ("lsid", "bjobs", "bqueues", "bhosts", "lshosts")
    folder = install(tmp_path / "lsf", {k: v for name in names for k, v in recorded(f"{name}.txt").items()})
    for file in folder.iterdir():
        machine.put(
            f"/opt/lsf/bin/{file.name}", file.read_text().replace(str(tmp_path / "lsf"), "/opt/lsf"), 0o755
        )
    for file in (tmp_path / "lsf").glob("*.*"):
        machine.put(f"/opt/lsf/{file.name}", file.read_text())
    machine.put(
        "/etc/kiosk/scheduler.toml",
        'tick = "1 s"\n[batch]\nsystem = "lsf"\ncommands = "/opt/lsf/bin"\n'
        '[types.worker]\nimage = "worker"\nflavour = "c2"\nmaximum = 4\n',
    )
    machine.put(
        "/etc/systemd/system/kiosk-scheduler.service.d/soon.conf",
        "[Service]\nRestartSec=1\nExecStart=\n"
        f"ExecStart=/bin/sh -c '{QEMU} & exec /usr/bin/kiosk scheduler run'\n",
    )
    said = machine.run(
        WAIT.partition("systemctl start")[0]
        + """
told=/var/lib/kiosk/scheduler/status.json
ticked() { until_ "test $told -nt /mnt/since"; }
touch /mnt/since; systemctl start kiosk-scheduler; ticked
kiosk scheduler status; kiosk scheduler explain
kiosk scheduler run --once && exit 8 || test $? = 4
systemctl kill -s KILL --kill-whom=main kiosk-scheduler
until_ 'test "$(systemctl show -P NRestarts kiosk-scheduler)" = 1'
touch /mnt/since; ticked
systemctl stop kiosk-scheduler
test "$(systemctl show -P Result kiosk-scheduler)" = success
tr '\\0' ' ' </proc/$(cat /var/lib/kiosk/qemu.pid)/cmdline | grep qemu-system
grep kiosk_scheduler_target /var/lib/kiosk/scheduler/metrics.prom
journalctl --no-pager -o cat -u kiosk-scheduler >/mnt/words
"""
    )
    words = (machine.out / "words").read_text()
    assert "nodes' worth of jobs wait" in said and 'kiosk_scheduler_target{type="worker"}' in said
    assert "Traceback" not in words and "not permitted" not in words.lower()
    assert "is unknown" not in words, words
