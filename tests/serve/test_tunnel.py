"""A push over ssh through a real sshd: a hypervisor that may not connect out reads the kiosk, verified."""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiosk.run import tool
from tests.serve.test_push import kiosk_says
from tests.simulators import ssh_keys
from tests.simulators.published import ready, without_fsync

__all__ = ["without_fsync"]


@contextlib.contextmanager
def sshd(folder: Path, home: Path, *options: str) -> Iterator[Path]:
    """A hypervisor's sshd on loopback whose kiosk keeps its things in `home`; gives ssh's configuration file."""
    folder.mkdir()
    port = ssh_keys.make(folder)
    (folder / "ssh_config").write_text(
        f"Host hv-1\n HostName 127.0.0.1\n Port {port}\n User root\n IdentityFile {folder}/user\n"
        f" IdentitiesOnly yes\n UserKnownHostsFile {folder}/known_hosts\n"
    )
    (folder / "sshd_config").write_text(
        "\n".join(
            [
                *options,
                f"Port {port}",
                "ListenAddress 127.0.0.1",
                f"HostKey {folder}/host",
                "PidFile none",
                "UsePAM yes",
                f"AuthorizedKeysFile {folder}/user.pub",
                "StrictModes no",
                "PermitRootLogin yes",
                f"SetEnv KIOSK_HOME={home}",
            ]
        )
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    process = subprocess.Popen(
        [tool("sshd"), "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
                break
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        yield folder / "ssh_config"
    finally:
        process.terminate()
        process.wait()


REMOTE = f"{shlex.quote(sys.executable)} -m kiosk"


def test_a_hypervisor_fetches_and_verifies_through_the_connection(tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    host = tmp_path / "hypervisor"
    host.mkdir()
    (host / "kiosk.toml").write_text(f'root = "{kiosk.root}"\n')
    remote = f"{REMOTE} --config {host}/kiosk.toml"
    with sshd(tmp_path / "ssh", host) as config:
        words = ["push", "--ssh", "hv-1", "--ssh-config", str(config), "--remote", remote, "--json", "worker"]
        done = kiosk_says(kiosk.settings, *words)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["sent"] > 1_000_000
        assert said["hosts"][0]["results"][0]["state"] == "fetched"
        assert (host / "host/images/worker").exists() or list(host.rglob("disk.raw"))
        again = json.loads(kiosk_says(kiosk.settings, *words).stdout)
        assert (again["sent"], again["hosts"][0]["results"][0]["state"]) == (0, "current")
        kiosk.image(version="2")
        for objects in (kiosk.settings.repository / "objects").rglob("*"):
            if objects.is_file():
                objects.write_bytes(b"x" * objects.stat().st_size)
        bad = kiosk_says(kiosk.settings, *words)
        assert bad.returncode == 1
        assert "status 5" in json.loads(bad.stdout)["hosts"][0]["error"], "it did not verify"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["AllowTcpForwarding no"], "allow TCP forwarding"),
        (["ForceCommand printf '\\033[31mno\\007'; exit 3"], "status 3"),
        (["ForceCommand echo '{\"results\": 7}'"], "something else than it should"),
        (["ForceCommand head -c 9000000 /dev/zero"], "printed more than"),
        (["AuthorizedKeysFile none"], "ssh failed"),
    ],
    ids=["no forwarding", "it fails", "it lies", "it never ends", "no key"],
)
def test_what_goes_wrong_over_there_is_said(options: list[str], said: str, tmp_path: Path) -> None:
    kiosk = ready(tmp_path)
    with sshd(tmp_path / "ssh", tmp_path / "hv", *options) as config:
        done = kiosk_says(kiosk.settings, "push", "--ssh", "hv-1", "--ssh-config", str(config), "worker")
    assert done.returncode == 1
    assert said in " ".join(done.stdout.split())
    assert "\x1b" not in done.stdout
    assert "1 of 1 hosts failed: hv-1" in done.stderr
