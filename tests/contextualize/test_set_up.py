"""The machine's own set-up: address, time, who may log in, what hooks do, scratch and swap."""

from __future__ import annotations

import os
import select
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contextualize.context import Network
from contextualize.machine import Machine
from contextualize.stages import hooks, network
from tests.contextualize.guest import Guest

Squashfs = Callable[[dict[str, str]], bytes]
KEY = f"ssh-ed25519 {'A' * 68} admin@example.org"
STATIC = {"address": "192.0.2.7/24", "gateway": "192.0.2.1", "dns": ["192.0.2.53"], "search": ["example.org"]}


@pytest.fixture
def allow(guest: Guest, squashfs: Squashfs) -> Callable[..., Guest]:
    """Gives the guest a site layer that allows something."""

    def give(*switches: str) -> Guest:
        guest.add_layer("site/example/base", squashfs({"bin/": ""}), {"allows": list(switches)})
        return guest

    return give


# -- network and time -------------------------------------------------------------------------------------


def interfaces(guest: Guest, *addresses: str) -> Guest:
    guest.write("/usr/lib/systemd/systemd-networkd", b"")
    for number, address in enumerate(addresses):
        guest.write(f"/sys/class/net/eth{number}/address", f"{address}\n".encode())
        guest.write(f"/sys/class/net/eth{number}/type", b"1\n")
        guest.write(f"/sys/class/net/eth{number}/device/vendor", b"")
    guest.write("/sys/class/net/lo/type", b"772\n")
    return guest


def test_with_dhcp_nothing_is_done_and_nothing_is_waited_for(guest: Guest) -> None:
    assert guest.boot() == 0
    assert not guest.machine.exists(network.NETWORK)
    assert not [words for words in guest.machine.asked if "systemd-networkd.service" in words]


def test_a_static_address_is_for_the_only_interface(guest: Guest) -> None:
    guest.context["network"] = STATIC
    assert interfaces(guest, "52:54:00:00:00:01").boot() == 0
    text = guest.text(network.NETWORK).splitlines()
    assert text[:2] == ["[Match]", "MACAddress=52:54:00:00:00:01"]
    wanted = {"Address=192.0.2.7/24", "DNS=192.0.2.53", "Domains=example.org", "Gateway=192.0.2.1", "DHCP=no"}
    assert wanted <= set(text) and "GatewayOnLink=yes" not in text
    assert ("systemctl", "--no-block", "try-restart", "systemd-networkd.service") in guest.machine.asked


def test_among_several_interfaces_the_context_says_which(guest: Guest) -> None:
    interfaces(guest, "52:54:00:00:00:01", "52:54:00:00:00:02")
    guest.context["network"] = STATIC
    assert guest.boot() == 1
    assert guest.refused().startswith("network: network: there are 2 Ethernet interfaces")


def test_an_interface_that_never_comes_ends_the_machine(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "PATIENCE", 0.2)
    guest.context["network"] = STATIC
    assert interfaces(guest).boot() == 1
    assert guest.refused().startswith("network: network: there are 0 Ethernet interfaces")


def test_the_interface_that_the_context_names(guest: Guest) -> None:
    interfaces(guest, "52:54:00:00:00:01", "52:54:00:00:00:02")
    guest.context["network"] = {**STATIC, "mac": "52:54:00:00:00:02"}
    assert guest.boot() == 0
    assert "MACAddress=52:54:00:00:00:02" in guest.text(network.NETWORK)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"address": "192.0.2.700/24"}, "does not appear to be"),
        ({"address": "192.0.2.7/33"}, "does not appear to be"),
        ({"gateway": "fe80::1"}, "is not of the family"),
        ({"dns": ["1.2.3"]}, "does not appear to be"),
    ],
)
def test_an_address_that_is_none_ends_the_machine(
    guest: Guest, change: dict[str, Any], expected: str
) -> None:
    guest.context["network"] = {**STATIC, **change}
    assert interfaces(guest, "52:54:00:00:00:01").boot() == 1
    assert expected in guest.refused()


def test_a_gateway_outside_the_network_is_on_the_link() -> None:
    text = network.configuration(Network("2001:db8::7/128", "2001:db8:1::1"), "52:54:00:00:00:01")
    assert "GatewayOnLink=yes" in text and "IPv6AcceptRA=no" in text
    assert "GatewayOnLink" not in network.configuration(
        Network("2001:db8::7/64", "fe80::1"), "52:54:00:00:00:01"
    )


def test_time_comes_from_the_sites_servers(guest: Guest) -> None:
    guest.context["time_servers"] = ["ntp1.example.org", "ntp2.example.org"]
    guest.write("/usr/lib/systemd/systemd-timesyncd", b"")
    assert guest.boot() == 0
    assert guest.text(network.TIME) == "[Time]\nNTP=ntp1.example.org ntp2.example.org\nFallbackNTP=\n"
    assert ("systemctl", "--no-block", "restart", "systemd-timesyncd.service") in guest.machine.asked


def test_time_servers_are_not_asked_before_the_metadata_was_verified(guest: Guest) -> None:
    guest.context["time_servers"] = ["ntp1.example.org"]
    guest.write("/usr/lib/systemd/systemd-timesyncd", b"")
    guest.write("/proc/cmdline", f"roothash={'cd' * 32}".encode())
    assert guest.boot() == 1
    assert guest.refused().startswith("verify: ")
    assert guest.machine.asked == []


@pytest.mark.parametrize(("key", "value"), [("time_servers", ["ntp.example.org"]), ("network", STATIC)])
def test_what_the_image_can_not_do_ends_the_machine(guest: Guest, key: str, value: object) -> None:
    guest.context[key] = value
    assert guest.boot() == 1
    assert "and this image has no systemd-" in guest.refused()


# -- the metadata service ---------------------------------------------------------------------------------

GUARD = """
import errno, os, socket, subprocess
from contextualize.guard import only_root
def tried(uid):
    if os.fork() == 0:
        os.setresuid(uid, uid, uid)
        with socket.socket() as s:
            s.setblocking(False)
            os._exit(s.connect_ex(("169.254.169.254", 80)))
    return os.waitstatus_to_exitcode(os.wait()[1])
assert tried(0) == tried(65534) == errno.EINPROGRESS
for _ in range(2):
    only_root("169.254.169.254")
    only_root("fd00:ec2::254")
    only_root("fe80::a9fe:a9fe")
assert tried(0) == errno.EINPROGRESS
assert tried(1) == tried(65534) == errno.EACCES
print(subprocess.check_output("ip rule; ip -6 rule", shell=True, text=True))
"""


def test_no_user_but_root_reaches_the_metadata_service() -> None:
    script = 'ip link set lo up && ip route add 169.254.0.0/16 dev lo && exec "$@"'
    argv = ["unshare", "--net", "sh", "-c", script, "sh", sys.executable, "-c", GUARD]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    if "unshare failed" in done.stderr:
        pytest.skip("network namespaces can't be used")
    assert done.returncode == 0, done.stderr
    for address in ("169.254.169.254", "fd00:ec2::254"):
        assert f"1:\tfrom all to {address} uidrange 1-4294967294 prohibit\n" in done.stdout


def test_every_machine_closes_the_metadata_service(guest: Guest) -> None:
    assert guest.boot() == 0
    assert guest.machine.closed == ["169.254.169.254", "fd00:ec2::254", "fe80::a9fe:a9fe"]


# -- who may log in ---------------------------------------------------------------------------------------


def test_root_may_log_in_where_the_site_allows_it(allow: Callable[..., Guest]) -> None:
    guest = allow("root-login")
    guest.context["root_keys"] = [KEY]
    guest.write("/usr/sbin/sshd", b"")
    guest.write("/root/.ssh/authorized_keys", b"the image's own\n")
    assert guest.boot() == 0
    assert guest.text("/root/.ssh/authorized_keys") == f"{KEY}\n"
    assert stat.S_IMODE((guest.root / "root/.ssh").stat().st_mode) == 0o700
    assert stat.S_IMODE((guest.root / "root/.ssh/authorized_keys").stat().st_mode) == 0o600


def test_without_an_ssh_server_nobody_could(allow: Callable[..., Guest]) -> None:
    guest = allow("root-login")
    guest.context["root_keys"] = [KEY]
    assert guest.boot() == 1
    assert guest.refused() == "access: the context has root_keys, and this image has no ssh server"


@pytest.mark.parametrize(
    ("key", "value", "switch"),
    [
        ("root_keys", [KEY], "root-login"),
        ("hooks", {"prolog": "touch $KIOSK_TEST"}, "hooks"),
        ("hooks", {"epilog": "touch $KIOSK_TEST"}, "hooks"),
        ("user_data", "#!/bin/sh\n", "user-data"),
    ],
)
def test_what_no_site_layer_allows_ends_the_machine(
    allow: Callable[..., Guest], key: str, value: object, switch: str
) -> None:
    guest = allow(*({"root-login", "hooks", "user-data"} - {switch}))
    guest.context[key] = value
    assert guest.boot() == 1
    assert guest.refused().endswith(f"and no site layer of this machine allows {switch}")


# -- hooks ------------------------------------------------------------------------------------------------


def test_hooks_run_as_root_before_the_attestation_and_after_it(
    allow: Callable[..., Guest], capfd: pytest.CaptureFixture[str]
) -> None:
    guest = allow("hooks", "user-data")
    look = 'echo "$1 $KIOSK_NODE_NAME $(id -u) $(ls run/kiosk/attestation.json 2>/dev/null)"'
    guest.context["hooks"] = {
        "prolog": f"set prolog\n{look}\n",
        "epilog": f"#!/bin/bash -e\nset epilog\n{look}\n",
    }
    guest.context["user_data"] = f"#! /bin/sh\nset data\n{look}"
    assert guest.boot() == 0
    said = [line for line in capfd.readouterr().out.splitlines() if "node-7" in line]
    name = "node-7.example.org 0"
    assert said == [
        f"prolog: prolog {name}",
        f"user-data: data {name}",
        f"epilog: epilog {name} run/kiosk/attestation.json",
    ]
    assert list((guest.root / "run/kiosk/private/hooks").iterdir()) == []


def test_a_hook_that_fails_ends_the_machine_and_its_last_line_says_why(allow: Callable[..., Guest]) -> None:
    guest = allow("hooks")
    guest.context["hooks"] = {"prolog": "echo first; echo 'no such farm' >&2; exit 3"}
    assert guest.boot() == 1
    assert guest.refused() == "hooks: prolog: ended with status 3: no such farm"


def test_a_hook_that_hangs_is_ended_with_all_that_it_started(
    allow: Callable[..., Guest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hooks, "LIMIT", 0.3)
    guest = allow("hooks")
    guest.context["hooks"] = {"prolog": f"sleep 987 & echo $! >{tmp_path}/pid; sleep 987"}
    assert guest.boot() == 1
    assert guest.refused() == "hooks: prolog: was not done after 0 s"
    assert ended(int((tmp_path / "pid").read_text()))


def ended(pid: int) -> bool:
    """Whether a process that was killed is gone, or will be in a moment."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], 10)[0])
    finally:
        os.close(fd)


def test_what_a_hook_leaves_running_does_not_hold_the_boot_up(
    allow: Callable[..., Guest], tmp_path: Path
) -> None:
    guest = allow("hooks")
    guest.context["hooks"] = {"prolog": f"sleep 987 & echo $! >{tmp_path}/pid; exit 0"}
    assert guest.boot() == 0
    os.kill(int((tmp_path / "pid").read_text()), 9)


def test_a_hook_may_say_much(allow: Callable[..., Guest], capfd: pytest.CaptureFixture[str]) -> None:
    guest = allow("hooks")
    guest.context["hooks"] = {
        "prolog": "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; printf end"
    }
    assert guest.boot() == 0
    said = [line for line in capfd.readouterr().out.splitlines() if line.startswith("prolog: ")]
    assert len(said) == 20001 and said[-2:] == ["prolog: line 19999", "prolog: end"]


def test_user_data_that_only_cloud_init_understands_is_refused_without_it(
    allow: Callable[..., Guest],
) -> None:
    guest = allow("user-data", "hooks")
    guest.context["user_data"] = "#cloud-config\nusers: []\n"
    guest.context["hooks"] = {"prolog": "exit 9"}
    assert guest.boot() == 1
    assert guest.refused() == (
        "hooks: user_data begins with '#cloud-config': without cloud-init in the image it can only be a script (#!...)"
    )


def test_cloud_init_gets_the_user_data_and_no_other_source(
    allow: Callable[..., Guest], tmp_path: Path
) -> None:
    guest = allow("user-data")
    program = tmp_path / "cloud-init"
    program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/steps\ncat var/lib/cloud/seed/nocloud/*\n')
    program.chmod(0o755)
    guest.write(hooks.CLOUD_INIT, b"")
    guest.context["user_data"] = "#cloud-config\nusers: []\n"
    run_told = guest.machine.run_told
    guest.machine.run_told = (  # type: ignore[method-assign]
        lambda argv, *rest: run_told([str(program), *argv[1:]], *rest)
    )
    assert guest.boot() == 0
    steps = (tmp_path / "steps").read_text().splitlines()
    assert steps == ["init --local", "init", "modules --mode=config", "modules --mode=final"]
    assert guest.text(f"{hooks.SEED}/user-data") == "#cloud-config\nusers: []\n"
    assert "local-hostname: node-7.example.org" in guest.text(f"{hooks.SEED}/meta-data")
    assert "datasource_list: [NoCloud]" in guest.text(hooks.ONLY_SEED)


# -- scratch and swap -------------------------------------------------------------------------------------


def scratch(guest: Guest, size: int, **more: int) -> Guest:
    guest.context["scratch"] = {"device": "scratch", "mount": "/scratch", **more}
    disk = guest.root / "dev/disk/by-id/virtio-scratch"
    disk.parent.mkdir(parents=True, exist_ok=True)
    with disk.open("wb") as f:
        f.truncate(size)
    return guest


def test_swap_is_a_file_of_root_on_the_scratch_disk(guest: Guest) -> None:
    assert scratch(guest, 64 << 20, swap=8).boot() == 0
    file = guest.root / "scratch/.kiosk-swap"
    assert (file.stat().st_size, stat.S_IMODE(file.stat().st_mode)) == (8 << 20, 0o600)
    assert file.read_bytes()[4086:4096] == b"SWAPSPACE2"
    assert ("swapon", str(file)) in guest.machine.asked
    kind, options = guest.machine.mounts["/scratch"]
    assert (kind, options) == ("ext4", "rw,nosuid,nodev,noatime")


def test_the_swap_file_of_another_life_is_made_anew(guest: Guest) -> None:
    scratch(guest, 64 << 20, swap=1)
    mount = guest.machine.mount

    guest.machine.mount = lambda *words: mount(*words) or _old(guest, words[2])  # type: ignore[method-assign]
    assert guest.boot() == 0
    assert (guest.root / "scratch/.kiosk-swap").stat().st_size == 1 << 20


def _old(guest: Guest, kind: str) -> None:
    if kind == "ext4":
        (guest.root / "scratch/.kiosk-swap").write_bytes(b"a job's memory" * 200_000)


def test_processes_are_counted_by_their_name(tmp_path: Path) -> None:
    name = f"k{os.getpid():014d}"
    program = tmp_path / name
    program.symlink_to("/bin/sleep")
    assert Machine().processes(name) == 0
    with subprocess.Popen([program, "60"]) as one, subprocess.Popen([program, "60"]) as other:
        try:
            for started in (one, other):  # the kernel names a process a moment after Popen has returned
                until = time.monotonic() + 20
                comm = Path(f"/proc/{started.pid}/comm")
                while comm.read_text().strip() != name and time.monotonic() < until:
                    time.sleep(0.01)
            assert Machine().processes(name) == 2
        finally:
            one.kill()
            other.kill()
